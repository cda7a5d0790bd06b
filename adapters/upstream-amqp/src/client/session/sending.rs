//! What is sent on a session, and what the hub says of it.

use std::collections::hash_map::Entry;
use std::task::Waker;

use fe2o3_amqp_types::definitions::{Error as WireError, Role};
use fe2o3_amqp_types::messaging::DeliveryState;
use fe2o3_amqp_types::performatives::Disposition;

use super::{LinkId, Pending, Session};
use crate::client::error::ClientError;
use crate::client::frame::Transfer;
use crate::client::link::{Kind, Piece};
use crate::client::outbox::{Outbox, Wakers};

/// What the hub said of a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Accepted,
    Rejected(Option<WireError>),
    /// Not taken, and may be sent again.
    Released,
}

impl Session {
    /// Sends as much of a message as goes; its number, once that is all of it.
    ///
    /// `begun` says whether what has been sent so far is of this message. Else its sender gave it up,
    /// and it is taken back first.
    pub(in crate::client) fn send(
        &mut self,
        id: LinkId,
        begun: &mut bool,
        (payload, format, settled): (&[u8], u32, bool),
        out: &mut Outbox,
        waker: &Waker,
    ) -> Result<Option<u32>, ClientError> {
        loop {
            let next_delivery = self.next_delivery;
            let may_send = self.window > 0 && out.has_room();
            let link = self.link(id)?;
            if let Some(error) = link.end_error() {
                return Err(error);
            }
            let Kind::Sender(outgoing) = &mut link.kind else {
                return Err(ClientError::Malformed("a receiver does not send"));
            };
            let may_begin = outgoing.partial.is_some() || outgoing.credit > 0;
            if !may_begin || !may_send {
                link.waker = Some(waker.clone());
                if may_begin && !link.is_blocked {
                    link.is_blocked = true;
                    self.blocked.push(id.handle);
                }
                return Ok(None);
            }
            if let Some(given_up) = outgoing.partial.take_if(|_| !*begun) {
                self.pending.remove(&given_up.delivery);
                self.put_transfer(id.handle, Transfer::Aborted, &[], out);
                continue;
            }
            let piece = outgoing.next_piece(next_delivery, payload.len(), out.largest_piece());
            let Piece { delivery, more, .. } = piece;
            let is_first = piece.bytes.start == 0;
            let transfer = match is_first {
                true => Transfer::First {
                    delivery,
                    format,
                    settled,
                    more,
                },
                false => Transfer::Next { more },
            };
            self.put_transfer(id.handle, transfer, &payload[piece.bytes], out);
            if is_first {
                *begun = true;
                self.next_delivery = next_delivery.wrapping_add(1);
            }
            if is_first && !settled {
                let (handle, waker) = (id.handle, None);
                let waiting = Pending::Waiting { handle, waker };
                self.pending.insert(delivery, waiting);
            }
            if !more {
                return Ok(Some(delivery));
            }
        }
    }

    fn put_transfer(&mut self, handle: u32, transfer: Transfer, piece: &[u8], out: &mut Outbox) {
        out.put_transfer(self.channel, handle, transfer, piece);
        self.next_outgoing = self.next_outgoing.wrapping_add(1);
        self.window -= 1;
    }

    pub(in crate::client) fn poll_settled(
        &mut self,
        delivery: u32,
        waker: &Waker,
    ) -> Option<Result<Outcome, ClientError>> {
        let Entry::Occupied(mut pending) = self.pending.entry(delivery) else {
            return Some(Err(ClientError::Down));
        };
        if let Pending::Waiting { waker: slot, .. } = pending.get_mut() {
            *slot = Some(waker.clone());
            return None;
        }
        match pending.remove() {
            Pending::Done(result) => Some(result),
            Pending::Waiting { .. } => None,
        }
    }

    /// Forgets a delivery that nobody waits for.
    pub(in crate::client) fn forget(&mut self, delivery: u32) {
        self.pending.remove(&delivery);
    }

    pub(in crate::client) fn on_disposition(
        &mut self,
        disposition: Disposition,
        out: &mut Outbox,
        wake: &mut Wakers,
    ) -> Result<(), ClientError> {
        let Disposition {
            role,
            first,
            last,
            settled,
            state,
            ..
        } = disposition;
        // Role is who speaks: the receiver of what we sent.
        if role != Role::Receiver {
            return Ok(());
        }
        let outcome = match state {
            Some(DeliveryState::Accepted(_)) => Outcome::Accepted,
            Some(DeliveryState::Rejected(rejected)) => Outcome::Rejected(rejected.error),
            Some(DeliveryState::Received(_)) | None if !settled => return Ok(()),
            // Whatever else it is, the hub did not say that it took the message.
            _ => Outcome::Released,
        };
        let last = last.unwrap_or(first);
        if first == last {
            self.conclude(first, &outcome, wake);
        } else {
            let count = last.wrapping_sub(first);
            if count > u32::MAX / 2 {
                return Err(ClientError::Malformed("a range that ends before it begins"));
            }
            if (count as usize) < self.pending.len() {
                for step in 0..=count {
                    self.conclude(first.wrapping_add(step), &outcome, wake);
                }
            } else {
                let within = |id: &u32| id.wrapping_sub(first) <= count;
                let ids: Vec<_> = self.pending.keys().copied().filter(within).collect();
                ids.into_iter()
                    .for_each(|id| self.conclude(id, &outcome, wake));
            }
        }
        if !settled {
            // The hub waits for our word before it forgets (section 2.6.12).
            let confirmed = Disposition {
                role: Role::Sender,
                first,
                last: Some(last),
                settled: true,
                state: None,
                batchable: true,
            };
            out.put(self.channel, &confirmed);
        }
        Ok(())
    }

    fn conclude(&mut self, delivery: u32, outcome: &Outcome, wake: &mut Wakers) {
        if let Some(pending) = self.pending.get_mut(&delivery)
            && let Pending::Waiting { waker, .. } = pending
        {
            wake.add(waker.take());
            *pending = Pending::Done(Ok(outcome.clone()));
        }
    }
}
