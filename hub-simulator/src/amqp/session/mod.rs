//! A session: windows both ways, links by handle, settlements (AMQP 1.0 sections 2.5 and 2.6).

mod incoming;
mod outgoing;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::amqp::codec::encode::{self, TransferHead};
use crate::amqp::codec::performative::Begin;
use crate::amqp::core::{Core, Settlement};
use crate::amqp::link::{Kind, Link, PairKind};
use crate::amqp::{AmqpError, condition};
use crate::guid::Guid;
use crate::hub::device::Feed;
use crate::hub::peer::{Route, Subscriber};

/// The two links of a pair, by handle.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::amqp) struct Pair {
    pub(in crate::amqp) incoming: Option<u32>,
    pub(in crate::amqp) outgoing: Option<u32>,
}

/// What stands behind a handle.
#[derive(Debug, Default)]
pub(in crate::amqp) enum Slot {
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
    /// Whose message it is; none for feedback.
    device: Option<Arc<str>>,
    lock: Guid,
}

/// One session of a connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(in crate::amqp) channel: u16,
    next_incoming_id: u32,
    incoming_window: u32,
    full_window: u32,
    next_outgoing_id: u32,
    peer_window: u32,
    next_delivery_id: u32,
    pub(in crate::amqp) slots: Vec<Slot>,
    /// Names in use, with the direction: they are unique for each.
    pub(in crate::amqp) names: HashSet<(Arc<str>, bool)>,
    pub(in crate::amqp) pairs: HashMap<(PairKind, Option<Arc<str>>), Pair>,
    backlog: VecDeque<Waiting>,
    /// Links that have something to send once the peer's window opens.
    waiting_links: VecDeque<u32>,
    unsettled: HashMap<u32, Unsettled>,
    /// Accepted deliveries not yet told, as one contiguous range.
    accepted: Option<(u32, u32)>,
    held: Vec<Settlement>,
}

impl Session {
    pub(in crate::amqp) fn new(channel: u16, begin: &Begin, incoming_window: u32) -> Self {
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

    pub(in crate::amqp) fn link(&mut self, handle: u32) -> Option<&mut Link> {
        match self.slots.get_mut(handle as usize) {
            Some(Slot::Open(link)) => Some(link),
            _ => None,
        }
    }

    /// The open links.
    pub(in crate::amqp) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(handle, slot)| match slot {
                Slot::Open(link) => Some((handle, &**link)),
                Slot::Free | Slot::Deaf => None,
            })
    }

    /// The handle of a link, if it is still the one with that serial number.
    pub(in crate::amqp) fn current(&mut self, handle: u32, serial: u32) -> Option<u32> {
        (self.link(handle)?.serial == serial).then_some(handle)
    }

    fn subscriber(&self, core: &Core, handle: u32, link: &Link) -> Subscriber {
        let route = Route::pack(self.channel, handle, link.serial);
        Subscriber {
            peer: Arc::clone(&core.peer),
            route,
        }
    }

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
    pub(in crate::amqp) fn detach(
        &mut self,
        core: &mut Core,
        handle: u32,
        error: Option<&AmqpError>,
    ) {
        self.flush_settled(core);
        if self.remove_link(core, handle, Slot::Deaf) {
            encode::detach(&mut core.out, self.channel, handle, true, error);
        }
    }

    /// Detaches a link at the peer's wish, or hears its answer to ours. A detach for a handle without
    /// a link is passed over, unlike other frames for it (Azure/azure-amqp, `AmqpSession.cs`).
    pub(in crate::amqp) fn on_detach(&mut self, core: &mut Core, handle: u32, closed: bool) {
        match self.slots.get_mut(handle as usize) {
            Some(Slot::Open(_)) => {
                self.flush_settled(core);
                self.remove_link(core, handle, Slot::Free);
                encode::detach(&mut core.out, self.channel, handle, closed, None);
            }
            Some(slot) => *slot = Slot::Free,
            None => {}
        }
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
        core.release(link.held_bytes());
        if link.kind == Kind::Feedback {
            let receiver = self.subscriber(core, handle, &link);
            core.hub.state().unsubscribe_feedback(&receiver);
        }
        if let Some((feed, device)) = feed_of(&link) {
            let subscriber = self.subscriber(core, handle, &link);
            core.hub.state().unsubscribe(device, feed, &subscriber);
            if link.kind == Kind::TwinReplies {
                core.hub
                    .state()
                    .unsubscribe(device, Feed::Twin, &subscriber);
            }
            if link.kind == Kind::MethodAnswers {
                self.unsubscribe_calls(core, device);
            }
        }
        core.link_closed(link.device.as_ref());
        tracing::debug!(device.id = link.device.as_deref(), kind = ?link.kind, "Link is closed");
        true
    }

    /// Forgets the calls that wait for credit and that nobody waits for any more.
    pub(in crate::amqp) fn forget_calls(&mut self, core: &mut Core) {
        for slot in &mut self.slots {
            if let Slot::Open(link) = slot {
                link.outbox.retain(|outgoing| {
                    let awaited = |call| core.hub.state().awaits(call);
                    let stays = outgoing.call.is_none_or(awaited);
                    if !stays {
                        core.release(outgoing.message.len());
                    }
                    stays
                });
            }
        }
    }

    /// Makes a link half of its pair.
    ///
    /// A link of the same direction before it, and a half with another correlation id, belong to a
    /// pair that this one displaces (edgeHub's `ClientConnectionHandler`).
    pub(in crate::amqp) fn join_pair(
        &mut self,
        core: &mut Core,
        handle: u32,
        kind: Kind,
        device: Option<&Arc<str>>,
        correlation: Option<&str>,
    ) {
        let Some(pair_kind) = kind.pair() else { return };
        let key = (pair_kind, device.cloned());
        let pair = self.pairs.get(&key).copied().unwrap_or_default();
        if matches!(pair_kind, PairKind::Methods | PairKind::Twin) {
            let (same, other) = match kind.hub_sends() {
                true => (pair.outgoing, pair.incoming),
                false => (pair.incoming, pair.outgoing),
            };
            let other = other.filter(|other| {
                self.link(*other)
                    .is_some_and(|link| link.correlation.as_deref() != correlation)
            });
            for displaced in same.into_iter().chain(other) {
                self.detach(core, displaced, Some(&displaced_by_another()));
            }
        }
        let pair = self.pairs.entry(key).or_default();
        if kind.hub_sends() {
            pair.outgoing = Some(handle);
        } else {
            pair.incoming = Some(handle);
        }
    }

    /// Detaches a link that another one has taken the place of, and with it the other half of its
    /// pair.
    pub(in crate::amqp) fn displace(&mut self, core: &mut Core, handle: u32) {
        let Some(link) = self.link(handle) else {
            return;
        };
        let key = link.kind.pair().map(|kind| (kind, link.device.clone()));
        let pair = key.and_then(|key| self.pairs.get(&key)).copied();
        let pair = pair.unwrap_or_default();
        self.detach(core, handle, Some(&displaced_by_another()));
        for half in pair.incoming.into_iter().chain(pair.outgoing) {
            self.detach(core, half, Some(&displaced_by_another()));
        }
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
    pub(in crate::amqp) fn subscribe(&mut self, core: &mut Core, handle: u32) {
        let Some(Slot::Open(link)) = self.slots.get(handle as usize) else {
            return;
        };
        if link.kind == Kind::Feedback {
            let receiver = self.subscriber(core, handle, link);
            return core.hub.state().subscribe_feedback(receiver);
        }
        let Some(device) = link.device.clone() else {
            return;
        };
        let (feed, handle) = match link.kind {
            Kind::C2d => (Feed::Messages, handle),
            Kind::TwinReplies => (Feed::Twin, handle),
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
    pub(in crate::amqp) fn clear(&mut self, core: &mut Core) {
        for handle in 0..self.slots.len() {
            self.remove_link(core, handle as u32, Slot::Free);
        }
        core.release_handles(self.slots.len());
        self.slots.clear();
    }
}

fn displaced_by_another() -> AmqpError {
    let text = "Another AMQP Client has opened a Receive Link";
    AmqpError::new(condition::INTERNAL, text)
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
