//! Who has a session or makes one, at which address, and when that is looked at.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use gateway_core::DeviceId;
use lru::LruCache;

use super::config::DtlsConfig;
use super::event::SessionId;
use super::session::Session;

/// The least wait for a timer, so that no engine can have the time stand still.
const TICK: Duration = Duration::from_millis(1);

/// A session or a handshake.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) session: Session,
    pub(super) address: SocketAddr,
    /// Once it has proved to be one.
    pub(super) device: Option<DeviceId>,
    /// When the handshake began, then when the device was last heard of.
    pub(super) since: Duration,
    scheduled: Option<Duration>,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) handshake: Option<SessionId>,
    pub(super) session: Option<SessionId>,
}

/// All sessions and handshakes of one socket.
#[derive(Debug)]
pub(super) struct Roster {
    serial: u64,
    /// In the order in which they began.
    handshakes: LruCache<SessionId, Entry>,
    /// In the order in which they were last heard of.
    sessions: LruCache<SessionId, Entry>,
    places: HashMap<SocketAddr, Place>,
    devices: HashMap<DeviceId, SessionId>,
    timers: BTreeSet<(Duration, SessionId)>,
}

impl Roster {
    pub(super) fn new() -> Self {
        Self {
            serial: 0,
            handshakes: LruCache::unbounded(),
            sessions: LruCache::unbounded(),
            places: HashMap::new(),
            devices: HashMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// What is known of an address.
    pub(super) fn place(&self, address: SocketAddr) -> Place {
        self.places.get(&address).copied().unwrap_or_default()
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Entry> {
        self.sessions
            .peek(&id)
            .or_else(|| self.handshakes.peek(&id))
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Entry> {
        match self.sessions.peek_mut(&id) {
            Some(entry) => Some(entry),
            None => self.handshakes.peek_mut(&id),
        }
    }

    pub(super) fn handshakes(&self) -> usize {
        self.handshakes.len()
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn has_handshake(&self, id: SessionId) -> bool {
        self.handshakes.contains(&id)
    }

    /// A session that is ready.
    pub(super) fn session(&self, id: SessionId) -> Option<&Entry> {
        self.sessions.peek(&id)
    }

    pub(super) fn session_of(&self, device: &DeviceId) -> Option<SessionId> {
        self.devices.get(device).copied()
    }

    pub(super) fn oldest_handshake(&self) -> Option<SessionId> {
        self.handshakes.peek_lru().map(|(id, _)| *id)
    }

    /// The session whose device was silent longest.
    pub(super) fn most_silent(&self) -> Option<SessionId> {
        self.sessions.peek_lru().map(|(id, _)| *id)
    }

    /// Takes a handshake in, the only one at its address.
    pub(super) fn begin(
        &mut self,
        now: Duration,
        address: SocketAddr,
        session: Session,
    ) -> SessionId {
        self.serial += 1;
        let id = SessionId(self.serial);
        let entry = Entry {
            session,
            address,
            device: None,
            since: now,
            scheduled: None,
        };
        self.handshakes.put(id, entry);
        self.places.entry(address).or_default().handshake = Some(id);
        id
    }

    /// Notes that a device was heard in its session.
    pub(super) fn heard(&mut self, now: Duration, id: SessionId) -> Option<&Entry> {
        let entry = self.sessions.get_mut(&id)?;
        entry.since = now;
        Some(entry)
    }

    /// Makes a handshake, which was taken out, the session of a device.
    pub(super) fn open(
        &mut self,
        now: Duration,
        id: SessionId,
        mut entry: Entry,
        device: DeviceId,
    ) {
        entry.device = Some(device.clone());
        entry.since = now;
        self.places.entry(entry.address).or_default().session = Some(id);
        self.devices.insert(device, id);
        self.sessions.put(id, entry);
    }

    /// Takes a session out.
    pub(super) fn remove_session(&mut self, id: SessionId) -> Option<Entry> {
        let mut entry = self.sessions.pop(&id)?;
        if let Some(device) = &entry.device
            && self.devices.get(device) == Some(&id)
        {
            self.devices.remove(device);
        }
        self.leave(id, &mut entry);
        Some(entry)
    }

    /// Takes a handshake out.
    pub(super) fn remove_handshake(&mut self, id: SessionId) -> Option<Entry> {
        let mut entry = self.handshakes.pop(&id)?;
        self.leave(id, &mut entry);
        Some(entry)
    }

    /// Takes an entry out of its address and the timers.
    fn leave(&mut self, id: SessionId, entry: &mut Entry) {
        if let Some(due) = entry.scheduled.take() {
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
    pub(super) fn schedule(&mut self, now: Duration, id: SessionId, config: &DtlsConfig) {
        let Some(entry) = self.get_mut(id) else {
            return;
        };
        let limit = match entry.session.is_open() {
            true => entry.since + config.idle_timeout,
            false => entry.since + config.handshake_timeout,
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

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The next one whose time has come.
    pub(super) fn due(&mut self, now: Duration) -> Option<SessionId> {
        if self.next_timeout()? > now {
            return None;
        }
        let (_, id) = self.timers.pop_first()?;
        if let Some(entry) = self.get_mut(id) {
            entry.scheduled = None;
        }
        Some(id)
    }
}
