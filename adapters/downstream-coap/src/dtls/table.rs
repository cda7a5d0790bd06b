//! All sessions of one socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::{ConfigError, DeviceId};

use super::config::DtlsConfig;
use super::cookie::Cookies;
use super::engine::Engines;
use super::event::{DtlsEvent, DtlsSendError, DtlsTransmit, Refusal, SessionEnd, SessionId};
use super::roster::Roster;
use super::session::{Desk, Outcome, Session};
use super::store::PskEntry;
use super::wire::{self, Alert, Arrival, Hello, VERIFY_REQUEST_LENGTH};
use crate::proto::Seed;

/// Is the DTLS-PSK server of one socket, for any number of devices.
///
/// Datagrams, answers of a [`PskStore`](super::PskStore) and the time go in; datagrams to be sent
/// and [events](DtlsEvent) come out. Time is a [`Duration`] since the table was made.
///
/// A source costs nothing before it has brought a cookie back (RFC 6347, section 4.2.1), and gets no
/// more bytes until then than it has sent. A session stays while its device begins a new one, until
/// the new one has proved the device's identity: what is forged ends no session.
///
/// # When a device's address changes
/// A NAT forgets a silent device within minutes, and its next message comes from an address that has
/// no session. Without a connection id (RFC 9146) nobody can tell whose it is: the message is
/// dropped, the device makes a new handshake, and its old session ends with
/// [`SessionEnd::Replaced`]. With one, [`receive`](Self::receive) would look a session up by it
/// before the address; everything else goes by [`SessionId`] already.
#[derive(Debug)]
pub struct DtlsTable {
    config: DtlsConfig,
    cookies: Cookies,
    desk: Desk,
    roster: Roster,
    transmits: VecDeque<DtlsTransmit>,
    events: VecDeque<DtlsEvent>,
}

/// Counts what a table holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DtlsStats {
    /// Sessions of devices.
    pub sessions: usize,
    /// Handshakes of clients that receive at their address.
    pub handshakes: usize,
}

impl DtlsTable {
    /// Makes a table without sessions.
    ///
    /// # Errors
    /// A setting is wrong.
    pub fn new(config: DtlsConfig, seed: Seed) -> Result<Self, ConfigError> {
        config.validate()?;
        let engines = Engines::new(&config).map_err(|error| {
            let key = "retransmission_timeout, max_retransmit, handshake_timeout";
            ConfigError::new(key, error.to_string(), "what the DTLS engine takes")
        })?;
        Ok(Self {
            cookies: Cookies::new(seed),
            desk: Desk::new(engines, config.max_datagram),
            roster: Roster::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            config,
        })
    }

    /// Takes a datagram.
    pub fn receive(&mut self, now: Duration, from: SocketAddr, datagram: &[u8]) {
        if datagram.len() > self.config.max_datagram {
            return;
        }
        let Some(arrival) = wire::classify(datagram) else {
            return;
        };
        let place = self.roster.place(from);
        let (handshake, session) = (place.handshake, place.session);
        let (id, is_hello) = match arrival {
            Arrival::Hello(hello) => {
                let known = [handshake, session].into_iter().flatten();
                let began = |id: &SessionId| {
                    let entry = self.roster.get(*id);
                    entry.is_some_and(|entry| entry.session.began_with(&hello))
                };
                match known.into_iter().find(began) {
                    Some(id) => (Some(id), true),
                    None => return self.on_hello(now, from, &hello, datagram),
                }
            }
            Arrival::Handshake => (handshake.or(session), false),
            Arrival::Protected => (session.or(handshake), false),
        };
        if let Some(id) = id {
            self.with(now, id, |session, desk| {
                session.receive(desk, now, datagram, is_hello)
            });
        }
    }

    /// Answers a hello that begins something new: with a request for a cookie, else with a
    /// handshake.
    fn on_hello(&mut self, now: Duration, from: SocketAddr, hello: &Hello, datagram: &[u8]) {
        let cookie = hello
            .cookie
            .filter(|_| self.cookies.is_good(now, from, hello));
        let Some(cookie) = cookie else {
            if datagram.len() >= VERIFY_REQUEST_LENGTH {
                let cookie = self.cookies.make(now, from, hello);
                let request = wire::verify_request(hello.message_seq, &cookie);
                self.transmit(from, request.into());
            }
            return;
        };
        let session = match Session::begin(&mut self.desk, now, hello, cookie, datagram) {
            None => return,
            Some(Ok(session)) => session,
            Some(Err(reason)) => {
                self.desk.outcomes.clear();
                return self.refuse(from, None, reason);
            }
        };
        let earlier = self.roster.place(from).handshake;
        let is_full = self.roster.handshakes() >= self.config.max_handshakes;
        let oldest = || self.roster.oldest_handshake().filter(|_| is_full);
        if let Some(displaced) = earlier.or_else(oldest) {
            self.remove_handshake(displaced, Refusal::Displaced);
        }
        let id = self.roster.begin(now, from, session);
        self.settle(now, id, Ok(()));
    }

    /// Takes what a store says of the identity that [`DtlsEvent::Identify`] told; `None` if it is
    /// unknown or cannot be looked up. Without effect if the client has given up meanwhile.
    pub fn identified(&mut self, now: Duration, session: SessionId, entry: Option<PskEntry>) {
        if !self.roster.has_handshake(session) {
            return;
        }
        self.with(now, session, |session, desk| match entry {
            Some(entry) => session.identified(desk, now, entry),
            None => Err(Refusal::UnknownIdentity),
        });
    }

    /// Sends a message to a device, in one datagram.
    ///
    /// # Errors
    /// The session is over.
    pub fn send(
        &mut self,
        now: Duration,
        session: SessionId,
        message: &[u8],
    ) -> Result<(), DtlsSendError> {
        if self.roster.session(session).is_none() {
            return Err(DtlsSendError::Gone);
        }
        self.with(now, session, |session, desk| session.send(desk, message));
        Ok(())
    }

    /// Closes a session and tells the device.
    pub fn close(&mut self, session: SessionId) {
        self.end(session, SessionEnd::Closed);
    }

    /// Closes all sessions and gives all handshakes up: the socket is about to be closed.
    pub fn close_all(&mut self) {
        while let Some(id) = self.roster.oldest_handshake() {
            self.remove_handshake(id, Refusal::Displaced);
        }
        while let Some(id) = self.roster.most_silent() {
            self.end(id, SessionEnd::Closed);
        }
    }

    /// Does what the time asks for: sends again, gives up, closes.
    pub fn on_timeout(&mut self, now: Duration) {
        while let Some(id) = self.roster.due(now) {
            let Some(entry) = self.roster.get(id) else {
                continue;
            };
            let (since, is_open) = (entry.since, entry.session.is_open());
            if is_open && since + self.config.idle_timeout <= now {
                self.end(id, SessionEnd::Idle);
            } else if !is_open && since + self.config.handshake_timeout <= now {
                self.remove_handshake(id, Refusal::TimedOut);
            } else {
                self.with(now, id, |session, desk| match is_open {
                    true => Ok(()),
                    false => session.on_timeout(desk, now),
                });
            }
        }
    }

    /// When [`on_timeout`](Self::on_timeout) is to be called next; it may be early.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        self.roster.next_timeout()
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<DtlsTransmit> {
        self.transmits.pop_front()
    }

    /// The next thing that happened. A call to the table leaves a few at most.
    pub fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    /// The device of a session; `None` if the session is over, or not ready yet.
    #[must_use]
    pub fn device(&self, session: SessionId) -> Option<&DeviceId> {
        self.roster.session(session)?.device.as_ref()
    }

    /// The address of a session; `None` if it is over, or not ready yet.
    #[must_use]
    pub fn address(&self, session: SessionId) -> Option<SocketAddr> {
        Some(self.roster.session(session)?.address)
    }

    /// The session of a device.
    #[must_use]
    pub fn session(&self, device: &DeviceId) -> Option<SessionId> {
        self.roster.session_of(device)
    }

    /// Counts what is held.
    #[must_use]
    pub fn stats(&self) -> DtlsStats {
        DtlsStats {
            sessions: self.roster.sessions(),
            handshakes: self.roster.handshakes(),
        }
    }

    fn transmit(&mut self, to: SocketAddr, bytes: Bytes) {
        self.transmits.push_back(DtlsTransmit { to, bytes });
    }

    /// Has a session act.
    fn with(
        &mut self,
        now: Duration,
        id: SessionId,
        act: impl FnOnce(&mut Session, &mut Desk) -> Result<(), Refusal>,
    ) {
        if let Some(entry) = self.roster.get_mut(id) {
            let result = act(&mut entry.session, &mut self.desk);
            self.settle(now, id, result);
        }
    }

    /// Does what became of a session's act, and sees to its timer.
    fn settle(&mut self, now: Duration, id: SessionId, result: Result<(), Refusal>) {
        let mut outcomes = std::mem::take(&mut self.desk.outcomes);
        for outcome in outcomes.drain(..) {
            // A session that has ended on the way has nothing more to say.
            let Some(address) = self.roster.get(id).map(|entry| entry.address) else {
                break;
            };
            match outcome {
                Outcome::Transmit(bytes) => self.transmit(address, bytes),
                Outcome::Identify(identity) => {
                    let session = id;
                    self.events
                        .push_back(DtlsEvent::Identify { session, identity });
                }
                Outcome::Open(entry) => self.open(now, id, entry.device),
                Outcome::Message(bytes) => {
                    let entry = self.roster.heard(now, id);
                    if let Some(device) = entry.and_then(|entry| entry.device.clone()) {
                        self.events.push_back(DtlsEvent::Datagram {
                            session: id,
                            device,
                            from: address,
                            bytes,
                        });
                    }
                }
                Outcome::Closed => self.end(id, SessionEnd::Closed),
            }
        }
        // Its memory serves the next.
        self.desk.outcomes = outcomes;
        match result {
            Ok(()) => self.roster.schedule(now, id, &self.config),
            Err(_) if self.roster.session(id).is_some() => self.end(id, SessionEnd::Failed),
            Err(reason) => self.remove_handshake(id, reason),
        }
    }

    /// Makes a handshake a session, in the place of those that it replaces.
    fn open(&mut self, now: Duration, id: SessionId, device: DeviceId) {
        let Some(entry) = self.roster.remove_handshake(id) else {
            return;
        };
        let at_address = self.roster.place(entry.address).session;
        let of_device = self.roster.session_of(&device);
        for replaced in [at_address, of_device].into_iter().flatten() {
            self.end(replaced, SessionEnd::Replaced);
        }
        if self.roster.sessions() >= self.config.max_sessions
            && let Some(silent) = self.roster.most_silent()
        {
            self.end(silent, SessionEnd::Evicted);
        }
        self.roster.open(now, id, entry, device.clone());
        let session = id;
        self.events.push_back(DtlsEvent::Ready { session, device });
    }

    fn end(&mut self, id: SessionId, reason: SessionEnd) {
        let Some(mut entry) = self.roster.remove_session(id) else {
            return;
        };
        // Whoever is at a replaced session's address has a newer one, or is somebody else.
        if reason != SessionEnd::Replaced {
            entry.session.close(&mut self.desk);
            for outcome in std::mem::take(&mut self.desk.outcomes) {
                if let Outcome::Transmit(bytes) = outcome {
                    self.transmit(entry.address, bytes);
                }
            }
        }
        let session = id;
        self.events.push_back(DtlsEvent::Ended { session, reason });
    }

    fn remove_handshake(&mut self, id: SessionId, reason: Refusal) {
        if let Some(entry) = self.roster.remove_handshake(id) {
            let identity = entry.session.identity().map(str::to_owned);
            self.refuse(entry.address, identity, reason);
        }
    }

    fn refuse(&mut self, from: SocketAddr, identity: Option<String>, reason: Refusal) {
        let alert = match reason {
            Refusal::UnknownIdentity | Refusal::WrongKey => Some(Alert::DecryptError),
            Refusal::Unsuitable => Some(Alert::HandshakeFailure),
            // The client is busy with a newer one, or gone.
            Refusal::TimedOut | Refusal::Displaced => None,
        };
        if let Some(alert) = alert {
            self.transmit(from, wire::alert(alert).into());
        }
        self.events.push_back(DtlsEvent::Refused {
            from,
            identity,
            reason,
        });
    }
}
