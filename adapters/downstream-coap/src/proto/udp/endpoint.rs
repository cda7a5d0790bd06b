//! All peers of one socket.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::iter::Sum;
use std::time::Duration;

use lru::LruCache;

use super::context::{Context, Shared};
use super::event::{
    CallError, CallId, EndReason, Event, ExchangeId, NotifyError, ObservationId, RespondError,
    Responded, Transmit,
};
use super::memory::Print;
use super::peer::Peer;
use super::server::Manner;
use crate::proto::block::{BASE_MESSAGE_SIZE, options_room, unavailable};
use crate::proto::budget::Budget;
use crate::proto::config::EndpointConfig;
use crate::proto::message::{Code, Datagram, Fault, Kind, Message};
use crate::proto::random::{Random, Seed};

/// Names a peer: an address, or a number of a DTLS session.
pub trait PeerName: Copy + Ord + Hash + fmt::Debug {}

impl<P: Copy + Ord + Hash + fmt::Debug> PeerName for P {}

/// Is server and client on one socket, for any number of peers.
///
/// What it holds is bounded by [`LimitConfig`](crate::proto::LimitConfig). A peer costs nothing
/// once its last message is forgotten and it observes nothing.
#[derive(Debug)]
pub struct Endpoint<P: PeerName> {
    shared: Shared<P>,
    peers: HashMap<P, Peer>,
    timers: BTreeSet<(Duration, P)>,
    /// Peers with something that may be forgotten for a new one, in the order in which they acted
    /// last.
    forgettable: LruCache<P, ()>,
}

/// Reads what an endpoint holds, from any thread and after its end.
#[derive(Debug, Clone)]
pub struct EndpointGauge {
    peers: Budget,
    remembered: Budget,
    pending: Budget,
    observations: Budget,
    block_bytes: Budget,
}

impl EndpointGauge {
    /// Counts what is held.
    #[must_use]
    pub fn read(&self) -> EndpointStats {
        EndpointStats {
            peers: self.peers.used(),
            remembered: self.remembered.used(),
            pending: self.pending.used(),
            observations: self.observations.used(),
            block_bytes: self.block_bytes.used(),
        }
    }
}

/// Counts what an endpoint holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Peers of which anything is known.
    pub peers: usize,
    /// Those, and the messages that are remembered or wait for an answer.
    pub remembered: usize,
    /// Requests that wait for an answer, and answers that wait for their acknowledgement.
    pub pending: usize,
    /// Observations.
    pub observations: usize,
    /// Bytes of bodies that are not whole, or not fetched whole.
    pub block_bytes: usize,
}

impl Sum for EndpointStats {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            peers: sum.peers + one.peers,
            remembered: sum.remembered + one.remembered,
            pending: sum.pending + one.pending,
            observations: sum.observations + one.observations,
            block_bytes: sum.block_bytes + one.block_bytes,
        })
    }
}

impl<P: PeerName> Endpoint<P> {
    /// Makes an endpoint that knows nobody.
    #[must_use]
    pub fn new(config: EndpointConfig, seed: Seed) -> Self {
        Self {
            shared: Shared::new(config, Random::new(seed)),
            peers: HashMap::new(),
            timers: BTreeSet::new(),
            forgettable: LruCache::unbounded(),
        }
    }

    /// Takes a datagram. `is_proven` says that the peer has shown already that it receives at its
    /// address, as in a DTLS session.
    pub fn receive(&mut self, now: Duration, peer: P, is_proven: bool, bytes: &[u8]) {
        let datagram = match Datagram::decode(bytes) {
            Ok(datagram) => datagram,
            Err(Fault::Reset(id)) => return self.reset(peer, id),
            Err(Fault::Ignore) => return,
        };
        let is_confirmable = datagram.kind == Kind::Confirmable;
        let code = datagram.message.code;
        if is_confirmable && code == Code::EMPTY {
            return self.reset(peer, datagram.id);
        }
        if !self.peers.contains_key(&peer) {
            if !code.is_request() {
                // Nothing was asked there.
                if is_confirmable {
                    self.reset(peer, datagram.id);
                }
                return;
            }
            if !self.make_room() {
                return self.refuse(peer, &datagram);
            }
        }
        let print = Print {
            id: datagram.id,
            hash: self.shared.random.sign(&bytes) as u32,
        };
        self.with_new(now, peer, |peer, cx| {
            peer.is_proven |= is_proven;
            peer.on_datagram(cx, datagram, print, bytes.len());
        });
    }

    /// Answers a request. A body larger than a block is cut, its rest kept until it is fetched; the
    /// answer gets an ETag then, unless it has one. An ETag that the peer said it has becomes 2.03.
    ///
    /// # Errors
    /// Nobody waits for it.
    pub fn respond(
        &mut self,
        now: Duration,
        exchange: ExchangeId<P>,
        response: Message,
    ) -> Result<Responded, RespondError> {
        let responded = self.answer(now, exchange, response, Manner::Plain);
        responded.map(|(responded, _)| responded)
    }

    /// Answers a request with what should arrive. The answer to one that is not confirmable is one
    /// that is (RFC 7252, section 5.2.3), and goes [apart](Responded::Apart); all else is as
    /// [`respond`](Self::respond) has it.
    ///
    /// # Errors
    /// Nobody waits for it.
    pub fn give(
        &mut self,
        now: Duration,
        exchange: ExchangeId<P>,
        response: Message,
    ) -> Result<Responded, RespondError> {
        let responded = self.answer(now, exchange, response, Manner::Given);
        responded.map(|(responded, _)| responded)
    }

    /// Answers a request that wants an observation, and registers it; the answer is the first state.
    /// `None` if it was only answered: the request does not want one, the answer is an error, or
    /// there are too many.
    ///
    /// # Errors
    /// Nobody waits for it.
    pub fn observe(
        &mut self,
        now: Duration,
        exchange: ExchangeId<P>,
        response: Message,
    ) -> Result<Option<ObservationId<P>>, RespondError> {
        let responded = self.answer(now, exchange, response, Manner::Observed);
        let peer = exchange.peer;
        responded.map(|(_, serial)| serial.map(|serial| ObservationId { peer, serial }))
    }

    fn answer(
        &mut self,
        now: Duration,
        exchange: ExchangeId<P>,
        response: Message,
        manner: Manner,
    ) -> Result<(Responded, Option<u64>), RespondError> {
        let responded = self.with(now, exchange.peer, |peer, cx| {
            peer.respond(cx, exchange.serial, response, manner)
        });
        responded.unwrap_or(Err(RespondError::Gone))
    }

    /// Tells whether a request waits for its answer.
    #[must_use]
    pub fn is_pending(&self, exchange: ExchangeId<P>) -> bool {
        let peer = self.peers.get(&exchange.peer);
        peer.is_some_and(|peer| peer.is_pending(exchange.serial))
    }

    /// Takes back an answer that goes apart, as when nobody waits for its end any more: it is not sent
    /// again, and holds up nothing behind it. The peer may have it; one that has not is told once, by
    /// an empty answer of the same code, that there is nothing more to wait for.
    pub fn withdraw_answer(&mut self, now: Duration, exchange: ExchangeId<P>) {
        self.with(now, exchange.peer, |peer, cx| {
            peer.withdraw_answer(cx, exchange.serial);
        });
    }

    /// Sends a notification, to be acknowledged: [`Event::Notified`] tells how it ended. There is
    /// one at a time for each peer. An error is for [`dismiss`](Self::dismiss) to send.
    ///
    /// # Errors
    /// The observation is over, or another notification is on its way to the peer.
    pub fn notify(
        &mut self,
        now: Duration,
        observation: ObservationId<P>,
        message: Message,
    ) -> Result<(), NotifyError> {
        self.with(now, observation.peer, |peer, cx| {
            peer.notify(cx, observation.serial, message)
        })
        .unwrap_or(Err(NotifyError::Gone))
    }

    /// Takes back the notification that is on its way, as when nobody waits for its end any more:
    /// it is not sent again. The peer may have it.
    pub fn withdraw_notification(&mut self, now: Duration, observation: ObservationId<P>) {
        self.with(now, observation.peer, |peer, cx| {
            peer.withdraw_notification(cx, observation.serial);
        });
    }

    /// Ends an observation without telling the peer.
    pub fn end_observation(&mut self, now: Duration, observation: ObservationId<P>) {
        self.with(now, observation.peer, |peer, cx| {
            peer.end(cx, observation.serial, EndReason::Closed);
        });
    }

    /// Ends an observation and tells the peer why, by an error that it is to acknowledge and that
    /// waits behind what is on its way there. Without effect if the observation is over; the peer is
    /// not told if there are too many answers that wait for their acknowledgement.
    pub fn dismiss(&mut self, now: Duration, observation: ObservationId<P>, farewell: Message) {
        self.with(now, observation.peer, |peer, cx| {
            peer.dismiss(cx, observation.serial, farewell);
        });
    }

    /// Sends a request to a peer, in blocks where its body is large: [`Event::Response`] tells how it
    /// ended. The address is the caller's choice: what is asked of unproven sources does not apply.
    ///
    /// # Errors
    /// `Busy`: too many are on their way.
    pub fn request(
        &mut self,
        now: Duration,
        peer: P,
        request: Message,
        is_confirmable: bool,
    ) -> Result<CallId<P>, CallError> {
        if !self.peers.contains_key(&peer) && !self.make_room() {
            return Err(CallError::Busy);
        }
        self.with_new(now, peer, |state, cx| {
            let serial = state.request(cx, request, is_confirmable)?;
            Ok(CallId { peer, serial })
        })
    }

    /// Bytes that the options of a message may take, so that it fits every network's datagrams.
    #[must_use]
    pub fn options_room(&self) -> usize {
        options_room(BASE_MESSAGE_SIZE)
    }

    /// Gives up a request of ours: no event comes of it any more.
    pub fn cancel(&mut self, now: Duration, call: CallId<P>) {
        self.with(now, call.peer, |peer, cx| {
            peer.withdraw(call.serial);
            peer.flush(cx);
        });
    }

    /// Forgets a peer whose session is over. Its requests cannot be answered any more; requests to
    /// it and its observations end.
    pub fn forget(&mut self, now: Duration, peer: P) {
        self.with(now, peer, |peer, cx| peer.close(cx));
        self.remove(peer);
    }

    /// Does what the time asks for: acknowledges, sends again, gives up, forgets.
    pub fn on_timeout(&mut self, now: Duration) {
        while let Some(&(due, peer)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            if let Some(peer) = self.peers.get_mut(&peer) {
                peer.scheduled = None;
            }
            self.with(now, peer, |peer, cx| peer.on_timeout(cx));
        }
    }

    /// When [`on_timeout`](Self::on_timeout) is to be called next; it may be early.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit<P>> {
        self.shared.out.pop_front()
    }

    /// The next thing that happened. A call to the endpoint leaves a few at most.
    pub fn poll_event(&mut self) -> Option<Event<P>> {
        self.shared.events.pop_front()
    }

    /// Counts what is held.
    #[must_use]
    pub fn stats(&self) -> EndpointStats {
        self.gauge().read()
    }

    /// What reads the counts where the endpoint itself cannot be asked.
    #[must_use]
    pub fn gauge(&self) -> EndpointGauge {
        let shared = &self.shared;
        EndpointGauge {
            peers: shared.peers.clone(),
            remembered: shared.remembered.clone(),
            pending: shared.pending.clone(),
            observations: shared.observations.clone(),
            block_bytes: shared.block_bytes.clone(),
        }
    }

    /// Rejects a message without remembering it.
    fn reset(&mut self, peer: P, id: u16) {
        let bytes = Datagram::empty(Kind::Reset, id).encode();
        self.shared.out.push_back(Transmit { peer, bytes });
    }

    /// Tells a stranger to come back later, without remembering it.
    fn refuse(&mut self, peer: P, datagram: &Datagram) {
        if datagram.kind != Kind::Confirmable {
            return;
        }
        let answer = Datagram {
            kind: Kind::Acknowledgement,
            id: datagram.id,
            message: unavailable(&self.shared.config.limits).with_token(datagram.message.token),
        };
        let bytes = answer.encode();
        self.shared.out.push_back(Transmit { peer, bytes });
    }

    /// Makes room for a new peer and its first message: who has been silent longest is asked first
    /// to forget something.
    fn make_room(&mut self) -> bool {
        let limit = self.shared.config.limits.max_remembered;
        while self.shared.remembered.used() + 2 > limit {
            let Some((&peer, ())) = self.forgettable.peek_lru() else {
                return false;
            };
            let state = self.peers.get_mut(&peer);
            let has_forgotten = state.is_some_and(|state| {
                let has_forgotten = state.memory.forget_one();
                state.account();
                has_forgotten
            });
            if has_forgotten {
                continue;
            }
            self.forgettable.pop(&peer);
            if self.peers.get(&peer).is_some_and(Peer::is_dispensable) {
                self.remove(peer);
            }
        }
        true
    }

    /// Forgets all that is known of a peer.
    fn remove(&mut self, peer: P) {
        self.forgettable.pop(&peer);
        if let Some(state) = self.peers.remove(&peer) {
            self.unschedule(peer, state.scheduled);
        }
    }

    /// Has a peer that is known act.
    fn with<R>(
        &mut self,
        now: Duration,
        peer: P,
        act: impl FnOnce(&mut Peer, &mut Context<'_, P>) -> R,
    ) -> Option<R> {
        let known = self.peers.contains_key(&peer);
        known.then(|| self.with_new(now, peer, act))
    }

    /// Has a peer act, which is made known if it is not.
    fn with_new<R>(
        &mut self,
        now: Duration,
        peer: P,
        act: impl FnOnce(&mut Peer, &mut Context<'_, P>) -> R,
    ) -> R {
        let shared = &mut self.shared;
        let mut cx = Context { shared, peer, now };
        let state = self.peers.entry(peer);
        let state = state.or_insert_with(|| Peer::new(&mut cx));
        let result = act(state, &mut cx);
        if state.is_empty(now) {
            self.remove(peer);
            return result;
        }
        match state.memory.len() > 0 || state.is_dispensable() {
            true => self.forgettable.put(peer, ()),
            false => self.forgettable.pop(&peer),
        };
        let (due, scheduled) = (state.due(now), state.scheduled);
        if let Some(due) = due
            && scheduled.is_none_or(|scheduled| due < scheduled)
        {
            // A timer that is too early is left: it costs less than moving it at every message.
            state.scheduled = Some(due);
            self.unschedule(peer, scheduled);
            self.timers.insert((due, peer));
        }
        result
    }

    fn unschedule(&mut self, peer: P, scheduled: Option<Duration>) {
        if let Some(due) = scheduled {
            self.timers.remove(&(due, peer));
        }
    }
}
