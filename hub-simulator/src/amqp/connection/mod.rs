//! A connection as a state machine: bytes and notices in, bytes out, the time passed in.

mod events;
mod room;
mod sasl;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use crate::amqp::codec::DecodeError;
use crate::amqp::codec::encode;
use crate::amqp::codec::frame::{self, FrameKind, ProtocolHeader};
use crate::amqp::codec::performative::{Begin, Open, Performative};
use crate::amqp::core::Core;
use crate::amqp::session::Session;
use crate::amqp::{AmqpError, condition};
use crate::cloud::Caller;
use crate::guid::Guid;
use crate::hub::peer::{Notice, Peer, Route};
use crate::hub::state::Now;
use crate::shell::{Engine, LineOrder};

/// The smallest frame that everybody must take (AMQP 1.0 section 2.8.19).
const MIN_MAX_FRAME_SIZE: u32 = 512;
/// The name that the token of a SASL PLAIN login is kept under.
const LOGIN: &str = "";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A protocol header comes next; SASL at most once.
    Header {
        after_sasl: bool,
    },
    Sasl,
    Opening,
    Open,
    /// Nothing is read or said any more.
    Closed,
}

#[derive(Debug)]
enum SessionSlot {
    Open(Box<Session>),
    /// The hub has ended it: frames are dropped until the peer does.
    Ending,
}

/// One AMQP connection.
#[derive(Debug)]
pub(crate) struct Connection {
    core: Core,
    /// What the hub calls itself on it.
    container: String,
    phase: Phase,
    sessions: HashMap<u16, SessionSlot>,
    /// Sessions that may have settlements to send at the end of the turn.
    touched: Vec<u16>,
    channel_max: u16,
    /// How often the peer wants to hear something.
    heartbeat: Option<Duration>,
    /// When the peer has to have opened.
    open_by: Instant,
    last_input: Instant,
    last_output: Instant,
    /// The connection lives by the token of its login.
    has_login: bool,
    /// The reader of events that had to wait and was served last.
    resumed: Route,
}

impl Connection {
    pub(crate) fn new(caller: Caller, peer: Arc<Peer>, now: Now) -> Self {
        Self {
            channel_max: caller.hub.limits.channel_max,
            open_by: now.instant + caller.hub.limits.amqp_open_timeout,
            core: Core::new(caller, peer, now),
            container: format!("DeviceGateway_{}", Guid::random().simple()),
            phase: Phase::Header { after_sasl: false },
            sessions: HashMap::new(),
            touched: Vec::new(),
            heartbeat: None,
            last_input: now.instant,
            last_output: now.instant,
            has_login: false,
            resumed: Route(0),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// How much later than made its output leaves.
    pub(crate) fn latency(&self) -> Duration {
        self.core.hub.script.latency()
    }

    /// Takes the output gathered so far.
    pub(crate) fn take_output(&mut self) -> BytesMut {
        self.core.out.split()
    }

    /// Consumes all whole frames of `input`.
    pub(crate) fn input(&mut self, input: &mut BytesMut, now: Now) {
        self.core.now = now;
        self.last_input = now.instant;
        loop {
            let used = match self.phase {
                Phase::Closed => {
                    input.clear();
                    return;
                }
                Phase::Header { after_sasl } => self.header(input, after_sasl),
                Phase::Sasl | Phase::Opening | Phase::Open => self.frame(input),
            };
            match used {
                0 => return,
                used => input.advance(used),
            }
        }
    }

    /// Ends a turn: what gathered for efficiency is written out.
    pub(crate) fn end_turn(&mut self) {
        for channel in self.touched.drain(..) {
            if let Some(SessionSlot::Open(session)) = self.sessions.get_mut(&channel) {
                session.end_turn(&mut self.core);
            }
        }
        self.core.flush_batch();
        if !self.core.out.is_empty() {
            self.last_output = self.core.now.instant;
        }
    }

    fn header(&mut self, input: &[u8], after_sasl: bool) -> usize {
        let Some(bytes) = input.first_chunk::<{ ProtocolHeader::LEN }>() else {
            return 0;
        };
        match ProtocolHeader::decode(*bytes) {
            Some(ProtocolHeader::Amqp) => {
                ProtocolHeader::Amqp.encode(&mut self.core.out);
                self.phase = Phase::Opening;
            }
            Some(ProtocolHeader::Sasl) if !after_sasl => {
                ProtocolHeader::Sasl.encode(&mut self.core.out);
                encode::sasl_mechanisms(&mut self.core.out);
                self.phase = Phase::Sasl;
            }
            // The answer to an unknown protocol is the one that is spoken (section 2.2).
            _ => {
                ProtocolHeader::Amqp.encode(&mut self.core.out);
                self.phase = Phase::Closed;
            }
        }
        ProtocolHeader::LEN
    }

    /// Takes one frame; returns the bytes used, 0 while it is incomplete.
    fn frame(&mut self, input: &[u8]) -> usize {
        let frame = match frame::split(input, self.core.hub.limits.max_frame_size) {
            Ok(Some(frame)) => frame,
            Ok(None) => return 0,
            Err(error) => {
                self.close(Some(&AmqpError::new(condition::FRAMING, error.to_string())));
                return input.len();
            }
        };
        let result = match (self.phase, frame.kind) {
            (Phase::Sasl, FrameKind::Sasl) => self.sasl_init(frame.body),
            (Phase::Opening | Phase::Open, FrameKind::Amqp) if frame.body.is_empty() => Ok(()),
            (Phase::Opening | Phase::Open, FrameKind::Amqp) => self.amqp(frame.channel, frame.body),
            _ => Err(AmqpError::new(
                condition::FRAMING,
                "The frame is of the wrong type.",
            )),
        };
        if let Err(error) = result {
            self.close(Some(&error));
        }
        self.make_room();
        frame.len
    }

    fn amqp(&mut self, channel: u16, body: &[u8]) -> Result<(), AmqpError> {
        match Performative::decode(body).map_err(undecodable)? {
            Performative::Open(open) if self.phase == Phase::Opening => self.open(&open),
            _ if self.phase == Phase::Opening => Err(AmqpError::new(
                condition::ILLEGAL_STATE,
                "A connection starts with an open.",
            )),
            Performative::Open(_) => Err(AmqpError::new(
                condition::ILLEGAL_STATE,
                "The connection is open already.",
            )),
            Performative::Begin(begin) => self.begin(channel, &begin),
            Performative::Close => {
                self.close(None);
                Ok(())
            }
            performative => self.session_frame(channel, &performative),
        }
    }

    fn open(&mut self, open: &Open<'_>) -> Result<(), AmqpError> {
        // A login is good for the hub that it was made to.
        if let Some(host) = open.hostname
            && !self.has_login
            && let Some(hub) = self.core.caller.cloud.hub_at(host)
        {
            self.core.move_to(hub);
        }
        let limits = &self.core.hub.limits;
        let idle_ms = u32::try_from(limits.idle_timeout.as_millis()).unwrap_or(u32::MAX);
        let (frame_size, channel_max) = (limits.max_frame_size, limits.channel_max);
        encode::open(
            &mut self.core.out,
            &self.container,
            frame_size,
            channel_max,
            idle_ms,
        );
        self.phase = Phase::Open;
        if open.max_frame_size < MIN_MAX_FRAME_SIZE {
            return Err(AmqpError::new(
                condition::INVALID_FIELD,
                "max-frame-size is below 512.",
            ));
        }
        self.core.frame_limit = open.max_frame_size.min(frame_size) as usize;
        self.channel_max = open.channel_max.min(channel_max);
        let asked = open
            .idle_time_out_ms
            .filter(|ms| *ms > 0)
            .map(u64::from)
            .map(Duration::from_millis);
        if asked.is_some_and(|asked| asked < limits.min_client_idle_timeout) {
            let least = limits.min_client_idle_timeout.as_millis();
            let text = format!("The idle time-out must be at least {least} ms.");
            return Err(AmqpError::new(condition::NOT_ALLOWED, text));
        }
        self.heartbeat = asked.map(|asked| asked * 7 / 8);
        Ok(())
    }

    fn begin(&mut self, channel: u16, begin: &Begin) -> Result<(), AmqpError> {
        if begin.answers_channel.is_some() || self.sessions.contains_key(&channel) {
            return Err(AmqpError::new(
                condition::ILLEGAL_STATE,
                "The channel is in use.",
            ));
        }
        if channel > self.channel_max {
            return Err(AmqpError::new(
                condition::FRAMING,
                "The channel is over channel-max.",
            ));
        }
        let limits = &self.core.hub.limits;
        let window = self
            .core
            .hub
            .script
            .incoming_window()
            .unwrap_or(limits.incoming_window)
            .max(1);
        encode::begin(&mut self.core.out, channel, 1, window, limits.handle_max);
        let session = Session::new(channel, begin, window);
        self.sessions
            .insert(channel, SessionSlot::Open(Box::new(session)));
        self.session_count_changed();
        Ok(())
    }

    fn session_count_changed(&self) {
        self.core
            .peer
            .sessions
            .store(self.sessions.len(), Ordering::Relaxed);
        self.core.hub.stir();
    }

    /// A frame for a session; an error ends that session, not the connection.
    fn session_frame(
        &mut self,
        channel: u16,
        performative: &Performative<'_>,
    ) -> Result<(), AmqpError> {
        let core = &mut self.core;
        let session = match self.sessions.get_mut(&channel) {
            Some(SessionSlot::Open(session)) => session,
            Some(SessionSlot::Ending) => {
                if matches!(performative, Performative::End) {
                    self.sessions.remove(&channel);
                    self.session_count_changed();
                }
                return Ok(());
            }
            None => {
                return Err(AmqpError::new(
                    condition::ILLEGAL_STATE,
                    "The channel has no session.",
                ));
            }
        };
        if self.touched.last() != Some(&channel) {
            self.touched.push(channel);
        }
        let result = match performative {
            Performative::Transfer(transfer) => session.on_transfer(core, transfer),
            Performative::Disposition(disposition) => {
                session.on_disposition(core, disposition);
                Ok(())
            }
            Performative::Flow(flow) => session.on_flow(core, flow),
            Performative::Attach(attach) => session.on_attach(core, attach),
            Performative::Detach { handle, closed } => {
                session.on_detach(core, *handle, *closed);
                Ok(())
            }
            Performative::End => {
                session.flush_settled(core);
                session.clear(core);
                encode::end(&mut core.out, channel, None);
                self.sessions.remove(&channel);
                self.session_count_changed();
                Ok(())
            }
            Performative::Open(_) | Performative::Begin(_) | Performative::Close => Ok(()),
        };
        if let Err(error) = result {
            self.end_session(channel, &error);
        }
        Ok(())
    }

    fn end_session(&mut self, channel: u16, error: &AmqpError) {
        if let Some(slot) = self.sessions.get_mut(&channel)
            && let SessionSlot::Open(mut session) = std::mem::replace(slot, SessionSlot::Ending)
        {
            session.flush_settled(&mut self.core);
            session.clear(&mut self.core);
            encode::end(&mut self.core.out, channel, Some(error));
        }
    }

    fn close(&mut self, error: Option<&AmqpError>) {
        self.end_turn();
        match self.phase {
            Phase::Open => encode::close(&mut self.core.out, error),
            // A close needs an open before it (section 2.4.1).
            Phase::Opening => {
                encode::open(&mut self.core.out, &self.container, 65_536, 0, 0);
                encode::close(&mut self.core.out, error);
            }
            Phase::Header { .. } | Phase::Sasl | Phase::Closed => {}
        }
        if let Some(error) = error {
            tracing::info!(condition = %error.condition, description = error.description, "Connection is closed by the hub");
        }
        self.phase = Phase::Closed;
        self.clear();
    }

    fn clear(&mut self) {
        for (_, slot) in self.sessions.drain() {
            if let SessionSlot::Open(mut session) = slot {
                session.clear(&mut self.core);
            }
        }
        self.session_count_changed();
    }
}

/// What the task around the engine calls; inherent methods of the same names do the work.
impl Engine for Connection {
    fn input(&mut self, input: &mut BytesMut, now: Now) {
        Self::input(self, input, now);
    }

    fn notice(&mut self, notice: Notice, now: Now) -> Option<LineOrder> {
        Self::notice(self, notice, now)
    }

    fn on_time(&mut self, now: Now) {
        Self::on_time(self, now);
    }

    fn next_deadline(&self) -> Instant {
        Self::next_deadline(self)
    }

    fn resume(&mut self, now: Now) {
        Self::resume(self, now);
    }

    fn end_turn(&mut self) {
        Self::end_turn(self);
    }

    fn take_output(&mut self) -> BytesMut {
        Self::take_output(self)
    }

    fn latency(&self) -> Duration {
        Self::latency(self)
    }

    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.core.flush_batch();
        self.clear();
        self.core.hub.leave(self.core.peer.id);
    }
}

fn undecodable(error: DecodeError) -> AmqpError {
    AmqpError::new(condition::DECODE, error.to_string())
}
