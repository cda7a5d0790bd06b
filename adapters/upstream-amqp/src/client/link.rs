//! One link: its phase, its credit, what waits on it.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::{Fields, Handle, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Source, Target, TargetArchetype};
use fe2o3_amqp_types::performatives::Transfer as Incoming;
use fe2o3_amqp_types::performatives::{Attach, Flow};

use super::error::ClientError;

/// The largest message that is taken, in bytes. What a hub sends is 64 KiB, twins are 32 KiB.
const LARGEST_MESSAGE: usize = 1 << 20;

/// A link to be opened.
#[derive(Debug, Clone)]
pub(crate) struct LinkSpec {
    /// Unique on its session.
    pub(crate) name: String,
    /// The hub's end.
    pub(crate) address: String,
    /// Whether what goes over it is settled as it is sent.
    pub(crate) settled: bool,
    pub(crate) properties: Fields,
}

impl LinkSpec {
    pub(super) fn attach(self, handle: u32, role: Role) -> Attach {
        let target = Target::builder().address(self.address.as_str()).build();
        Attach {
            name: self.name,
            handle: Handle(handle),
            initial_delivery_count: (role == Role::Sender).then_some(0),
            role,
            snd_settle_mode: match self.settled {
                true => SenderSettleMode::Settled,
                false => SenderSettleMode::Unsettled,
            },
            rcv_settle_mode: ReceiverSettleMode::First,
            source: Some(Box::new(Source::builder().address(self.address).build())),
            target: Some(Box::new(TargetArchetype::Target(target))),
            unsettled: None,
            incomplete_unsettled: false,
            max_message_size: None,
            offered_capabilities: None,
            desired_capabilities: None,
            properties: (!self.properties.is_empty()).then_some(self.properties),
        }
    }
}

/// How far a link has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The hub has not answered, or has refused and will say why.
    Attaching,
    Attached,
    /// We detached it; the hub has not confirmed.
    Detaching,
    /// Both sides have detached it, and somebody still holds it.
    Ended,
}

/// A message as it came: its sections, encoded.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) id: u32,
    pub(crate) settled: bool,
    pub(crate) payload: Bytes,
}

/// What a link is for.
#[derive(Debug)]
pub(super) enum Kind {
    Sender(Credit),
    Receiver(Box<Inbox>),
}

/// What a sender may send.
#[derive(Debug, Default)]
pub(super) struct Credit {
    pub(super) left: u32,
    pub(super) delivery_count: u32,
}

impl Credit {
    /// Takes the hub's word (section 2.6.7).
    pub(super) fn grant(&mut self, flow: &Flow) {
        if let Some(credit) = flow.link_credit {
            let limit = flow.delivery_count.unwrap_or(0).wrapping_add(credit);
            let left = limit.wrapping_sub(self.delivery_count);
            // More was sent than the hub grants now: nothing is left, not four billion.
            self.left = if left > u32::MAX / 2 { 0 } else { left };
        }
        if flow.drain {
            self.delivery_count = self.delivery_count.wrapping_add(self.left);
            self.left = 0;
        }
    }

    pub(super) fn spend(&mut self) {
        self.left -= 1;
        self.delivery_count = self.delivery_count.wrapping_add(1);
    }
}

/// What a receiver has, and may still be sent.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Messages that may be on their way, waiting or unsettled.
    target: u32,
    /// Messages that the hub may still send.
    credit: u32,
    /// Messages here that are not settled yet.
    open: u32,
    delivery_count: u32,
    pub(super) queue: VecDeque<Delivery>,
    /// A message that has not come whole.
    partial: Option<(u32, bool, BytesMut)>,
    stopping: Option<Stopping>,
}

/// How far the hub is told that it may send no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    /// It may not have heard of it.
    Told,
    /// It has: nothing more comes.
    Confirmed,
}

impl Inbox {
    pub(super) fn new(target: u32) -> Self {
        Self {
            target: target.max(1),
            credit: 0,
            open: 0,
            delivery_count: 0,
            queue: VecDeque::new(),
            partial: None,
            stopping: None,
        }
    }

    pub(super) fn begin(&mut self, initial_delivery_count: u32) {
        self.delivery_count = initial_delivery_count;
    }

    /// Takes a transfer. True if a message is whole now.
    pub(super) fn take(&mut self, transfer: Incoming, payload: Bytes) -> Result<bool, ClientError> {
        if transfer.aborted {
            if self.partial.take().is_some() {
                self.open = self.open.saturating_sub(1);
            }
            return Ok(false);
        }
        let settled = transfer.settled.unwrap_or(false);
        let whole = match self.partial.take() {
            None => {
                let id = transfer.delivery_id;
                let id = id.ok_or(ClientError::Malformed("a delivery without a number"))?;
                if self.credit == 0 {
                    return Err(ClientError::Malformed("a message beyond the link's credit"));
                }
                self.credit -= 1;
                self.open += 1;
                self.delivery_count = self.delivery_count.wrapping_add(1);
                if transfer.more {
                    self.partial = Some((id, settled, BytesMut::from(&payload[..])));
                    return Ok(false);
                }
                Delivery {
                    id,
                    settled,
                    payload,
                }
            }
            Some((id, was_settled, mut gathered)) => {
                if gathered.len() + payload.len() > LARGEST_MESSAGE {
                    return Err(ClientError::Malformed(
                        "a message larger than any hub sends",
                    ));
                }
                gathered.extend_from_slice(&payload);
                let settled = settled || was_settled;
                if transfer.more {
                    self.partial = Some((id, settled, gathered));
                    return Ok(false);
                }
                Delivery {
                    id,
                    settled,
                    payload: gathered.freeze(),
                }
            }
        };
        self.queue.push_back(whole);
        Ok(true)
    }

    /// Notes that a message is done with.
    pub(super) fn done(&mut self) {
        self.open = self.open.saturating_sub(1);
    }

    /// Grants nothing more. What the hub sends before it hears of that is taken.
    pub(super) fn stop(&mut self) {
        self.stopping.get_or_insert(Stopping::Told);
    }

    /// Takes note of a word of the hub about this link: behind what it sent before.
    pub(super) fn on_flow(&mut self) {
        if self.stopping.is_some() {
            self.stopping = Some(Stopping::Confirmed);
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopping == Some(Stopping::Confirmed)
    }

    /// What the hub is to be told: deliveries so far, and the credit from there.
    pub(super) fn standing(&self) -> (u32, u32) {
        match self.stopping {
            None => (self.delivery_count, self.credit),
            Some(_) => (self.delivery_count, 0),
        }
    }

    /// The credit to tell the hub, once enough of it has been used.
    pub(super) fn top_up(&mut self) -> Option<(u32, u32)> {
        if self.stopping.is_some() {
            return None;
        }
        let wanted = self.target.saturating_sub(self.open);
        if wanted.saturating_sub(self.credit) < self.target.div_ceil(2) {
            return None;
        }
        self.credit = wanted;
        Some((self.delivery_count, wanted))
    }
}

#[derive(Debug)]
pub(super) struct Link {
    /// Differs for every link of a session, handles being used again.
    pub(super) serial: u32,
    pub(super) phase: Phase,
    pub(super) kind: Kind,
    /// The hub's handle.
    pub(super) remote: Option<u32>,
    /// Why it is of no more use.
    pub(super) end: Option<Box<ClientError>>,
    /// Nobody holds it any more.
    pub(super) is_dropped: bool,
    pub(super) waker: Option<Waker>,
}

impl Link {
    pub(super) fn role(&self) -> Role {
        match self.kind {
            Kind::Sender(_) => Role::Sender,
            Kind::Receiver(_) => Role::Receiver,
        }
    }

    pub(super) fn end_error(&self) -> Option<ClientError> {
        self.end.as_deref().cloned()
    }
}
