//! A session: windows both ways, links by handle, settlements (AMQP 1.0 sections 2.5 and 2.6).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::codec::encode::{
    self, LinkCredit, Outcome, SessionFlow, TRANSFER_OVERHEAD, TransferHead,
};
use super::codec::performative::{Begin, Disposition, Flow, LinkFlow, PeerOutcome, Transfer};
use super::core::{Core, Delayed, Settlement};
use super::endpoint;
use super::link::{Kind, Link, Outgoing, PairKind, Partial};
use super::{AmqpError, condition};
use crate::faults::Settling;
use crate::guid::Guid;
use crate::hub::device::Feed;
use crate::hub::peer::{Route, Subscriber};
use crate::hub::queue::Verdict;

/// Messages that wait on one link before the hub gives it up.
const MAX_OUTBOX: usize = 4096;

/// The two links of a pair, by handle.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pair {
    pub(super) incoming: Option<u32>,
    pub(super) outgoing: Option<u32>,
}

/// What stands behind a handle.
#[derive(Debug, Default)]
pub(super) enum Slot {
    #[default]
    Free,
    Open(Box<Link>),
    /// The hub has detached, or never answered: frames are dropped until the peer detaches.
    Deaf,
}

/// A transfer frame that waits for the peer's window.
#[derive(Debug)]
struct Waiting {
    head: TransferHead,
    payload: Bytes,
}

/// A delivery that the peer has not settled yet.
#[derive(Debug)]
struct Unsettled {
    handle: u32,
    device: Arc<str>,
    lock: Guid,
}

/// One session of a connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) channel: u16,
    next_incoming_id: u32,
    incoming_window: u32,
    full_window: u32,
    next_outgoing_id: u32,
    peer_window: u32,
    next_delivery_id: u32,
    pub(super) slots: Vec<Slot>,
    /// Names in use, with the direction: they are unique for each.
    pub(super) names: HashSet<(Arc<str>, bool)>,
    pub(super) pairs: HashMap<(PairKind, Option<Arc<str>>), Pair>,
    backlog: VecDeque<Waiting>,
    /// Links that have something to send once the peer's window opens.
    waiting_links: VecDeque<u32>,
    unsettled: HashMap<u32, Unsettled>,
    /// Accepted deliveries not yet told, as one contiguous range.
    accepted: Option<(u32, u32)>,
    held: Vec<Settlement>,
}

impl Session {
    pub(super) fn new(channel: u16, begin: &Begin, incoming_window: u32) -> Self {
        Self {
            channel,
            next_incoming_id: begin.next_outgoing_id,
            incoming_window,
            full_window: incoming_window,
            next_outgoing_id: 1,
            peer_window: begin.incoming_window,
            next_delivery_id: 1,
            slots: Vec::new(),
            names: HashSet::new(),
            pairs: HashMap::new(),
            backlog: VecDeque::new(),
            waiting_links: VecDeque::new(),
            unsettled: HashMap::new(),
            accepted: None,
            held: Vec::new(),
        }
    }

    pub(super) fn link(&mut self, handle: u32) -> Option<&mut Link> {
        match self.slots.get_mut(handle as usize) {
            Some(Slot::Open(link)) => Some(link),
            _ => None,
        }
    }

    /// The open links.
    pub(super) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(handle, slot)| match slot {
                Slot::Open(link) => Some((handle, &**link)),
                Slot::Free | Slot::Deaf => None,
            })
    }

    /// The handle of a link, if it is still the one with that serial number.
    pub(super) fn current(&mut self, handle: u32, serial: u32) -> Option<u32> {
        (self.link(handle)?.serial == serial).then_some(handle)
    }

    fn subscriber(&self, core: &Core, handle: u32, link: &Link) -> Subscriber {
        let route = Route::pack(self.channel, handle, link.serial);
        Subscriber {
            peer: Arc::clone(&core.peer),
            route,
        }
    }

    // Flow control.

    fn session_flow(&self) -> SessionFlow {
        SessionFlow {
            next_incoming_id: self.next_incoming_id,
            incoming_window: self.incoming_window,
            next_outgoing_id: self.next_outgoing_id,
        }
    }

    /// Tells the peer the state of the session, and of a link.
    pub(super) fn send_flow(&mut self, core: &mut Core, handle: Option<u32>) {
        self.incoming_window = self.full_window;
        let link = handle.and_then(|handle| {
            let link = self.link(handle)?;
            Some(LinkCredit {
                handle,
                delivery_count: link.delivery_count,
                credit: link.credit,
            })
        });
        encode::flow(&mut core.out, self.channel, self.session_flow(), link);
    }

    pub(super) fn on_flow(&mut self, core: &mut Core, flow: &Flow) -> Result<(), AmqpError> {
        // What the peer will take beyond what it has seen (section 2.5.6).
        let seen = flow.next_incoming_id.unwrap_or(1);
        let in_flight = self.next_outgoing_id.wrapping_sub(seen);
        self.peer_window = flow.incoming_window.saturating_sub(in_flight);
        if let Some(link) = flow.link {
            self.on_link_flow(core, link, flow.echo)?;
        } else if flow.echo {
            self.send_flow(core, None);
        }
        self.use_window(core);
        Ok(())
    }

    fn on_link_flow(
        &mut self,
        core: &mut Core,
        flow: LinkFlow,
        echo: bool,
    ) -> Result<(), AmqpError> {
        let Some(link) = self.known_link(flow.handle)? else {
            return Ok(());
        };
        if link.kind.hub_sends() {
            let limit = flow
                .delivery_count
                .unwrap_or(0)
                .wrapping_add(flow.credit.unwrap_or(0));
            let credit = limit.wrapping_sub(link.delivery_count);
            // A limit behind what was sent already is a credit that was taken back.
            link.credit = if credit > u32::MAX / 2 { 0 } else { credit };
            link.drain = flow.drain;
            self.pump(core, flow.handle);
        }
        if echo {
            self.send_flow(core, Some(flow.handle));
        }
        Ok(())
    }

    /// Sends what waited for the peer's window.
    fn use_window(&mut self, core: &mut Core) {
        while self.peer_window > 0
            && let Some(waiting) = self.backlog.pop_front()
        {
            self.put_transfer(core, waiting.head, &waiting.payload);
        }
        for _ in 0..self.waiting_links.len() {
            let Some(handle) = self.waiting_links.pop_front() else {
                return;
            };
            if let Some(link) = self.link(handle) {
                link.waits_for_window = false;
                self.pump(core, handle);
            }
        }
    }

    /// Ends a turn: tells what was accepted and reopens the window.
    ///
    /// The window opens only between turns, so that a peer that sends beyond it is found out.
    pub(super) fn end_turn(&mut self, core: &mut Core) {
        self.flush_settled(core);
        if self.incoming_window <= self.full_window / 2 {
            self.send_flow(core, None);
        }
    }

    // Hub to peer.

    /// Puts a message on a link and sends as far as credit and window go.
    pub(super) fn send(&mut self, core: &mut Core, handle: u32, message: Outgoing) {
        let Some(link) = self.link(handle) else {
            return;
        };
        if link.outbox.len() >= MAX_OUTBOX {
            let error = AmqpError::new(condition::RESOURCE_LIMIT, "The link takes no messages.");
            return self.detach(core, handle, Some(&error));
        }
        link.outbox.push_back(message);
        self.pump(core, handle);
    }

    /// Sends what a link has to send as far as credit and window go.
    pub(super) fn pump(&mut self, core: &mut Core, handle: u32) {
        loop {
            let window_is_shut = self.peer_window == 0 || !self.backlog.is_empty();
            let Some(link) = self.link(handle) else {
                return;
            };
            if link.credit == 0 {
                return;
            }
            if window_is_shut {
                if !link.waits_for_window {
                    link.waits_for_window = true;
                    self.waiting_links.push_back(handle);
                }
                return;
            }
            let Some((outgoing, tag, lock)) = next_message(core, link) else {
                break;
            };
            link.credit -= 1;
            link.delivery_count = link.delivery_count.wrapping_add(1);
            let device = link.device.clone();
            let delivery_id = self.next_delivery_id;
            self.next_delivery_id = delivery_id.wrapping_add(1);
            if let (Some(lock), Some(device)) = (lock, device) {
                self.unsettled.insert(
                    delivery_id,
                    Unsettled {
                        handle,
                        device,
                        lock,
                    },
                );
            }
            let settled = outgoing.settled;
            let head = TransferHead {
                handle,
                delivery_id,
                tag: *tag.as_bytes(),
                settled,
                more: false,
            };
            self.send_delivery(core, head, outgoing.message);
        }
        let Some(link) = self.link(handle) else {
            return;
        };
        if std::mem::take(&mut link.drain) {
            link.delivery_count = link.delivery_count.wrapping_add(link.credit);
            link.credit = 0;
            self.send_flow(core, Some(handle));
        }
    }

    fn send_delivery(&mut self, core: &mut Core, head: TransferHead, mut message: Bytes) {
        let room = core.frame_limit - TRANSFER_OVERHEAD;
        loop {
            let payload = message.split_to(room.min(message.len()));
            let head = TransferHead {
                more: !message.is_empty(),
                ..head
            };
            if self.peer_window > 0 && self.backlog.is_empty() {
                self.put_transfer(core, head, &payload);
            } else {
                self.backlog.push_back(Waiting { head, payload });
            }
            if message.is_empty() {
                return;
            }
        }
    }

    fn put_transfer(&mut self, core: &mut Core, head: TransferHead, payload: &[u8]) {
        self.peer_window -= 1;
        self.next_outgoing_id = self.next_outgoing_id.wrapping_add(1);
        encode::transfer(&mut core.out, self.channel, head, payload);
    }

    /// The peer says what became of deliveries of the hub.
    pub(super) fn on_disposition(&mut self, core: &mut Core, disposition: &Disposition) {
        if !disposition.peer_receives {
            return;
        }
        let (first, last) = (disposition.first, disposition.last);
        let span = last.wrapping_sub(first);
        // The range is the peer's to choose: walk whichever is shorter.
        let ids: Vec<u32> = if (span as usize) < self.unsettled.len() {
            (0..=span)
                .map(|offset| first.wrapping_add(offset))
                .collect()
        } else {
            let mut ids: Vec<u32> = self.unsettled.keys().copied().collect();
            ids.retain(|id| id.wrapping_sub(first) <= span);
            ids.sort_unstable_by_key(|id| id.wrapping_sub(first));
            ids
        };
        for id in ids {
            self.settle_c2d(core, id, disposition);
        }
    }

    fn settle_c2d(&mut self, core: &mut Core, id: u32, disposition: &Disposition) {
        let (verdict, answer) = match disposition.outcome {
            Some(PeerOutcome::Accepted) => (Verdict::Complete, Outcome::Accepted),
            Some(PeerOutcome::Rejected) => (Verdict::Reject, Outcome::Accepted),
            Some(PeerOutcome::Modified {
                undeliverable_here: true,
            }) => (Verdict::Reject, Outcome::Accepted),
            Some(PeerOutcome::Released | PeerOutcome::Modified { .. }) => {
                (Verdict::Abandon, Outcome::Released)
            }
            // Forgotten without an outcome: the lock will lapse.
            None if disposition.settled => {
                self.unsettled.remove(&id);
                return;
            }
            None | Some(PeerOutcome::Other) => return,
        };
        let Some(unsettled) = self.unsettled.remove(&id) else {
            return;
        };
        let settled = core
            .hub
            .state()
            .settle(&unsettled.device, unsettled.lock, verdict, core.now);
        tracing::debug!(device.id = %unsettled.device, ?verdict, in_time = settled.is_ok(), "Device settled a message");
        if !disposition.settled {
            let answer = match settled {
                Ok(()) => answer,
                Err(_lost) => Outcome::Rejected(AmqpError::new(
                    condition::LOCK_LOST,
                    core.describe(412_002, "The message lock has lapsed."),
                )),
            };
            encode::disposition(&mut core.out, self.channel, false, id, id, &answer);
        }
    }

    // Peer to hub.

    pub(super) fn on_transfer(
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
        if transfer.aborted {
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
        let outcome = match link.kind {
            Kind::Telemetry => endpoint::telemetry::accept(core, link, format, message),
            Kind::CbsRequests => {
                let reply = endpoint::cbs::answer(core, message);
                self.reply(core, (PairKind::Cbs, None), reply)
            }
            Kind::TwinRequests => {
                let Some(device) = link.device.clone() else {
                    return;
                };
                self.answer_twin(core, &device, message)
            }
            Kind::MethodAnswers => endpoint::methods::take_answer(core, link, message),
            Kind::ServiceC2d => endpoint::service::enqueue(core, message),
            Kind::CbsReplies | Kind::C2d | Kind::MethodCalls | Kind::TwinReplies => return,
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
        };
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
                let due = core.now.instant + delay;
                let (channel, settlement) = (self.channel, settlement(outcome));
                core.delayed.push_back(Delayed {
                    due,
                    channel,
                    settlement,
                });
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

    // Settlements.

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
    pub(super) fn flush_settled(&mut self, core: &mut Core) {
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
    pub(super) fn settle_late(&mut self, core: &mut Core, settlement: Settlement) {
        let Some(link) = self.link(settlement.handle) else {
            return;
        };
        if link.serial == settlement.serial {
            link.held = link.held.saturating_sub(1);
            self.settle(core, settlement.delivery_id, settlement.outcome);
            self.top_up(core, settlement.handle);
        }
    }

    pub(super) fn release_held(&mut self, core: &mut Core) {
        for settlement in std::mem::take(&mut self.held) {
            self.settle_late(core, settlement);
        }
    }

    // Ends.

    /// The link behind a handle that the peer uses; `None` if its frames are to be dropped.
    fn known_link(&mut self, handle: u32) -> Result<Option<&mut Link>, AmqpError> {
        match self.slots.get_mut(handle as usize) {
            Some(Slot::Open(link)) => Ok(Some(link)),
            Some(Slot::Deaf) => Ok(None),
            Some(Slot::Free) | None => Err(AmqpError::new(
                condition::UNATTACHED_HANDLE,
                format!("Handle {handle} is not attached."),
            )),
        }
    }

    fn refuse(
        &mut self,
        core: &mut Core,
        handle: u32,
        condition: &'static str,
        text: &str,
    ) -> Result<(), AmqpError> {
        self.detach(core, handle, Some(&AmqpError::new(condition, text)));
        Ok(())
    }

    /// Closes a link from the hub's side.
    pub(super) fn detach(&mut self, core: &mut Core, handle: u32, error: Option<&AmqpError>) {
        self.flush_settled(core);
        if self.remove_link(core, handle, Slot::Deaf) {
            encode::detach(&mut core.out, self.channel, handle, true, error);
        }
    }

    pub(super) fn on_detach(
        &mut self,
        core: &mut Core,
        handle: u32,
        closed: bool,
    ) -> Result<(), AmqpError> {
        if self.known_link(handle)?.is_some() {
            self.flush_settled(core);
            self.remove_link(core, handle, Slot::Free);
            encode::detach(&mut core.out, self.channel, handle, closed, None);
        } else {
            self.slots[handle as usize] = Slot::Free;
        }
        Ok(())
    }

    /// Takes a link out of all books and leaves `slot` in its place.
    fn remove_link(&mut self, core: &mut Core, handle: u32, slot: Slot) -> bool {
        let Some(place) = self.slots.get_mut(handle as usize) else {
            return false;
        };
        if !matches!(place, Slot::Open(_)) {
            return false;
        }
        let Slot::Open(link) = std::mem::replace(place, slot) else {
            return false;
        };
        self.names
            .remove(&(Arc::clone(&link.name), link.kind.hub_sends()));
        self.unsettled
            .retain(|_, unsettled| unsettled.handle != handle);
        self.backlog.retain(|waiting| waiting.head.handle != handle);
        self.held.retain(|settlement| settlement.handle != handle);
        self.leave_pair(handle, &link);
        if let Some((feed, device)) = feed_of(&link) {
            let subscriber = self.subscriber(core, handle, &link);
            core.hub.state().unsubscribe(device, feed, &subscriber);
            if link.kind == Kind::MethodAnswers {
                self.unsubscribe_calls(core, device);
            }
        }
        core.link_closed(link.device.as_ref());
        tracing::debug!(device.id = link.device.as_deref(), kind = ?link.kind, "Link is closed");
        true
    }

    fn leave_pair(&mut self, handle: u32, link: &Link) {
        let Some(kind) = link.kind.pair() else { return };
        let key = (kind, link.device.clone());
        let Some(pair) = self.pairs.get_mut(&key) else {
            return;
        };
        let half = if link.kind.hub_sends() {
            &mut pair.outgoing
        } else {
            &mut pair.incoming
        };
        half.take_if(|current| *current == handle);
        if pair.incoming.is_none() && pair.outgoing.is_none() {
            self.pairs.remove(&key);
        }
    }

    /// The answering half of a method pair is gone: calls have nowhere to be answered.
    fn unsubscribe_calls(&mut self, core: &mut Core, device: &Arc<str>) {
        let calls = self
            .pairs
            .get(&(PairKind::Methods, Some(Arc::clone(device))));
        let Some(handle) = calls.and_then(|pair| pair.outgoing) else {
            return;
        };
        if let Some(Slot::Open(link)) = self.slots.get(handle as usize) {
            let subscriber = self.subscriber(core, handle, link);
            core.hub
                .state()
                .unsubscribe(device, Feed::Methods, &subscriber);
        }
    }

    /// Listens for the device of a link that was just attached, if the link is one to listen on.
    pub(super) fn subscribe(&mut self, core: &mut Core, handle: u32) {
        let Some(Slot::Open(link)) = self.slots.get(handle as usize) else {
            return;
        };
        let Some(device) = link.device.clone() else {
            return;
        };
        let (feed, handle) = match link.kind {
            Kind::C2d => (Feed::Messages, handle),
            Kind::MethodCalls | Kind::MethodAnswers => {
                let pair = self
                    .pairs
                    .get(&(PairKind::Methods, Some(Arc::clone(&device))));
                match pair {
                    Some(&Pair {
                        incoming: Some(_),
                        outgoing: Some(calls),
                    }) => (Feed::Methods, calls),
                    _ => return,
                }
            }
            _ => return,
        };
        if let Some(Slot::Open(link)) = self.slots.get(handle as usize) {
            let subscriber = self.subscriber(core, handle, link);
            core.hub.state().subscribe(&device, feed, subscriber);
            core.hub.stir();
        }
    }

    /// Closes all links when the session is over.
    pub(super) fn clear(&mut self, core: &mut Core) {
        for handle in 0..self.slots.len() {
            self.remove_link(core, handle as u32, Slot::Free);
        }
        core.release_handles(self.slots.len());
        self.slots.clear();
    }
}

/// What a link listens to.
fn feed_of(link: &Link) -> Option<(Feed, &Arc<str>)> {
    let feed = match link.kind {
        Kind::C2d => Feed::Messages,
        Kind::MethodCalls | Kind::MethodAnswers => Feed::Methods,
        Kind::TwinReplies => Feed::Desired,
        _ => return None,
    };
    Some((feed, link.device.as_ref()?))
}

/// The next message of a link: from its outbox, or from the device's queue and then locked.
fn next_message(core: &mut Core, link: &mut Link) -> Option<(Outgoing, Guid, Option<Guid>)> {
    if link.kind == Kind::C2d {
        let delivery = core
            .hub
            .state()
            .next_message(link.device.as_deref()?, core.now)?;
        let lock = delivery.lock;
        let message = endpoint::c2d::encode(link.device.as_deref()?, &delivery);
        return Some((
            Outgoing {
                message,
                settled: false,
            },
            lock,
            Some(lock),
        ));
    }
    Some((link.outbox.pop_front()?, Guid::random(), None))
}
