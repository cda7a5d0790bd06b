//! A connection as a state machine: bytes and notices in, bytes out, the time passed in.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::codec::encode::{self, SaslCode};
use super::codec::frame::{self, FrameKind, ProtocolHeader};
use super::codec::performative::{Begin, Open, Performative};
use super::codec::{DecodeError, code, read};
use super::core::Core;
use super::session::Session;
use super::{AmqpError, condition, endpoint};
use crate::clock::unix_seconds;
use crate::faults::Order;
use crate::guid::Guid;
use crate::hub::Hub;
use crate::hub::peer::{Notice, Peer, Route};
use crate::hub::registry::Principal;
use crate::hub::state::Now;

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

/// What the task around the engine has to do itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineOrder {
    Cut,
    Freeze(bool),
}

/// One AMQP connection.
#[derive(Debug)]
pub(crate) struct Connection {
    core: Core,
    phase: Phase,
    sessions: HashMap<u16, SessionSlot>,
    /// Sessions that may have settlements to send at the end of the turn.
    touched: Vec<u16>,
    channel_max: u16,
    /// How often the peer wants to hear something.
    heartbeat: Option<Duration>,
    last_input: Instant,
    last_output: Instant,
    /// The connection lives by the token of its login.
    has_login: bool,
}

impl Connection {
    pub(crate) fn new(hub: Arc<Hub>, peer: Arc<Peer>, now: Now) -> Self {
        Self {
            channel_max: hub.limits.channel_max,
            core: Core::new(hub, peer, now),
            phase: Phase::Header { after_sasl: false },
            sessions: HashMap::new(),
            touched: Vec::new(),
            heartbeat: None,
            last_input: now.instant,
            last_output: now.instant,
            has_login: false,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
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

    fn open(&mut self, open: &Open) -> Result<(), AmqpError> {
        let limits = &self.core.hub.limits;
        let container = format!("DeviceGateway_{}", Guid::random().simple());
        let idle_ms = u32::try_from(limits.idle_timeout.as_millis()).unwrap_or(u32::MAX);
        let (frame_size, channel_max) = (limits.max_frame_size, limits.channel_max);
        encode::open(
            &mut self.core.out,
            &container,
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
            Performative::Detach { handle, closed } => session.on_detach(core, *handle, *closed),
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
                encode::open(&mut self.core.out, "DeviceGateway", 65_536, 0, 0);
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

    // SASL (AMQP 1.0 section 5.3).

    fn sasl_init(&mut self, body: &[u8]) -> Result<(), AmqpError> {
        let (mechanism, response) = parse_sasl_init(body).map_err(undecodable)?;
        let outcome = match mechanism {
            // The identity comes by a token on $cbs.
            "MSSBCBS" | "ANONYMOUS" | "EXTERNAL" => SaslCode::Ok,
            "PLAIN" => self.login(response.unwrap_or_default()),
            _ => SaslCode::Auth,
        };
        encode::sasl_outcome(&mut self.core.out, outcome);
        self.phase = if outcome == SaslCode::Ok {
            Phase::Header { after_sasl: true }
        } else {
            Phase::Closed
        };
        Ok(())
    }

    /// `PLAIN`: the user names the identity and the short name of the hub, the password is a token.
    fn login(&mut self, response: &[u8]) -> SaslCode {
        let mut parts = response
            .split(|byte| *byte == 0)
            .skip(1)
            .map(std::str::from_utf8);
        let (Some(Ok(user)), Some(Ok(token)), None) = (parts.next(), parts.next(), parts.next())
        else {
            return SaslCode::Auth;
        };
        let mut state = self.core.hub.state();
        let Some((identity, scope)) = user.rsplit_once('@') else {
            return SaslCode::Auth;
        };
        let Some(hub) = scope.strip_prefix("sas.") else {
            return SaslCode::Auth;
        };
        let policy_hub = hub.strip_prefix("root.");
        if policy_hub.unwrap_or(hub) != state.registry.short_name() {
            return SaslCode::Sys;
        }
        let checked = state.registry.check_token(token, self.core.now.system);
        drop(state);
        let fits = |principal: &Principal| match principal {
            Principal::Device(device) => policy_hub.is_none() && &**device == identity,
            Principal::Policy { name, .. } => policy_hub.is_some() && *name == identity,
        };
        match checked {
            Ok(grant) if fits(&grant.principal) => {
                self.core.tokens.put(LOGIN, grant);
                self.core.token_count_changed();
                self.has_login = true;
                SaslCode::Ok
            }
            Ok(_) => SaslCode::Auth,
            Err(error) => {
                tracing::info!(user, %error, "Login is refused");
                SaslCode::Auth
            }
        }
    }

    // Time.

    /// When `on_time` next has something to do.
    pub(crate) fn next_deadline(&self) -> Instant {
        let silence = self.last_input + self.core.hub.limits.idle_timeout;
        let heartbeat = self.heartbeat.map(|every| self.last_output + every);
        let expiry = self
            .core
            .tokens
            .next_expiry()
            .map(|expiry| self.core.now.at_unix(expiry));
        let delayed = self.core.delayed.front().map(|delayed| delayed.due);
        [heartbeat, expiry, delayed]
            .into_iter()
            .flatten()
            .fold(silence, Instant::min)
    }

    /// Does what has become due.
    pub(crate) fn on_time(&mut self, now: Now) {
        self.core.now = now;
        if self.is_closed() {
            return;
        }
        if now.instant >= self.last_input + self.core.hub.limits.idle_timeout {
            return self.close(Some(&AmqpError::new(
                condition::RESOURCE_LIMIT,
                "The peer is silent.",
            )));
        }
        if self
            .heartbeat
            .is_some_and(|every| now.instant >= self.last_output + every)
            && self.phase == Phase::Open
        {
            frame::put_empty(&mut self.core.out);
        }
        if self.core.tokens.expire(unix_seconds(now.system)) {
            self.core.token_count_changed();
            let error = AmqpError::new(condition::UNAUTHORIZED, "Token Invalid.");
            if self.has_login && !self.core.tokens.contains(LOGIN) {
                return self.close(Some(&error));
            }
            self.detach_unauthorized(|_device| true, Some(&error));
        }
        while self
            .core
            .delayed
            .front()
            .is_some_and(|delayed| delayed.due <= now.instant)
        {
            let Some(delayed) = self.core.delayed.pop_front() else {
                break;
            };
            if let Some(SessionSlot::Open(session)) = self.sessions.get_mut(&delayed.channel) {
                session.settle_late(&mut self.core, delayed.settlement);
                self.touched.push(delayed.channel);
            }
        }
    }

    /// Detaches the links that no token covers any more, or whose device is gone.
    fn detach_unauthorized(
        &mut self,
        concerns: impl Fn(Option<&str>) -> bool,
        text: Option<&AmqpError>,
    ) {
        for slot in self.sessions.values_mut() {
            let SessionSlot::Open(session) = slot else {
                continue;
            };
            let lost: Vec<_> = session
                .links()
                .filter(|(_, link)| concerns(link.device.as_deref()))
                .filter_map(|(handle, link)| {
                    let error = self
                        .core
                        .authorize(link.kind, link.device.as_deref())
                        .err()?;
                    Some((handle, error))
                })
                .collect();
            for (handle, error) in lost {
                session.detach(&mut self.core, handle, Some(text.unwrap_or(&error)));
            }
        }
    }

    // Notices.

    /// Takes a notice of the hub; what concerns the line itself comes back as an order.
    pub(crate) fn notice(&mut self, notice: Notice, now: Now) -> Option<LineOrder> {
        self.core.now = now;
        match notice {
            Notice::MessageReady(route) => {
                self.at(route, |session, core, handle| session.pump(core, handle))
            }
            Notice::Desired(route, patch) => self.at(route, |session, core, handle| {
                session.send(core, handle, endpoint::twin::encode_desired(&patch));
            }),
            Notice::Method(route, call) => self.at(route, |session, core, handle| {
                session.send(core, handle, endpoint::methods::encode(&call));
            }),
            Notice::Displaced(route) => self.at(route, |session, core, handle| {
                let text = "Another AMQP Client has opened a Receive Link";
                let error = AmqpError::new(condition::INTERNAL, text);
                session.detach(core, handle, Some(&error));
            }),
            Notice::DeviceGone(id) => self.detach_unauthorized(|device| device == Some(&*id), None),
            Notice::Order(Order::Cut) => return Some(LineOrder::Cut),
            Notice::Order(Order::Freeze(frozen)) => return Some(LineOrder::Freeze(frozen)),
            Notice::Order(order) => self.obey(order),
        }
        None
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Cut | Order::Freeze(_) => {}
            Order::Close(error) => self.close(Some(&error)),
            Order::EndSessions(device, error) => {
                for channel in self.sessions.keys().copied().collect::<Vec<_>>() {
                    let Some(SessionSlot::Open(session)) = self.sessions.get(&channel) else {
                        continue;
                    };
                    let concerned = device.as_deref().is_none_or(|id| {
                        session
                            .links()
                            .any(|(_, link)| link.device.as_deref() == Some(id))
                    });
                    if concerned {
                        self.end_session(channel, &error);
                    }
                }
            }
            Order::Detach(device, kind, error) => {
                for slot in self.sessions.values_mut() {
                    let SessionSlot::Open(session) = slot else {
                        continue;
                    };
                    let concerned: Vec<u32> = session
                        .links()
                        .filter(|(_, link)| {
                            device.is_none() || link.device.as_deref() == device.as_deref()
                        })
                        .filter(|(_, link)| kind.includes(link.kind.fault_kind()))
                        .map(|(handle, _)| handle)
                        .collect();
                    for handle in concerned {
                        session.detach(&mut self.core, handle, Some(&error));
                    }
                }
            }
            Order::Release => {
                for (channel, slot) in &mut self.sessions {
                    if let SessionSlot::Open(session) = slot {
                        session.release_held(&mut self.core);
                        self.touched.push(*channel);
                    }
                }
            }
        }
    }

    /// Acts on the link that a route means, if it is still there.
    fn at(&mut self, route: Route, act: impl FnOnce(&mut Session, &mut Core, u32)) {
        let (channel, handle, serial) = route.unpack();
        if let Some(SessionSlot::Open(session)) = self.sessions.get_mut(&channel)
            && let Some(handle) = session.current(handle, serial)
        {
            act(session, &mut self.core, handle);
        }
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

fn parse_sasl_init(body: &[u8]) -> Result<(&str, Option<&[u8]>), DecodeError> {
    match read::split(body)?.0 {
        read::Value::Described(described) if described.code == code::SASL_INIT => {
            let mut fields = described.fields()?;
            let mechanism = fields
                .text()?
                .ok_or(DecodeError("sasl-init names no mechanism"))?;
            Ok((mechanism, fields.binary()?))
        }
        _ => Err(DecodeError("not a sasl-init")),
    }
}
