//! What the peer sends on a session: transfers, what they carry, and their settlement.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;

use super::{Session, Slot};
use crate::amqp::codec::encode::{self, Outcome};
use crate::amqp::codec::performative::Transfer;
use crate::amqp::core::{Core, Settlement};
use crate::amqp::link::{Kind, Outgoing, PairKind, Partial};
use crate::amqp::{AmqpError, condition, endpoint, events};
use crate::faults::Settling;

impl Session {
    pub(in crate::amqp) fn on_transfer(
        &mut self,
        core: &mut Core,
        transfer: &Transfer<'_>,
    ) -> Result<(), AmqpError> {
        self.next_incoming_id = self.next_incoming_id.wrapping_add(1);
        self.incoming_window = self.incoming_window.checked_sub(1).ok_or_else(|| {
            AmqpError::new(
                condition::WINDOW_VIOLATION,
                "More transfers came than the window allows.",
            )
        })?;
        let Some(link) = self.known_link(transfer.handle)? else {
            return Ok(());
        };
        if link.kind.hub_sends() {
            return self.refuse(
                core,
                transfer.handle,
                condition::NOT_ALLOWED,
                "The hub sends on this link.",
            );
        }
        let Some(mut partial) = link.partial.take() else {
            return self.on_first_frame(core, transfer);
        };
        core.release(partial.payload.len());
        if transfer.aborted {
            self.top_up(core, transfer.handle);
            return Ok(());
        }
        if transfer
            .delivery_id
            .is_some_and(|id| id != partial.delivery_id)
        {
            let text = "A delivery started before the last one ended.";
            return self.refuse(core, transfer.handle, condition::ILLEGAL_STATE, text);
        }
        partial.payload.extend_from_slice(transfer.payload);
        partial.settled |= transfer.settled;
        if transfer.more {
            return self.keep_partial(core, transfer.handle, partial);
        }
        let Partial {
            delivery_id,
            format,
            settled,
            payload,
        } = *partial;
        self.deliver(
            core,
            transfer.handle,
            delivery_id,
            format,
            settled,
            &payload,
        );
        Ok(())
    }

    fn on_first_frame(
        &mut self,
        core: &mut Core,
        transfer: &Transfer<'_>,
    ) -> Result<(), AmqpError> {
        let handle = transfer.handle;
        let Some(link) = self.link(handle) else {
            return Ok(());
        };
        let Some(delivery_id) = transfer.delivery_id else {
            return self.refuse(
                core,
                handle,
                condition::INVALID_FIELD,
                "A delivery has no id.",
            );
        };
        let Some(credit) = link.credit.checked_sub(1) else {
            let text = "More deliveries came than the credit allows.";
            return self.refuse(core, handle, condition::TRANSFER_LIMIT, text);
        };
        link.credit = credit;
        link.delivery_count = link.delivery_count.wrapping_add(1);
        if transfer.aborted {
            self.top_up(core, handle);
        } else if transfer.more {
            let partial = Partial {
                delivery_id,
                format: transfer.message_format,
                settled: transfer.settled,
                payload: BytesMut::from(transfer.payload),
            };
            return self.keep_partial(core, handle, Box::new(partial));
        } else {
            let (format, settled) = (transfer.message_format, transfer.settled);
            self.deliver(core, handle, delivery_id, format, settled, transfer.payload);
        }
        Ok(())
    }

    fn keep_partial(
        &mut self,
        core: &mut Core,
        handle: u32,
        partial: Box<Partial>,
    ) -> Result<(), AmqpError> {
        let Some(link) = self.link(handle) else {
            return Ok(());
        };
        let limit = link.kind.terms().max_message_size.unwrap_or(0);
        if partial.payload.len() as u64 > limit {
            let text = "The message is larger than the link's max-message-size.";
            return self.refuse(core, handle, condition::SIZE_EXCEEDED, text);
        }
        core.hold(partial.payload.len());
        link.partial = Some(partial);
        Ok(())
    }

    /// A whole message has come.
    fn deliver(
        &mut self,
        core: &mut Core,
        handle: u32,
        id: u32,
        format: u32,
        settled: bool,
        message: &[u8],
    ) {
        let Some(link) = self.link(handle) else {
            return;
        };
        core.wait = Duration::ZERO;
        let outcome = match link.kind {
            Kind::Telemetry => endpoint::telemetry::accept(core, link, format, message),
            Kind::CbsRequests => match endpoint::cbs::answer(core, message).transpose() {
                Some(reply) => self.reply(core, (PairKind::Cbs, None), reply),
                None => Outcome::Accepted,
            },
            Kind::TwinRequests => {
                let Some(device) = link.device.clone() else {
                    return;
                };
                self.answer_twin(core, &device, message)
            }
            Kind::MethodAnswers => endpoint::methods::take_answer(core, link, message),
            Kind::ServiceC2d => endpoint::service::enqueue(core, message),
            Kind::ProvisioningRequests => {
                let reply = endpoint::provisioning::answer(core, message);
                self.reply(core, (PairKind::Provisioning, None), reply)
            }
            Kind::ManagementRequests => {
                let reply = events::management::answer(core, message);
                self.reply(core, (PairKind::Management, None), reply)
            }
            Kind::CbsReplies
            | Kind::C2d
            | Kind::MethodCalls
            | Kind::TwinReplies
            | Kind::Feedback
            | Kind::FileNotifications
            | Kind::Inputs
            | Kind::ProvisioningReplies
            | Kind::Events
            | Kind::ManagementReplies => return,
        };
        if settled {
            return self.top_up(core, handle);
        }
        let Some(link) = self.link(handle) else {
            return;
        };
        let (kind, serial) = (link.kind, link.serial);
        let settling = if kind == Kind::Telemetry {
            core.hub.script.settling()
        } else {
            Settling::Now
        }
        .no_sooner_than(core.wait);
        let settlement = |outcome| Settlement {
            handle,
            serial,
            delivery_id: id,
            outcome,
        };
        match settling {
            Settling::Now => {
                self.settle(core, id, outcome);
                self.top_up(core, handle);
            }
            Settling::Drop => link.held += 1,
            Settling::Hold => {
                link.held += 1;
                self.held.push(settlement(outcome));
            }
            Settling::After(delay) => {
                link.held += 1;
                core.delay(delay, self.channel, settlement(outcome));
            }
        }
    }

    fn reply(
        &mut self,
        core: &mut Core,
        pair: (PairKind, Option<Arc<str>>),
        reply: Result<Outgoing, AmqpError>,
    ) -> Outcome {
        match reply {
            Ok(message) => {
                if let Some(handle) = self.pairs.get(&pair).and_then(|pair| pair.outgoing) {
                    self.send(core, handle, message);
                }
                Outcome::Accepted
            }
            Err(error) => Outcome::Rejected(error),
        }
    }

    fn answer_twin(&mut self, core: &mut Core, device: &Arc<str>, message: &[u8]) -> Outcome {
        let pair = (PairKind::Twin, Some(Arc::clone(device)));
        let replies = self.pairs.get(&pair).and_then(|pair| pair.outgoing);
        let subscriber = replies.and_then(|handle| match self.slots.get(handle as usize) {
            Some(Slot::Open(link)) => Some(self.subscriber(core, handle, link)),
            _ => None,
        });
        let reply = endpoint::twin::answer(core, device, subscriber, message);
        self.reply(core, pair, reply)
    }

    /// Gives a link its credit back once half of it is used.
    fn top_up(&mut self, core: &mut Core, handle: u32) {
        let Some(link) = self.link(handle) else {
            return;
        };
        if link.credit + link.held <= link.full_credit / 2 {
            link.credit = link.full_credit.saturating_sub(link.held);
            self.send_flow(core, Some(handle));
        }
    }

    /// Settles a delivery of the peer; accepted ones gather into ranges.
    fn settle(&mut self, core: &mut Core, id: u32, outcome: Outcome) {
        if outcome == Outcome::Accepted {
            match &mut self.accepted {
                Some((_, last)) if id == last.wrapping_add(1) => *last = id,
                _ => {
                    self.flush_settled(core);
                    self.accepted = Some((id, id));
                }
            }
        } else {
            self.flush_settled(core);
            encode::disposition(&mut core.out, self.channel, true, id, id, &outcome);
        }
    }

    /// Writes the range of accepted deliveries that has gathered.
    pub(in crate::amqp) fn flush_settled(&mut self, core: &mut Core) {
        if let Some((first, last)) = self.accepted.take() {
            encode::disposition(
                &mut core.out,
                self.channel,
                true,
                first,
                last,
                &Outcome::Accepted,
            );
        }
    }

    /// Sends a settlement that was held back.
    pub(in crate::amqp) fn settle_late(&mut self, core: &mut Core, settlement: Settlement) {
        let Some(link) = self.link(settlement.handle) else {
            return;
        };
        if link.serial == settlement.serial {
            link.held = link.held.saturating_sub(1);
            self.settle(core, settlement.delivery_id, settlement.outcome);
            self.top_up(core, settlement.handle);
        }
    }

    pub(in crate::amqp) fn release_held(&mut self, core: &mut Core) {
        for settlement in std::mem::take(&mut self.held) {
            self.settle_late(core, settlement);
        }
    }
}
