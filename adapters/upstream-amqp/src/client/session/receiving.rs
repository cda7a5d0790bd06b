//! What comes on a session, and what is said of it.

use std::task::Waker;

use fe2o3_amqp_types::definitions::{Error as WireError, Handle, LinkError, Role};
use fe2o3_amqp_types::messaging::{Accepted, DeliveryState, Rejected, Released};
use fe2o3_amqp_types::performatives::{Disposition, Flow, Transfer as Incoming};

use super::links::detach;
use super::{LinkId, Session, WINDOW};
use crate::client::error::ClientError;
use crate::client::link::{Delivery, Kind, Phase};
use crate::client::outbox::{Outbox, Wakers};

/// What we say of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Reject,
    Release,
}

impl Session {
    /// Takes a message. One that came settled gives its credit back now, or when it is `done`.
    pub(in crate::client) fn poll_received(
        &mut self,
        id: LinkId,
        keeps_credit: bool,
        out: &mut Outbox,
        waker: &Waker,
    ) -> Option<Result<Delivery, ClientError>> {
        let link = match self.link(id) {
            Ok(link) => link,
            Err(error) => return Some(Err(error)),
        };
        let Kind::Receiver(inbox) = &mut link.kind else {
            return Some(Err(ClientError::Malformed("a sender does not receive")));
        };
        if let Some(delivery) = inbox.queue.pop_front() {
            if delivery.settled && !keeps_credit {
                inbox.done();
                self.top_up(id.handle, out);
            }
            return Some(Ok(delivery));
        }
        if let Some(error) = link.end_error() {
            return Some(Err(error));
        }
        link.waker = Some(waker.clone());
        None
    }

    /// Gives back the credit of a message that came settled.
    pub(in crate::client) fn done(&mut self, id: LinkId, out: &mut Outbox) {
        if let Ok(link) = self.link(id)
            && let Kind::Receiver(inbox) = &mut link.kind
        {
            inbox.done();
            self.top_up(id.handle, out);
        }
    }

    /// Tells the hub to send nothing more, and to say when it has heard that.
    pub(in crate::client) fn stop(&mut self, id: LinkId, out: &mut Outbox) {
        if let Ok(link) = self.link(id)
            && link.phase == Phase::Attached
            && let Kind::Receiver(inbox) = &mut link.kind
        {
            inbox.stop();
            let (delivery_count, credit) = inbox.standing();
            let flow = Flow {
                handle: Some(Handle(id.handle)),
                delivery_count: Some(delivery_count),
                link_credit: Some(credit),
                echo: true,
                ..self.window_flow()
            };
            out.put(self.channel, &flow);
        }
    }

    pub(in crate::client) fn poll_stopped(
        &mut self,
        id: LinkId,
        waker: &Waker,
    ) -> Option<Result<(), ClientError>> {
        let link = match self.link(id) {
            Ok(link) => link,
            Err(error) => return Some(Err(error)),
        };
        match (link.end_error(), &link.kind) {
            (Some(error), _) => Some(Err(error)),
            (None, Kind::Receiver(inbox)) if inbox.is_stopped() => Some(Ok(())),
            _ => {
                link.waker = Some(waker.clone());
                None
            }
        }
    }

    /// Tells the hub what became of a message.
    pub(in crate::client) fn settle(
        &mut self,
        id: LinkId,
        delivery: u32,
        verdict: Verdict,
        out: &mut Outbox,
    ) -> Result<(), ClientError> {
        let channel = self.channel;
        let link = self.link(id)?;
        if let Some(error) = link.end_error() {
            return Err(error);
        }
        if let Kind::Receiver(inbox) = &mut link.kind {
            inbox.done();
        }
        let state = match verdict {
            Verdict::Accept => DeliveryState::Accepted(Accepted {}),
            Verdict::Reject => DeliveryState::Rejected(Rejected { error: None }),
            Verdict::Release => DeliveryState::Released(Released {}),
        };
        let disposition = Disposition {
            role: Role::Receiver,
            first: delivery,
            last: None,
            settled: true,
            state: Some(state),
            batchable: false,
        };
        out.put(channel, &disposition);
        self.top_up(id.handle, out);
        Ok(())
    }

    pub(in crate::client) fn on_transfer(
        &mut self,
        transfer: Incoming,
        payload: &[u8],
        out: &mut Outbox,
        wake: &mut Wakers,
    ) {
        self.next_incoming = self.next_incoming.wrapping_add(1);
        self.incoming_window = self.incoming_window.saturating_sub(1);
        if self.incoming_window < WINDOW / 2 {
            self.incoming_window = WINDOW;
            out.put(self.channel, &self.flow_of(None));
        }
        let Some(&handle) = self.by_remote.get(&transfer.handle.0) else {
            return;
        };
        let channel = self.channel;
        let Some(Some(link)) = self.links.get_mut(handle as usize) else {
            return;
        };
        // What comes for a link that is being detached goes back to the hub's queue with it.
        let (Kind::Receiver(inbox), Phase::Attached) = (&mut link.kind, link.phase) else {
            return;
        };
        match inbox.take(transfer, payload) {
            Ok(is_whole) => {
                if is_whole {
                    wake.add(link.waker.take());
                }
                // What was taken back leaves room for more; what came may have been the last there was
                // credit for.
                self.top_up(handle, out);
            }
            Err(error) => {
                tracing::warn!(error = %error, "A link of the hub is closed");
                link.phase = Phase::Detaching;
                let condition = WireError::from(LinkError::TransferLimitExceeded);
                out.put(channel, &detach(handle, Some(condition)));
                self.fail_link(handle, &error, wake);
            }
        }
    }

    /// Tells the hub of new credit, once there is enough of it.
    pub(super) fn top_up(&mut self, handle: u32, out: &mut Outbox) {
        if let Some(Some(link)) = self.links.get_mut(handle as usize)
            && link.phase == Phase::Attached
            && let Kind::Receiver(inbox) = &mut link.kind
            && let Some((delivery_count, credit)) = inbox.top_up()
        {
            let flow = Flow {
                handle: Some(Handle(handle)),
                delivery_count: Some(delivery_count),
                link_credit: Some(credit),
                ..self.window_flow()
            };
            out.put(self.channel, &flow);
        }
    }
}
