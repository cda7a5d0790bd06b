//! One link: its phase, its credit, what waits on it.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::task::Waker;

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::{Fields, Handle, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Source, Target, TargetArchetype};
use fe2o3_amqp_types::performatives::{Attach, Flow, Transfer};

use super::error::ClientError;

/// The largest message that is taken, in bytes. What a hub sends is 64 KiB, twins are 32 KiB.
const LARGEST_MESSAGE: usize = 1 << 20;

/// Where our transfers, deliveries and deliveries of a link are counted from: in tests so that all of
/// them pass the last number soon.
pub(super) const FIRST: u32 = if cfg!(test) { u32::MAX - 5 } else { 0 };

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
            initial_delivery_count: (role == Role::Sender).then_some(FIRST),
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
pub(crate) struct Delivery {
    pub(crate) id: u32,
    pub(crate) settled: bool,
    pub(crate) payload: Bytes,
}

/// What it says stays out of sight.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id)
            .field("len", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// What a link is for.
#[derive(Debug)]
pub(super) enum Kind {
    Sender(Outgoing),
    Receiver(Box<Inbox>),
}

/// What a sender may send, and what it has begun to.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) credit: u32,
    pub(super) delivery_count: u32,
    pub(super) partial: Option<Partial>,
}

/// A message of which some frames have been sent.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) delivery: u32,
    offset: usize,
}

/// What one frame carries of a message.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) delivery: u32,
    pub(super) bytes: Range<usize>,
    /// Whether more frames of it follow.
    pub(super) more: bool,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            credit: 0,
            delivery_count: FIRST,
            partial: None,
        }
    }

    /// Takes the hub's word (section 2.6.7).
    pub(super) fn grant(&mut self, flow: &Flow) {
        if let Some(credit) = flow.link_credit {
            let seen = flow.delivery_count.unwrap_or(FIRST);
            self.credit = left(credit, seen, self.delivery_count);
        }
        if flow.drain {
            self.delivery_count = self.delivery_count.wrapping_add(self.credit);
            self.credit = 0;
        }
    }

    /// What the next frame carries of a message of this length: of the one that is begun, or of a
    /// new one of this number, which takes a credit.
    pub(super) fn next_piece(&mut self, number: u32, length: usize, most: usize) -> Piece {
        let Partial { delivery, offset } = self.partial.take().unwrap_or_else(|| {
            self.credit -= 1;
            self.delivery_count = self.delivery_count.wrapping_add(1);
            Partial {
                delivery: number,
                offset: 0,
            }
        });
        let end = length.min(offset + most);
        let more = end < length;
        self.partial = more.then_some(Partial {
            delivery,
            offset: end,
        });
        Piece {
            delivery,
            bytes: offset..end,
            more,
        }
    }
}

/// What is left of a window or credit, given when the hub had `seen` this much of what is `sent`.
/// If more is on its way than it gives now, that is nothing, and no debt.
pub(super) fn left(given: u32, seen: u32, sent: u32) -> u32 {
    given.saturating_sub(sent.wrapping_sub(seen))
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
    partial: Option<Arriving>,
    stopping: Option<Stopping>,
}

struct Arriving {
    id: u32,
    settled: bool,
    payload: BytesMut,
}

/// As of a [`Delivery`].
impl fmt::Debug for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arriving")
            .field("id", &self.id)
            .field("len", &self.payload.len())
            .finish_non_exhaustive()
    }
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
    pub(super) fn take(&mut self, transfer: Transfer, payload: &[u8]) -> Result<bool, ClientError> {
        let mut partial = match self.partial.take() {
            Some(partial) => partial,
            None => self.begin_message(&transfer)?,
        };
        if transfer.delivery_id.is_some_and(|id| id != partial.id) {
            let what = "a message that begins before the last one ends";
            return Err(ClientError::Malformed(what));
        }
        if transfer.aborted {
            self.done();
            return Ok(false);
        }
        if partial.payload.len() + payload.len() > LARGEST_MESSAGE {
            let what = "a message larger than any hub sends";
            return Err(ClientError::Malformed(what));
        }
        // A copy: a slice would keep all that was read at once.
        partial.payload.extend_from_slice(payload);
        partial.settled |= transfer.settled.unwrap_or(false);
        if transfer.more {
            self.partial = Some(partial);
            return Ok(false);
        }
        self.queue.push_back(Delivery {
            id: partial.id,
            settled: partial.settled,
            payload: partial.payload.freeze(),
        });
        Ok(true)
    }

    fn begin_message(&mut self, transfer: &Transfer) -> Result<Arriving, ClientError> {
        let id = transfer.delivery_id;
        let id = id.ok_or(ClientError::Malformed("a delivery without a number"))?;
        if self.credit == 0 {
            return Err(ClientError::Malformed("a message beyond the link's credit"));
        }
        self.credit -= 1;
        self.open += 1;
        self.delivery_count = self.delivery_count.wrapping_add(1);
        Ok(Arriving {
            id,
            settled: false,
            payload: BytesMut::new(),
        })
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

    /// The credit to tell the hub, once enough of it has been used or none is left.
    pub(super) fn top_up(&mut self) -> Option<(u32, u32)> {
        if self.stopping.is_some() {
            return None;
        }
        let wanted = self.target.saturating_sub(self.open);
        let is_dry = self.credit == 0 && wanted > 0;
        if !is_dry && wanted.saturating_sub(self.credit) < self.target.div_ceil(2) {
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
    /// It stands among those that wait for the window or for room.
    pub(super) is_blocked: bool,
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
