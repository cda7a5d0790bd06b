//! One session: its windows, links and unsettled deliveries (AMQP 1.0, section 2.5).

mod links;
mod receiving;
mod sending;

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use fe2o3_amqp_types::definitions::Handle;
use fe2o3_amqp_types::performatives::{Begin, End, Flow};

use super::error::ClientError;
use super::link::{FIRST, Kind, Link, Phase, left};
use super::numbers::ByNumber;
use super::outbox::{Outbox, Wakers};

pub(crate) use receiving::Verdict;
pub(crate) use sending::Outcome;

/// Frames that the hub may send before it hears from us.
const WINDOW: u32 = 4096;
/// Links of a session: what every broker known takes.
const HANDLE_MAX: u32 = 65_535;
/// What becomes of a delivery.
#[derive(Debug)]
enum Pending {
    Waiting { handle: u32, waker: Option<Waker> },
    Done(Result<Outcome, ClientError>),
}

/// Tells the holder of a session what happened to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SessionEvent {
    /// The hub detached the sender of this id.
    Detached(LinkId),
    Ended(ClientError),
}

/// Names a link for as long as its session lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(Default))]
pub(crate) struct LinkId {
    pub(super) handle: u32,
    serial: u32,
}

#[derive(Debug)]
pub(super) struct Session {
    /// Differs for every session of a connection, channels being used again.
    pub(super) serial: u32,
    channel: u16,
    pub(super) remote_channel: Option<u16>,
    next_outgoing: u32,
    /// The next message's number; hubs want them without a gap.
    next_delivery: u32,
    /// Frames that the hub takes.
    window: u32,
    next_incoming: u32,
    /// Frames that the hub may still send.
    incoming_window: u32,
    handle_max: u32,
    links: Vec<Option<Link>>,
    free: Vec<u32>,
    serials: u32,
    /// Links that the hub has not answered.
    attaching: HashMap<String, u32>,
    /// How many links that nobody holds any more wait for the hub's answer.
    unanswered: u32,
    by_remote: HashMap<u32, u32>,
    pending: ByNumber<Pending>,
    /// Links that wait for the window, or for room in the outbox.
    blocked: Vec<u32>,
    detached: VecDeque<LinkId>,
    /// Why it is over. That is told its holder; what was on it is only lost, since it is not to blame.
    pub(super) ended: Option<ClientError>,
    /// We have said that it ends.
    pub(super) is_ending: bool,
    waker: Option<Waker>,
}

impl Session {
    pub(super) fn new(serial: u32, channel: u16, out: &mut Outbox) -> Self {
        let begin = Begin {
            remote_channel: None,
            next_outgoing_id: FIRST,
            incoming_window: WINDOW,
            outgoing_window: WINDOW,
            handle_max: Handle(HANDLE_MAX),
            offered_capabilities: None,
            desired_capabilities: None,
            properties: None,
        };
        out.put(channel, &begin);
        Self {
            serial,
            channel,
            remote_channel: None,
            next_outgoing: FIRST,
            next_delivery: FIRST,
            window: 0,
            next_incoming: 0,
            incoming_window: WINDOW,
            handle_max: HANDLE_MAX,
            links: Vec::new(),
            free: Vec::new(),
            serials: 0,
            attaching: HashMap::new(),
            unanswered: 0,
            by_remote: HashMap::new(),
            pending: ByNumber::default(),
            blocked: Vec::new(),
            detached: VecDeque::new(),
            ended: None,
            is_ending: false,
            waker: None,
        }
    }

    pub(super) fn poll_begun(&mut self, waker: &Waker) -> Option<Result<(), ClientError>> {
        match (&self.ended, self.remote_channel) {
            (Some(error), _) => Some(Err(error.clone())),
            (None, Some(_)) => Some(Ok(())),
            (None, None) => {
                self.waker = Some(waker.clone());
                None
            }
        }
    }

    pub(super) fn poll_event(&mut self, waker: &Waker) -> Option<SessionEvent> {
        if let Some(link) = self.detached.pop_front() {
            return Some(SessionEvent::Detached(link));
        }
        match &self.ended {
            Some(error) => Some(SessionEvent::Ended(error.clone())),
            None => {
                self.waker = Some(waker.clone());
                None
            }
        }
    }

    /// Says that it ends, if that is not said yet.
    pub(super) fn end(&mut self, out: &mut Outbox) {
        if !self.is_ending {
            self.is_ending = true;
            out.put(self.channel, &End { error: None });
        }
    }

    fn link(&mut self, id: LinkId) -> Result<&mut Link, ClientError> {
        if self.ended.is_some() {
            return Err(ClientError::Down);
        }
        match self.links.get_mut(id.handle as usize) {
            Some(Some(link)) if link.serial == id.serial => Ok(link),
            _ => Err(ClientError::Detached),
        }
    }

    pub(super) fn on_begin(&mut self, remote: u16, begin: &Begin, wake: &mut Wakers) {
        self.remote_channel = Some(remote);
        self.next_incoming = begin.next_outgoing_id;
        self.window = begin.incoming_window;
        self.handle_max = begin.handle_max.0.min(HANDLE_MAX);
        wake.add(self.waker.take());
    }

    pub(super) fn on_flow(&mut self, flow: &Flow, out: &mut Outbox, wake: &mut Wakers) {
        let seen = flow.next_incoming_id.unwrap_or(FIRST);
        self.window = left(flow.incoming_window, seen, self.next_outgoing);
        self.wake_blocked(wake);
        let handle = flow.handle.as_ref();
        let handle = handle.and_then(|handle| self.by_remote.get(&handle.0).copied());
        let mut attached = None;
        let mut is_drained = false;
        if let Some(handle) = handle
            && let Some(Some(link)) = self.links.get_mut(handle as usize)
            && link.phase == Phase::Attached
        {
            match &mut link.kind {
                Kind::Sender(outgoing) => {
                    outgoing.grant(flow);
                    is_drained = flow.drain;
                }
                Kind::Receiver(inbox) => inbox.on_flow(),
            }
            wake.add(link.waker.take());
            attached = Some(handle);
        }
        if flow.echo || is_drained {
            let mut answer = self.flow_of(attached);
            answer.drain = is_drained;
            out.put(self.channel, &answer);
        }
    }

    /// Wakes all that wait to send, once they may: who of them still wants to is not known here.
    pub(super) fn wake_blocked(&mut self, wake: &mut Wakers) {
        if self.window == 0 {
            return;
        }
        for handle in self.blocked.drain(..) {
            if let Some(Some(link)) = self.links.get_mut(handle as usize) {
                link.is_blocked = false;
                wake.add(link.waker.take());
            }
        }
    }

    /// Fails everything: the session or its connection is gone.
    pub(super) fn fail(&mut self, error: &ClientError, wake: &mut Wakers) {
        self.ended.get_or_insert_with(|| error.clone());
        wake.add(self.waker.take());
        for link in self.links.iter_mut().flatten() {
            wake.add(link.waker.take());
            if let Kind::Sender(outgoing) = &link.kind
                && let Some(partial) = &outgoing.partial
            {
                self.pending.remove(&partial.delivery);
            }
        }
        for pending in self.pending.values_mut() {
            if let Pending::Waiting { waker, .. } = pending {
                wake.add(waker.take());
                *pending = Pending::Done(Err(ClientError::Down));
            }
        }
        // Handles of links that somebody still holds stay void: see `link`.
        self.links = Vec::new();
        self.by_remote = HashMap::new();
        self.attaching = HashMap::new();
        self.blocked = Vec::new();
    }

    /// How the session stands, or a link of it.
    fn flow_of(&self, handle: Option<u32>) -> Flow {
        let link = handle.and_then(|handle| self.links.get(handle as usize)?.as_ref());
        let mut flow = self.window_flow();
        match link.map(|link| &link.kind) {
            Some(Kind::Sender(outgoing)) => {
                flow.delivery_count = Some(outgoing.delivery_count);
                flow.link_credit = Some(outgoing.credit);
                flow.available = Some(0);
                flow.handle = handle.map(Handle);
            }
            Some(Kind::Receiver(inbox)) => {
                let (delivery_count, credit) = inbox.standing();
                flow.delivery_count = Some(delivery_count);
                flow.link_credit = Some(credit);
                flow.handle = handle.map(Handle);
            }
            None => {}
        }
        flow
    }

    fn window_flow(&self) -> Flow {
        Flow {
            next_incoming_id: self.remote_channel.map(|_| self.next_incoming),
            incoming_window: self.incoming_window,
            next_outgoing_id: self.next_outgoing,
            outgoing_window: WINDOW,
            handle: None,
            delivery_count: None,
            link_credit: None,
            available: None,
            drain: false,
            echo: false,
            properties: None,
        }
    }

    /// What may be sent on a link now: by us on a sender, by the hub on a receiver.
    pub(super) fn credit(&mut self, id: LinkId) -> u32 {
        match self.link(id).map(|link| &link.kind) {
            Ok(Kind::Sender(outgoing)) => outgoing.credit,
            Ok(Kind::Receiver(inbox)) => inbox.standing().1,
            Err(_) => 0,
        }
    }
}

/// What a session keeps, for tests of what it must not.
#[cfg(any(test, feature = "fuzzing"))]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) sessions: usize,
    pub(super) links: usize,
    pub(super) pending: usize,
    pub(super) waiting: usize,
    /// Names and handles by which links are found.
    pub(super) names: usize,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Session {
    pub(super) fn count(&self, census: &mut Census) {
        census.sessions += 1;
        census.links += self.links.iter().flatten().count();
        census.pending += self.pending.len();
        census.waiting += self.blocked.len();
        census.names += self.attaching.len() + self.by_remote.len() + self.detached.len();
    }
}
