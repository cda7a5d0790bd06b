//! One session, from the client's hello with a good cookie on.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use dimpl::{Dtls, Output};

use super::engine::{Engines, with_cookie};
use super::event::Refusal;
use super::store::PskEntry;
use super::wire::{self, BadIdentity, COOKIE_LENGTH, Hello, IdentityReader};

/// Datagrams of a client that wait for its key, and then for each other: the flight that names the
/// identity, once more in case it was sent again, each in up to three.
pub(super) const MAX_HELD: usize = 6;
/// Requests for a cookie that a client may have got: one, and a few that came too late.
const MAX_VERIFY_REQUESTS: u16 = 4;

/// What a session has for its owner.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A datagram to be sent.
    Transmit(Bytes),
    /// The client names its identity: [`Session::identified`] goes on.
    Identify(String),
    /// The client has proved its identity.
    Open(PskEntry),
    /// A message of the client.
    Message(Bytes),
    /// The client has taken leave.
    Closed,
}

/// What sessions use in turn.
#[derive(Debug)]
pub(super) struct Desk {
    engines: Engines,
    /// The engine's clock, when ours began.
    start: tokio::time::Instant,
    buffer: Vec<u8>,
    pub(super) outcomes: Vec<Outcome>,
}

impl Desk {
    pub(super) fn new(engines: Engines, max_datagram: usize) -> Self {
        Self {
            engines,
            start: tokio::time::Instant::now(),
            buffer: vec![0; max_datagram],
            outcomes: Vec::new(),
        }
    }
}

pub(super) struct Session {
    engine: Box<Dtls>,
    stage: Stage,
    hello: (u16, [u8; 32]),
    /// When the engine has something to do.
    due: Option<Duration>,
}

/// How far a session is.
enum Stage {
    /// The client is to name its identity. What comes is held back: with the whole name the engine
    /// would want the key at once.
    Naming(IdentityReader, Vec<Bytes>),
    /// Somebody looks the key up.
    LookedUp(String, Vec<Bytes>),
    /// The client is to prove that it has the key.
    Proving(String, PskEntry),
    Open,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Naming(..) => "Naming",
            Stage::LookedUp(..) => "LookedUp",
            Stage::Proving(..) => "Proving",
            Stage::Open => "Open",
        };
        f.debug_struct("Session")
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Answers a hello whose cookie is good. `None` if the client cannot have come by it honestly.
    pub(super) fn begin(
        desk: &mut Desk,
        now: Duration,
        hello: &Hello,
        cookie: [u8; COOKIE_LENGTH],
        datagram: &[u8],
    ) -> Option<Result<Self, Refusal>> {
        if !(1..=MAX_VERIFY_REQUESTS).contains(&hello.message_seq) {
            return None;
        }
        let at = (desk.start + now).into_std();
        let engine = Dtls::new_12_psk(desk.engines.config.clone(), at);
        let mut session = Self {
            engine: Box::new(engine),
            stage: Stage::Naming(IdentityReader::default(), Vec::new()),
            hello: (hello.message_seq, hello.random),
            due: None,
        };
        Some(
            session
                .answer_hello(desk, now, cookie, datagram)
                .map(|()| session),
        )
    }

    fn answer_hello(
        &mut self,
        desk: &mut Desk,
        now: Duration,
        cookie: [u8; COOKIE_LENGTH],
        datagram: &[u8],
    ) -> Result<(), Refusal> {
        // It must hear of the time before it hears of anything else.
        self.tell_time(desk, now)?;
        // It has to count the requests for a cookie that the client got. It takes back no part of
        // them, and its own are not sent.
        for message_seq in 0..self.hello.0 {
            self.put(&wire::bare_hello(message_seq))?;
            self.drain(desk);
            desk.outcomes.clear();
        }
        with_cookie(cookie, || self.put(datagram))?;
        self.drain(desk);
        Ok(())
    }

    /// Tells whether a hello is the one that this session began with, sent again.
    pub(super) fn began_with(&self, hello: &Hello) -> bool {
        self.hello == (hello.message_seq, hello.random)
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// The identity that the client has named.
    pub(super) fn identity(&self) -> Option<&str> {
        match &self.stage {
            Stage::LookedUp(identity, _) | Stage::Proving(identity, _) => Some(identity),
            Stage::Naming(..) | Stage::Open => None,
        }
    }

    /// When [`on_timeout`](Self::on_timeout) is to be called.
    pub(super) fn due(&self) -> Option<Duration> {
        match self.stage {
            Stage::Naming(..) | Stage::Proving(..) => self.due,
            // The client has got the flight that the engine would send again.
            Stage::LookedUp(..) => None,
            // It sends nothing on its own.
            Stage::Open => None,
        }
    }

    /// Takes a datagram. After an error the session is over.
    pub(super) fn receive(
        &mut self,
        desk: &mut Desk,
        now: Duration,
        datagram: &[u8],
        is_hello: bool,
    ) -> Result<(), Refusal> {
        let message_seq = self.hello.0 + 1;
        if !is_hello && !self.is_open() && !wire::ends_handshake(datagram, message_seq) {
            return Ok(());
        }
        if let Stage::LookedUp(_, held) = &mut self.stage {
            hold(held, datagram);
            return Ok(());
        }
        self.tell_time(desk, now)?;
        match &mut self.stage {
            Stage::Naming(reader, held) if !is_hello => {
                hold(held, datagram);
                if let Some(identity) = reader.read(datagram) {
                    let identity = identity.map_err(|BadIdentity| Refusal::UnknownIdentity)?;
                    let held = std::mem::take(held);
                    self.stage = Stage::LookedUp(identity.clone(), held);
                    desk.outcomes.push(Outcome::Identify(identity));
                }
            }
            _ => self.work(desk, datagram)?,
        }
        self.drain(desk);
        Ok(())
    }

    /// Goes on with the key of the identity that the client has named; without effect if it has
    /// named none, or the key is there.
    pub(super) fn identified(
        &mut self,
        desk: &mut Desk,
        now: Duration,
        entry: PskEntry,
    ) -> Result<(), Refusal> {
        let Stage::LookedUp(identity, held) = &mut self.stage else {
            return Ok(());
        };
        let (identity, mut held) = (std::mem::take(identity), std::mem::take(held));
        self.stage = Stage::Proving(identity, entry);
        held.sort_by_key(|datagram| wire::order(datagram));
        for datagram in held {
            // What is left then is the same flight once more.
            if !self.is_open() {
                self.work(desk, &datagram)?;
                self.drain(desk);
            }
        }
        // Before, it would send its last flight again.
        self.tell_time(desk, now)?;
        self.drain(desk);
        Ok(())
    }

    /// Has the engine take a datagram, with the key if it is known and not proved yet.
    fn work(&mut self, desk: &Desk, datagram: &[u8]) -> Result<(), Refusal> {
        match &self.stage {
            Stage::Proving(identity, entry) => {
                let (identity, key) = (identity.clone(), entry.key.clone());
                let keys = &desk.engines.keys;
                keys.during(identity, key, || self.put(datagram))
            }
            _ => self.put(datagram),
        }
    }

    fn put(&mut self, datagram: &[u8]) -> Result<(), Refusal> {
        self.engine
            .handle_packet(datagram)
            .map_err(|_| self.fault())
    }

    /// Says what an error of the engine means, by how far the session is.
    fn fault(&self) -> Refusal {
        match self.stage {
            Stage::Proving(..) => Refusal::WrongKey,
            _ => Refusal::Unsuitable,
        }
    }

    fn tell_time(&mut self, desk: &Desk, now: Duration) -> Result<(), Refusal> {
        let at = (desk.start + now).into_std();
        self.engine.handle_timeout(at).map_err(|error| match error {
            dimpl::Error::Timeout(_) => Refusal::TimedOut,
            _ => self.fault(),
        })
    }

    /// Sends again what has to be.
    pub(super) fn on_timeout(&mut self, desk: &mut Desk, now: Duration) -> Result<(), Refusal> {
        self.tell_time(desk, now)?;
        self.drain(desk);
        Ok(())
    }

    /// Sends a message.
    pub(super) fn send(&mut self, desk: &mut Desk, message: &[u8]) -> Result<(), Refusal> {
        let sent = self.engine.send_application_data(message);
        sent.map_err(|_| self.fault())?;
        self.drain(desk);
        Ok(())
    }

    /// Takes leave.
    pub(super) fn close(&mut self, desk: &mut Desk) {
        // What cannot take leave just goes.
        if self.engine.close().is_ok() {
            self.drain(desk);
        }
    }

    fn drain(&mut self, desk: &mut Desk) {
        loop {
            let outcome = match self.engine.poll_output(&mut desk.buffer) {
                Output::Packet(bytes) => Outcome::Transmit(Bytes::copy_from_slice(bytes)),
                Output::ApplicationData(bytes) => Outcome::Message(Bytes::copy_from_slice(bytes)),
                Output::CloseNotify => Outcome::Closed,
                Output::Connected => match std::mem::replace(&mut self.stage, Stage::Open) {
                    Stage::Proving(_, entry) => Outcome::Open(entry),
                    // Without the key the engine lets nobody through.
                    _ => Outcome::Closed,
                },
                Output::BufferTooSmall { needed } => {
                    desk.buffer.resize(needed, 0);
                    continue;
                }
                Output::Timeout(at) => {
                    let due = at.saturating_duration_since(desk.start.into_std());
                    self.due = Some(due);
                    return;
                }
                // Certificates and keys for media, which there are none of.
                _ => continue,
            };
            desk.outcomes.push(outcome);
        }
    }
}

/// Keeps a datagram, if there are not too many; else it comes again.
fn hold(held: &mut Vec<Bytes>, datagram: &[u8]) {
    if held.len() < MAX_HELD {
        held.push(Bytes::copy_from_slice(datagram));
    }
}
