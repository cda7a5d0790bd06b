//! A bounded table, least recently used out first.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::leave::DETACHING;
use super::{Busy, NO_ROUTE, Route, Session, lock};
use crate::callback::CloudCallback;
use crate::config::{GatewayConfig, SessionConfig};
use crate::credential::CredentialProvider;
use crate::error::{ErrorKind, UpstreamError};
use crate::explain::SessionExplanation;
use crate::id::DeviceId;
use crate::upstream::Upstream;

/// Counts what happened to sessions.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) evicted: AtomicU64,
    pub(super) expired: AtomicU64,
}

/// A snapshot of the session table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Devices in the table.
    pub sessions: usize,
    /// Sessions that made room for others; their devices were detached if the upstream knew them.
    pub evicted: u64,
    /// Sessions that ended with their idle time to live, in the same way.
    pub expired: u64,
}

#[derive(Debug)]
pub(crate) struct SessionTable {
    pub(super) config: SessionConfig,
    max_queued: u32,
    /// How long the credential provider is waited for.
    pub(super) attach_timeout: Duration,
    pub(super) sessions: Mutex<Sessions>,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) credentials: Arc<dyn CredentialProvider>,
    pub(super) callback: Arc<dyn CloudCallback>,
    /// When its clock began.
    epoch: Instant,
    /// Numbers attaches.
    attaches: AtomicU64,
    /// Numbers announcements, over all sessions: a device may have had another one.
    presences: AtomicU32,
    pub(super) counters: Counters,
    /// As many at a time as may stand above the capacity: a flood evicts no faster than that.
    evictions: Arc<Semaphore>,
    /// One at a time.
    pub(super) expiry: Arc<Semaphore>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// In order of use, but for strangers: whoever is touched moves to the young end.
pub(super) type Sessions = LruCache<DeviceId, Arc<Session>>;

impl SessionTable {
    pub(crate) fn new(
        config: &GatewayConfig,
        upstream: Arc<dyn Upstream>,
        credentials: Arc<dyn CredentialProvider>,
        callback: Arc<dyn CloudCallback>,
    ) -> Self {
        Self {
            config: config.sessions.clone(),
            max_queued: config.max_queued_per_device,
            attach_timeout: config.timeouts.attach,
            sessions: Mutex::new(LruCache::unbounded()),
            upstream,
            credentials,
            callback,
            epoch: Instant::now(),
            attaches: AtomicU64::new(0),
            presences: AtomicU32::new(0),
            counters: Counters::default(),
            evictions: Arc::new(Semaphore::new(DETACHING)),
            expiry: Arc::new(Semaphore::new(1)),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    pub(crate) fn stats(&self) -> SessionStats {
        SessionStats {
            sessions: lock(&self.sessions).len(),
            evicted: self.counters.evicted.load(Relaxed),
            expired: self.counters.expired.load(Relaxed),
        }
    }

    pub(crate) fn route(&self, device: &DeviceId) -> Option<Route> {
        let route = lock(&self.sessions).peek(device)?.route.load(Relaxed);
        (route != NO_ROUTE).then_some(route)
    }

    pub(super) fn find(&self, device: &DeviceId) -> Option<Arc<Session>> {
        lock(&self.sessions).peek(device).cloned()
    }

    /// Finds the device's session if it is the wanted one, and counts that as a use.
    pub(super) fn use_if(
        &self,
        device: &DeviceId,
        is_wanted: impl FnOnce(&Session) -> bool,
    ) -> Option<Arc<Session>> {
        let mut sessions = lock(&self.sessions);
        if !is_wanted(sessions.peek(device)?) {
            return None;
        }
        let session = sessions.get(device)?.clone();
        self.touch(&session);
        Some(session)
    }

    /// A number for an attach that no other one has.
    pub(super) fn next_attach(&self) -> u64 {
        self.attaches.fetch_add(1, Relaxed) + 1
    }

    /// A number for an announcement that no other one has, for a long time.
    pub(super) fn next_presence(&self) -> u32 {
        self.presences.fetch_add(1, Relaxed).wrapping_add(1)
    }

    /// Finds or makes the device's session and keeps it there.
    pub(crate) fn enter(self: &Arc<Self>, device: &DeviceId) -> Result<Busy, UpstreamError> {
        let full = || UpstreamError::new(ErrorKind::Throttled, "attach");
        let mut sessions = lock(&self.sessions);
        if let Some(session) = sessions.get(device) {
            let queued = session.busy.fetch_add(1, Relaxed);
            let busy = Busy(session.clone());
            self.touch(session);
            // Tokens that strangers present take no room from it.
            let queued = queued.saturating_sub(session.judging.count());
            return match queued < self.max_queued {
                true => Ok(busy),
                false => Err(full().with_source("too many messages of this device are waiting")),
            };
        }
        if sessions.len() >= self.config.capacity {
            if let Ok(turn) = self.evictions.clone().try_acquire_owned() {
                self.evict(&mut sessions, turn);
            }
            if sessions.len() >= self.config.capacity + DETACHING {
                return Err(full().with_source("every place in the session table is in use"));
            }
        }
        let session = Arc::new(Session::new(device.clone()));
        session.busy.store(1, Relaxed);
        self.touch(&session);
        sessions.put(device.clone(), session.clone());
        Ok(Busy(session))
    }

    /// The table's clock, in milliseconds.
    pub(super) fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Notes a use. Goes with a move to the young end.
    pub(super) fn touch(&self, session: &Session) {
        session.used.store(self.now(), Relaxed);
        session.is_stranger.store(false, Relaxed);
    }

    /// Puts a session that the hub has not taken at the old end: a flood of strangers makes room for
    /// itself, at no cost to those whom the hub knows.
    pub(super) fn demote(&self, session: &Session) {
        session.is_stranger.store(true, Relaxed);
        lock(&self.sessions).demote(&session.device);
    }

    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        // Outside a runtime there is no gateway left to tidy up for.
        if tokio::runtime::Handle::try_current().is_ok() {
            let closing = self.closing.clone();
            self.tasks
                .spawn(async move { closing.run_until_cancelled(work).await });
        }
    }

    #[cfg(test)]
    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Tells how a device stands. The name of its downstream is for the caller to fill in.
    pub(crate) fn explain(&self, device: &DeviceId) -> Option<SessionExplanation> {
        let session = self.find(device)?;
        let standing = session.standing();
        Some(SessionExplanation {
            is_attached: standing.is_attached(),
            interest: standing.wanted,
            credential: standing.attached.map(|(credential, _)| credential),
            downstream: None,
            is_online: session.online.load(Relaxed),
            queued: session.busy.load(Relaxed),
            idle: Duration::from_millis(self.now().saturating_sub(session.used.load(Relaxed))),
            refusal: standing.refused(),
            last_error: standing.last_error(),
        })
    }

    /// Stops all work on behalf of sessions.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        lock(&self.sessions).clear();
    }
}
