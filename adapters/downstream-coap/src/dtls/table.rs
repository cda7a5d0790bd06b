//! All sessions of one socket.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::{ConfigError, DeviceId};
use lru::LruCache;

use super::config::DtlsConfig;
use super::cookie::Cookies;
use super::engine::Engines;
use super::event::{DtlsEvent, DtlsSendError, DtlsTransmit, Refusal, SessionEnd, SessionId};
use super::session::{Desk, Outcome, Session};
use super::store::PskEntry;
use super::wire::{self, Alert, Arrival, Hello, VERIFY_REQUEST_LENGTH};
use crate::proto::Seed;

/// The least wait for a timer, so that no engine can have the time stand still.
const TICK: Duration = Duration::from_millis(1);

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
    serial: u64,
    /// In the order in which they began.
    handshakes: LruCache<SessionId, Entry>,
    /// In the order in which they were last heard of.
    sessions: LruCache<SessionId, Entry>,
    places: HashMap<SocketAddr, Place>,
    devices: HashMap<DeviceId, SessionId>,
    timers: BTreeSet<(Duration, SessionId)>,
    transmits: VecDeque<DtlsTransmit>,
    events: VecDeque<DtlsEvent>,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    address: SocketAddr,
    /// Once it has proved to be one.
    device: Option<DeviceId>,
    /// When the handshake began, then when the device was last heard of.
    since: Duration,
    scheduled: Option<Duration>,
}

/// What is known of an address.
#[derive(Debug, Default)]
struct Place {
    handshake: Option<SessionId>,
    session: Option<SessionId>,
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
            serial: 0,
            handshakes: LruCache::unbounded(),
            sessions: LruCache::unbounded(),
            places: HashMap::new(),
            devices: HashMap::new(),
            timers: BTreeSet::new(),
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
        let place = self.places.get(&from);
        let (handshake, session) =
            place.map_or((None, None), |place| (place.handshake, place.session));
        let (id, is_hello) = match arrival {
            Arrival::Hello(hello) => {
                let known = [handshake, session].into_iter().flatten();
                let began = |id: &SessionId| {
                    let entry = self.entry(*id);
                    entry.is_some_and(|entry| entry.session.began_with(&hello))
                };
                match known.into_iter().find(began) {
                    Some(id) => (Some(id), true),
                    None => return self.on_hello(now, from, &hello, datagram),
                }
            }
            Arrival::HelloRest => (handshake, true),
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
        let earlier = self.places.get(&from).and_then(|place| place.handshake);
        let is_full = self.handshakes.len() >= self.config.max_handshakes;
        let oldest = || self.handshakes.peek_lru().map(|(id, _)| *id);
        if let Some(displaced) = earlier.or_else(|| oldest().filter(|_| is_full)) {
            self.remove_handshake(displaced, Refusal::Displaced);
        }
        self.serial += 1;
        let id = SessionId(self.serial);
        let entry = Entry {
            session,
            address: from,
            device: None,
            since: now,
            scheduled: None,
        };
        self.handshakes.put(id, entry);
        self.places.entry(from).or_default().handshake = Some(id);
        self.settle(now, id, Ok(()));
    }

    /// Takes what a store says of the identity that [`DtlsEvent::Identify`] told; `None` if it is
    /// unknown or cannot be looked up. Without effect if the client has given up meanwhile.
    pub fn identified(&mut self, now: Duration, session: SessionId, entry: Option<PskEntry>) {
        if !self.handshakes.contains(&session) {
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
        if !self.sessions.contains(&session) {
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
        while let Some((id, _)) = self.handshakes.peek_lru() {
            self.remove_handshake(*id, Refusal::Displaced);
        }
        while let Some((id, _)) = self.sessions.peek_lru() {
            self.end(*id, SessionEnd::Closed);
        }
    }

    /// Does what the time asks for: sends again, gives up, closes.
    pub fn on_timeout(&mut self, now: Duration) {
        while let Some(&(due, id)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            let Some(entry) = self.entry_mut(id) else {
                continue;
            };
            entry.scheduled = None;
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
        self.timers.first().map(|(due, _)| *due)
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
        self.sessions.peek(&session)?.device.as_ref()
    }

    /// The address of a session; `None` if it is over, or not ready yet.
    #[must_use]
    pub fn address(&self, session: SessionId) -> Option<SocketAddr> {
        Some(self.sessions.peek(&session)?.address)
    }

    /// The session of a device.
    #[must_use]
    pub fn session(&self, device: &DeviceId) -> Option<SessionId> {
        self.devices.get(device).copied()
    }

    /// Counts what is held.
    #[must_use]
    pub fn stats(&self) -> DtlsStats {
        DtlsStats {
            sessions: self.sessions.len(),
            handshakes: self.handshakes.len(),
        }
    }

    fn entry(&self, id: SessionId) -> Option<&Entry> {
        self.sessions
            .peek(&id)
            .or_else(|| self.handshakes.peek(&id))
    }

    fn entry_mut(&mut self, id: SessionId) -> Option<&mut Entry> {
        match self.sessions.peek_mut(&id) {
            Some(entry) => Some(entry),
            None => self.handshakes.peek_mut(&id),
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
        let entry = match self.sessions.peek_mut(&id) {
            Some(entry) => Some(entry),
            None => self.handshakes.peek_mut(&id),
        };
        if let Some(entry) = entry {
            let result = act(&mut entry.session, &mut self.desk);
            self.settle(now, id, result);
        }
    }

    /// Does what became of a session's act, and sees to its timer.
    fn settle(&mut self, now: Duration, id: SessionId, result: Result<(), Refusal>) {
        let mut outcomes = std::mem::take(&mut self.desk.outcomes);
        for outcome in outcomes.drain(..) {
            // A session that has ended on the way has nothing more to say.
            let Some(address) = self.entry(id).map(|entry| entry.address) else {
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
                    if let Some(entry) = self.sessions.get_mut(&id)
                        && let Some(device) = entry.device.clone()
                    {
                        entry.since = now;
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
            Ok(()) => self.schedule(now, id),
            Err(_) if self.sessions.contains(&id) => self.end(id, SessionEnd::Failed),
            Err(reason) => self.remove_handshake(id, reason),
        }
    }

    /// Makes a handshake a session, in the place of those that it replaces.
    fn open(&mut self, now: Duration, id: SessionId, device: DeviceId) {
        let Some(mut entry) = self.handshakes.pop(&id) else {
            return;
        };
        entry.device = Some(device.clone());
        entry.since = now;
        let place = self.places.entry(entry.address).or_default();
        place.handshake = None;
        let at_address = place.session;
        let of_device = self.devices.get(&device).copied();
        for replaced in [at_address, of_device].into_iter().flatten() {
            self.end(replaced, SessionEnd::Replaced);
        }
        if self.sessions.len() >= self.config.max_sessions
            && let Some((&silent, _)) = self.sessions.peek_lru()
        {
            self.end(silent, SessionEnd::Evicted);
        }
        self.places.entry(entry.address).or_default().session = Some(id);
        self.devices.insert(device.clone(), id);
        self.sessions.put(id, entry);
        let session = id;
        self.events.push_back(DtlsEvent::Ready { session, device });
    }

    fn end(&mut self, id: SessionId, reason: SessionEnd) {
        let Some(mut entry) = self.sessions.pop(&id) else {
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
        if let Some(device) = &entry.device
            && self.devices.get(device) == Some(&id)
        {
            self.devices.remove(device);
        }
        self.leave(id, &entry);
        let session = id;
        self.events.push_back(DtlsEvent::Ended { session, reason });
    }

    fn remove_handshake(&mut self, id: SessionId, reason: Refusal) {
        let Some(entry) = self.handshakes.pop(&id) else {
            return;
        };
        self.leave(id, &entry);
        let identity = entry.session.identity().map(str::to_owned);
        self.refuse(entry.address, identity, reason);
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

    /// Takes a session out of its address and the timers.
    fn leave(&mut self, id: SessionId, entry: &Entry) {
        if let Some(due) = entry.scheduled {
            self.timers.remove(&(due, id));
        }
        if let Some(place) = self.places.get_mut(&entry.address) {
            for named in [&mut place.handshake, &mut place.session] {
                if *named == Some(id) {
                    *named = None;
                }
            }
            if place.handshake.is_none() && place.session.is_none() {
                self.places.remove(&entry.address);
            }
        }
    }

    /// Sees that the time is heard of when a session needs it. A timer that is too early is left:
    /// that costs less than moving it at every message.
    fn schedule(&mut self, now: Duration, id: SessionId) {
        let (idle, patience) = (self.config.idle_timeout, self.config.handshake_timeout);
        let Some(entry) = self.entry_mut(id) else {
            return;
        };
        let limit = match entry.session.is_open() {
            true => entry.since + idle,
            false => entry.since + patience,
        };
        let due = entry.session.due().map_or(limit, |due| due.min(limit));
        let due = due.max(now + TICK);
        let scheduled = entry.scheduled;
        if scheduled.is_none_or(|scheduled| due < scheduled) {
            entry.scheduled = Some(due);
            if let Some(earlier) = scheduled {
                self.timers.remove(&(earlier, id));
            }
            self.timers.insert((due, id));
        }
    }
}
