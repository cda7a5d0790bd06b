//! What the hub sends on a session: flow both ways, deliveries, and what the peer makes of them.

use bytes::Bytes;

use super::{Session, Unsettled, Waiting};
use crate::amqp::codec::encode::{
    self, LinkCredit, Outcome, SessionFlow, TRANSFER_OVERHEAD, Tag, TransferHead,
};
use crate::amqp::codec::performative::{Disposition, Flow, LinkFlow, PeerOutcome};
use crate::amqp::core::Core;
use crate::amqp::link::{Kind, Link, Outgoing};
use crate::amqp::{AmqpError, condition, endpoint};
use crate::faults::Mishandling;
use crate::guid::Guid;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::peer::Route;
use crate::hub::queue::Verdict;

/// Messages that wait on one link before the hub gives it up.
const MAX_OUTBOX: usize = 4096;
/// What nobody can read: no AMQP type begins with its first byte.
const GARBLE: &[u8] = b"garble";

impl Session {
    fn session_flow(&self) -> SessionFlow {
        SessionFlow {
            next_incoming_id: self.next_incoming_id,
            incoming_window: self.incoming_window,
            next_outgoing_id: self.next_outgoing_id,
        }
    }

    /// Tells the peer the state of the session, and of a link.
    pub(in crate::amqp) fn send_flow(&mut self, core: &mut Core, handle: Option<u32>) {
        self.put_flow(core, handle, false);
    }

    fn put_flow(&mut self, core: &mut Core, handle: Option<u32>, drained: bool) {
        self.incoming_window = self.full_window;
        let link = handle.and_then(|handle| {
            let link = self.link(handle)?;
            Some(LinkCredit {
                handle,
                delivery_count: link.delivery_count,
                credit: link.credit,
                drained,
            })
        });
        encode::flow(&mut core.out, self.channel, self.session_flow(), link);
    }

    pub(in crate::amqp) fn on_flow(
        &mut self,
        core: &mut Core,
        flow: &Flow,
    ) -> Result<(), AmqpError> {
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
        let mut answered = false;
        if link.kind.hub_sends() {
            // Counts are serial numbers (section 2.8.10). What was sent since the peer counted has
            // used up credit; where that is more than there is, credit was taken back.
            let counted = flow.delivery_count.unwrap_or(0);
            let ahead = counted.wrapping_sub(link.delivery_count).cast_signed();
            link.credit = flow.credit.unwrap_or(0).saturating_add_signed(ahead);
            link.drain = flow.drain;
            self.pump(core, flow.handle);
            let drains = self.link(flow.handle).is_some_and(|link| link.drain);
            answered = flow.drain && !drains;
        }
        if echo && !answered {
            self.send_flow(core, Some(flow.handle));
        }
        Ok(())
    }

    /// Sends what waited for the peer's window.
    fn use_window(&mut self, core: &mut Core) {
        while self.peer_window > 0
            && let Some(waiting) = self.backlog.pop_front()
        {
            core.release(waiting.payload.len());
            if let Some(link) = self.link(waiting.head.handle) {
                link.unsent -= waiting.payload.len();
            }
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
    /// It opens between turns, and with each flow that gives credit back, so that a peer that sends
    /// beyond it is found out.
    pub(in crate::amqp) fn end_turn(&mut self, core: &mut Core) {
        self.flush_settled(core);
        if self.incoming_window <= self.full_window / 2 {
            self.send_flow(core, None);
        }
    }

    /// Puts a message on a link and sends as far as credit and window go.
    pub(in crate::amqp) fn send(&mut self, core: &mut Core, handle: u32, message: Outgoing) {
        let Some(link) = self.link(handle) else {
            return;
        };
        if link.outbox.len() >= MAX_OUTBOX {
            let error = AmqpError::new(condition::RESOURCE_LIMIT, "The link takes no messages.");
            return self.detach(core, handle, Some(&error));
        }
        core.hold(message.message.len());
        link.outbox.push_back(message);
        self.pump(core, handle);
    }

    /// Sends what a link has to send as far as credit and window go; then answers a drain (section
    /// 2.6.7).
    pub(in crate::amqp) fn pump(&mut self, core: &mut Core, handle: u32) {
        let channel = self.channel;
        loop {
            let (frames_wait, no_window) = (!self.backlog.is_empty(), self.peer_window == 0);
            let Some(link) = self.link(handle) else {
                return;
            };
            let has_credit = link.credit > 0;
            if !has_credit && !link.drain {
                return;
            }
            if has_credit && link.kind == Kind::Events && !core.has_room_for_events() {
                let route = Route::pack(channel, handle, link.serial);
                core.paused.insert(route);
                return;
            }
            // An answer needs no window, but comes behind what was sent before it.
            if frames_wait || has_credit && no_window {
                if !link.waits_for_window {
                    link.waits_for_window = true;
                    self.waiting_links.push_back(handle);
                }
                return;
            }
            if !has_credit {
                break;
            }
            let Some((mut outgoing, tag, lock)) = next_message(core, link) else {
                break;
            };
            match mishandling(core, link) {
                None => {}
                Some(Mishandling::Lose) => continue,
                Some(Mishandling::Garble) => outgoing.message = Bytes::from_static(GARBLE),
            }
            link.credit -= 1;
            link.delivery_count = link.delivery_count.wrapping_add(1);
            let device = link.device.clone();
            let delivery_id = self.next_delivery_id;
            self.next_delivery_id = delivery_id.wrapping_add(1);
            if let Some(lock) = lock {
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
                tag,
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
            self.put_flow(core, Some(handle), true);
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
                core.hold(payload.len());
                if let Some(link) = self.link(head.handle) {
                    link.unsent += payload.len();
                }
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
    pub(in crate::amqp) fn on_disposition(&mut self, core: &mut Core, disposition: &Disposition) {
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
        let mut state = core.hub.state();
        let device = unsettled.device.as_deref();
        let settled = match device {
            Some(device) => state.settle(device, unsettled.lock, verdict, core.now),
            None => state.settle_feedback(unsettled.lock, verdict, core.now),
        };
        drop(state);
        tracing::debug!(
            device.id = device,
            ?verdict,
            in_time = settled.is_ok(),
            "A message is settled"
        );
        if !disposition.settled {
            let answer = match settled {
                Ok(()) => answer,
                Err(_lost) => Outcome::Rejected(core.refusal(&HubError::new(
                    ErrorCode::DeviceMessageLockLost,
                    "The message lock has lapsed.",
                ))),
            };
            encode::disposition(&mut core.out, self.channel, false, id, id, &answer);
        }
    }
}

/// What a script does to the next message of a link.
fn mishandling(core: &Core, link: &Link) -> Option<Mishandling> {
    let (device, kind) = (link.device.as_deref()?, link.kind.fault_kind()?);
    core.hub.script.mishandling(device, kind)
}

/// The next message of a link: from its outbox, or from the device's queue and then locked.
fn next_message(core: &mut Core, link: &mut Link) -> Option<(Outgoing, Tag, Option<Guid>)> {
    let locked = |lock, message| Some((Outgoing::new(message, false), Tag::Guid(lock), Some(lock)));
    if link.kind == Kind::Feedback {
        let mut state = core.hub.state();
        let delivery = state.next_feedback(core.now)?;
        let message = endpoint::feedback::encode(state.registry.short_name(), &delivery);
        return locked(delivery.lock, message);
    }
    if link.kind == Kind::C2d {
        let delivery = core
            .hub
            .state()
            .next_message(link.device.as_deref()?, core.now)?;
        let message = endpoint::c2d::encode(link.device.as_deref()?, &delivery);
        return locked(delivery.lock, message);
    }
    if let Some(consumer) = &mut link.consumer {
        let message = consumer.next(core)?;
        let settled = consumer.presettled;
        // Tags of events need to be unique on their link and are nobody's lock.
        let mut tag = [0; 16];
        tag[..4].copy_from_slice(&link.delivery_count.to_be_bytes());
        let outgoing = Outgoing::new(message, settled);
        return Some((outgoing, Tag::Guid(Guid::from_bytes(tag)), None));
    }
    let tag = match link.kind {
        Kind::CbsReplies => Tag::Count(link.delivery_count),
        _ => Tag::Guid(Guid::random()),
    };
    let outgoing = loop {
        let outgoing = link.outbox.pop_front()?;
        core.release(outgoing.message.len());
        let awaited = |call| core.hub.state().awaits(call);
        if outgoing.call.is_none_or(awaited) {
            break outgoing;
        }
    };
    Some((outgoing, tag, None))
}
