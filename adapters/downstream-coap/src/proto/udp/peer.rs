//! All that is known of one peer, and what a datagram or the time makes of it.

use std::hash::Hash;
use std::time::Duration;

use bytes::Bytes;

use super::calls::Call;
use super::context::Context;
use super::event::{AnswerError, CallError, EndReason, Event, ExchangeId, NotificationOutcome};
use super::memory::{Memory, Print, Reply};
use super::observers::Observers;
use super::outbox::{Due, Letter, Outbox, Purpose};
use super::server::Pending;
use crate::proto::block::{Assemblies, Bodies};
use crate::proto::budget::Share;
use crate::proto::config::EchoPolicy;
use crate::proto::message::{Code, Datagram, Kind};

/// What may be sent to a source that has not shown that it receives at its address, as a multiple of
/// what came from there (RFC 9175, section 2.4, names three).
const AMPLIFICATION: usize = 3;
/// The most that such a source can save up: a few datagrams.
const MAX_ALLOWANCE: usize = 8 * 1024;

#[derive(Debug)]
pub(super) struct Peer {
    /// It has shown that it receives at its address.
    pub(super) is_proven: bool,
    /// Bytes that may be sent to it while it has not.
    pub(super) allowance: usize,
    next_id: u16,
    /// When the last of our message ids may be used again.
    ids_free_at: Duration,
    pub(super) memory: Memory,
    pub(super) pending: Vec<Pending>,
    pub(super) outbox: Outbox,
    pub(super) calls: Vec<Call>,
    pub(super) observers: Observers,
    pub(super) assemblies: Assemblies,
    pub(super) bodies: Bodies,
    _peer_share: Share,
    /// The peer itself, its pending requests and its memory.
    remembered: Share,
    pub(super) pending_share: Share,
    pub(super) observation_share: Share,
    /// When the endpoint will look at it.
    pub(super) scheduled: Option<Duration>,
}

impl Peer {
    pub(super) fn new<P: Copy + Hash>(cx: &mut Context<'_, P>) -> Self {
        let mut peer = Self {
            is_proven: cx.shared.config.echo == EchoPolicy::Never,
            allowance: 0,
            next_id: cx.shared.random.next() as u16,
            ids_free_at: Duration::ZERO,
            memory: Memory::default(),
            pending: Vec::new(),
            outbox: Outbox::default(),
            calls: Vec::new(),
            observers: Observers::default(),
            assemblies: Assemblies::default(),
            bodies: Bodies::default(),
            _peer_share: cx.shared.peers.share_of_one(),
            remembered: cx.shared.remembered.share(),
            pending_share: cx.shared.pending.share(),
            observation_share: cx.shared.observations.share(),
            scheduled: None,
        };
        peer.account();
        peer
    }

    /// Takes a datagram, of so many bytes, that is no ping.
    pub(super) fn on_datagram<P: Copy + Hash>(
        &mut self,
        cx: &mut Context<'_, P>,
        datagram: Datagram,
        print: Print,
        size: usize,
    ) {
        self.allow(size);
        match (datagram.kind, datagram.message.code) {
            (Kind::Acknowledgement, Code::EMPTY) => self.on_acknowledged(cx, datagram.id),
            (Kind::Acknowledgement, _) => self.on_piggybacked(cx, datagram),
            (Kind::Reset, _) => self.on_reset(cx, datagram.id),
            (_, code) if code.is_request() => self.on_request(cx, datagram, print),
            _ => self.on_response(cx, datagram, print),
        }
        self.flush(cx);
    }

    fn allow(&mut self, size: usize) {
        let allowance = self.allowance + size * AMPLIFICATION;
        self.allowance = allowance.min(MAX_ALLOWANCE);
    }

    fn on_acknowledged<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, id: u16) {
        let Some(letter) = self.outbox.settle(id) else {
            return;
        };
        // Who knows its id has received it.
        self.allow(letter.bytes.len());
        match letter.purpose {
            Purpose::Notification {
                observation,
                is_whole,
            } => self.on_confirmed(cx, observation, is_whole),
            Purpose::Response(exchange) => answered(cx, exchange, Ok(())),
            Purpose::Call(_) => {}
        }
    }

    fn on_reset<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, id: u16) {
        let letter = self.outbox.settle(id);
        match letter.map(|letter| letter.purpose) {
            Some(Purpose::Response(exchange)) => answered(cx, exchange, Err(AnswerError::Reset)),
            Some(Purpose::Call(serial)) => self.finish(cx, serial, Err(CallError::Reset)),
            Some(Purpose::Notification { observation, .. }) => {
                self.on_notified(cx, observation, NotificationOutcome::Reset);
            }
            None => self.on_call_reset(cx, id),
        }
    }

    /// Does what the time asks for.
    pub(super) fn on_timeout<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>) {
        self.expire_requests(cx);
        self.memory.expire(cx.now);
        self.assemblies.expire(cx.now);
        self.bodies.expire(cx.now);
        while let Some(due) = self.outbox.due_now(cx.now) {
            let letter = match due {
                Due::Again(letter) => {
                    self.post(cx, &letter);
                    continue;
                }
                Due::GivenUp(letter) => letter,
            };
            match letter.purpose {
                Purpose::Response(exchange) => answered(cx, exchange, Err(AnswerError::TimedOut)),
                Purpose::Call(serial) => self.finish(cx, serial, Err(CallError::TimedOut)),
                Purpose::Notification { observation, .. } => {
                    self.on_notified(cx, observation, NotificationOutcome::TimedOut);
                }
            }
        }
        self.expire_calls(cx);
        self.account();
        self.flush(cx);
    }

    /// When there is something to do next.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        let times = [
            self.pending.iter().map(Pending::due).min(),
            self.memory.due(),
            self.outbox.due(),
            self.calls.iter().map(|call| call.deadline).min(),
            self.assemblies.due(),
            self.bodies.due(),
            Some(self.ids_free_at).filter(|at| *at > now),
        ];
        times.into_iter().flatten().min()
    }

    /// Tells whether nothing would be lost but what is remembered for duplicates.
    fn is_idle(&self) -> bool {
        !self.is_busy() && !self.has_blocks()
    }

    /// Tells whether it may be forgotten for a new one: nobody waits for anything of it. Whoever
    /// forges addresses can begin bodies under each.
    pub(super) fn is_dispensable(&self) -> bool {
        let keeps_blocks = self.is_proven && self.has_blocks();
        !self.is_busy() && !keeps_blocks
    }

    fn is_busy(&self) -> bool {
        let has_work =
            !self.pending.is_empty() || !self.outbox.is_empty() || !self.calls.is_empty();
        has_work || self.observers.first().is_some()
    }

    fn has_blocks(&self) -> bool {
        self.assemblies.due().or(self.bodies.due()).is_some()
    }

    /// Tells whether nothing at all would be lost.
    pub(super) fn is_empty(&self, now: Duration) -> bool {
        self.is_idle() && self.memory.len() == 0 && self.ids_free_at <= now
    }

    /// Ends everything that somebody waits for.
    pub(super) fn close<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>) {
        for exchange in self.outbox.answered() {
            answered(cx, Some(exchange), Err(AnswerError::Closed));
        }
        while let Some(call) = self.calls.first() {
            self.finish(cx, call.serial, Err(CallError::Closed));
        }
        while let Some(observation) = self.observers.first() {
            self.end(cx, observation, EndReason::Closed);
        }
    }

    /// Sends what is not to be acknowledged, or sends again; not more than an unproven source may
    /// get.
    pub(super) fn send<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, bytes: Bytes) {
        if !self.is_proven {
            let Some(left) = self.allowance.checked_sub(bytes.len()) else {
                return;
            };
            self.allowance = left;
        }
        cx.transmit(bytes);
    }

    pub(super) fn acknowledge<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, id: u16) {
        self.send(cx, Datagram::empty(Kind::Acknowledgement, id).encode());
    }

    /// Sends the letters whose turn it is.
    pub(super) fn flush<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>) {
        while let Some(letter) = self.next_letter(cx) {
            self.post(cx, &letter);
        }
        self.account_pending();
    }

    fn next_letter<P>(&mut self, cx: &mut Context<'_, P>) -> Option<Letter> {
        let shared = &mut *cx.shared;
        let config = &shared.config.transmission;
        self.outbox.next(cx.now, config, &mut shared.random)
    }

    fn post<P: Copy + Hash>(&mut self, cx: &mut Context<'_, P>, letter: &Letter) {
        match letter.purpose {
            // It was our own wish to speak to this address.
            Purpose::Call(_) => cx.transmit(letter.bytes.clone()),
            _ => self.send(cx, letter.bytes.clone()),
        }
    }

    /// An id for a message of ours.
    pub(super) fn fresh_id<P: Copy + Hash>(&mut self, cx: &Context<'_, P>) -> u16 {
        self.ids_free_at = cx.forget_at();
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    pub(super) fn remember<P: Copy + Hash>(
        &mut self,
        cx: &Context<'_, P>,
        print: Print,
        reply: Reply,
    ) {
        let most = cx.shared.config.limits.max_remembered_per_peer;
        self.memory.remember(print, reply, cx.forget_at(), most);
        self.account();
    }

    /// Takes or gives back units of what may be remembered in all; without them the oldest is
    /// forgotten.
    pub(super) fn account(&mut self) {
        loop {
            let needed = 1 + self.pending.len() + self.memory.len();
            self.remembered.shrink_to(needed);
            let missing = needed - self.remembered.amount();
            if self.remembered.take(missing) || !self.memory.forget_one() {
                return;
            }
        }
    }
}

/// Tells how a separate answer ended, if that is to be told.
fn answered<P: Copy + Hash>(
    cx: &mut Context<'_, P>,
    exchange: Option<u64>,
    result: Result<(), AnswerError>,
) {
    if let Some(serial) = exchange {
        let peer = cx.peer;
        let exchange = ExchangeId { peer, serial };
        cx.tell(Event::Answered { exchange, result });
    }
}
