//! The devices that the hub knows through us: a bounded table, least recently used out first.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use tokio::sync::MutexGuard as GateGuard;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::callback::CloudCallback;
use crate::config::SessionConfig;
use crate::credential::{Credential, CredentialProvider, SasToken};
use crate::error::{ErrorKind, UpstreamError};
use crate::id::DeviceId;
use crate::upstream::{DeviceIdentity, Interest, Upstream};

/// Sessions that may stand above the capacity while others are being detached.
const DETACHING_ABOVE_CAPACITY: usize = 64;
/// How far from the old end the table looks for a session that may go.
const EVICTION_SCAN: usize = 64;
/// Sweeps in one idle time to live: the precision with which it is kept.
pub(crate) const SWEEPS_PER_TTL: u32 = 8;

/// Which downstream last saw a device, by its place in the gateway's list.
pub(crate) type Route = u32;
const NO_ROUTE: Route = Route::MAX;

/// How the device stands with the hub. Behind the gate, so changes and uplinks come one by one.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: State,
    presented: Option<SasToken>,
    subscribed: Interest,
    wanted: Interest,
    refusals: u32,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Detached,
    Attached {
        until: Option<SystemTime>,
    },
    Refused {
        until: Instant,
        kind: ErrorKind,
    },
}

/// One device. Its gate is a fair lock: whoever holds it is the device's only sender, which keeps
/// uplinks in order over retries and makes any number of parallel attaches one.
#[derive(Debug)]
pub(crate) struct Session {
    device: DeviceId,
    gate: tokio::sync::Mutex<Gate>,
    /// Users that came in and have not left; while there are any, the session stays.
    busy: AtomicU32,
    /// The sweep in which it was last used.
    used: AtomicU32,
    route: AtomicU32,
    online: AtomicBool,
    /// Counts announcements, so that an older connection's end does not unsubscribe a newer one.
    presence: AtomicU64,
}

impl Session {
    fn new(device: DeviceId) -> Self {
        Self {
            device,
            gate: tokio::sync::Mutex::default(),
            busy: AtomicU32::new(0),
            used: AtomicU32::new(0),
            route: AtomicU32::new(NO_ROUTE),
            online: AtomicBool::new(false),
            presence: AtomicU64::new(0),
        }
    }

    fn may_go(&self) -> bool {
        self.busy.load(Relaxed) == 0 && !self.online.load(Relaxed)
    }
}

/// Keeps a session in the table while somebody works with it.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Session>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

impl Busy {
    /// Waits for its turn with the device.
    pub(crate) async fn gate(&self) -> GateGuard<'_, Gate> {
        self.0.gate.lock().await
    }

    pub(crate) fn set_route(&self, route: Route) {
        if self.0.route.load(Relaxed) != route {
            self.0.route.store(route, Relaxed);
        }
    }
}

/// Counts what happened to sessions.
#[derive(Debug, Default)]
struct Counters {
    evicted: AtomicU64,
    expired: AtomicU64,
}

/// A snapshot of the session table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Devices in the table.
    pub sessions: usize,
    /// Devices detached to make room.
    pub evicted: u64,
    /// Devices detached after their idle time to live.
    pub expired: u64,
}

#[derive(Debug)]
pub(crate) struct SessionTable {
    config: SessionConfig,
    max_queued: u32,
    sessions: Mutex<LruCache<DeviceId, Arc<Session>>>,
    upstream: Arc<dyn Upstream>,
    credentials: Arc<dyn CredentialProvider>,
    callback: Arc<dyn CloudCallback>,
    sweep: AtomicU32,
    counters: Counters,
    tasks: Mutex<JoinSet<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they guard is whole between statements, whoever panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SessionTable {
    pub(crate) fn new(
        config: SessionConfig,
        max_queued: u32,
        upstream: Arc<dyn Upstream>,
        credentials: Arc<dyn CredentialProvider>,
        callback: Arc<dyn CloudCallback>,
    ) -> Self {
        Self {
            config,
            max_queued,
            sessions: Mutex::new(LruCache::unbounded()),
            upstream,
            credentials,
            callback,
            sweep: AtomicU32::new(0),
            counters: Counters::default(),
            tasks: Mutex::default(),
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

    /// Finds or makes the device's session and keeps it there.
    pub(crate) fn enter(self: &Arc<Self>, device: &DeviceId) -> Result<Busy, UpstreamError> {
        let full = || UpstreamError::new(ErrorKind::Throttled, "attach");
        let mut sessions = lock(&self.sessions);
        if let Some(session) = sessions.get(device) {
            let queued = session.busy.fetch_add(1, Relaxed);
            let busy = Busy(session.clone());
            session.used.store(self.sweep.load(Relaxed), Relaxed);
            return match queued < self.max_queued {
                true => Ok(busy),
                false => Err(full().with_source("too many messages of this device are waiting")),
            };
        }
        if sessions.len() >= self.config.capacity {
            self.evict(&mut sessions);
            if sessions.len() >= self.config.capacity + DETACHING_ABOVE_CAPACITY {
                return Err(full().with_source("every place in the session table is in use"));
            }
        }
        let session = Arc::new(Session::new(device.clone()));
        session.busy.store(1, Relaxed);
        session.used.store(self.sweep.load(Relaxed), Relaxed);
        sessions.put(device.clone(), session.clone());
        Ok(Busy(session))
    }

    /// Starts to detach the session silent for longest among those that may go.
    fn evict(self: &Arc<Self>, sessions: &mut LruCache<DeviceId, Arc<Session>>) {
        for _ in 0..EVICTION_SCAN.min(sessions.len()) {
            let Some((device, session)) = sessions.peek_lru() else {
                return;
            };
            let (device, session) = (device.clone(), session.clone());
            // Busy and online ones, and those on their way out, move to the young end.
            sessions.promote(&device);
            if session.may_go() && self.retire(sessions, session) {
                self.counters.evicted.fetch_add(1, Relaxed);
                return;
            }
        }
    }

    /// Removes a session that may go: at once where the hub does not know the device, else after
    /// a detach. False if its gate is taken, as by an earlier call.
    fn retire(
        self: &Arc<Self>,
        sessions: &mut LruCache<DeviceId, Arc<Session>>,
        session: Arc<Session>,
    ) -> bool {
        match session.gate.try_lock() {
            Err(_) => return false,
            Ok(gate) if !matches!(gate.state, State::Attached { .. }) => {
                sessions.pop(&session.device);
                return true;
            }
            Ok(_) => {}
        }
        let table = self.clone();
        self.spawn(async move {
            let mut gate = session.gate.lock().await;
            if session.may_go() {
                if let Err(error) = table.upstream.detach(&session.device).await {
                    tracing::debug!(device.id = %session.device, error = %error, "Detach failed");
                }
                gate.state = State::Detached;
                // Whoever came meanwhile waits at the gate and attaches anew.
                let mut sessions = lock(&table.sessions);
                if session.may_go() {
                    sessions.pop(&session.device);
                }
            }
        })
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        // Outside a runtime there is no gateway left to tidy up for.
        if tokio::runtime::Handle::try_current().is_err() {
            return false;
        }
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
        true
    }

    /// Detaches what was silent for the idle time to live. Called [`SWEEPS_PER_TTL`] times in it.
    pub(crate) fn sweep(self: &Arc<Self>) {
        let now = self.sweep.fetch_add(1, Relaxed).wrapping_add(1);
        let mut sessions = lock(&self.sessions);
        // The table is in order of use: the first young one ends the walk.
        let old: Vec<_> = sessions
            .iter()
            .rev()
            .map(|(_, session)| session)
            .take_while(|s| now.wrapping_sub(s.used.load(Relaxed)) > SWEEPS_PER_TTL)
            .filter(|session| session.may_go())
            .cloned()
            .collect();
        for session in old {
            if self.retire(&mut sessions, session) {
                self.counters.expired.fetch_add(1, Relaxed);
            }
        }
    }

    /// Makes sure that the hub knows the device, with the interest it has now.
    pub(crate) async fn attached(
        &self,
        session: &Busy,
        gate: &mut Gate,
    ) -> Result<(), UpstreamError> {
        match gate.state {
            State::Attached { until } if until.is_none_or(|until| SystemTime::now() < until) => {
                if gate.subscribed == gate.wanted {
                    return Ok(());
                }
            }
            State::Refused { until, kind } => {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    return Err(UpstreamError::new(kind, "attach").with_retry_after(left));
                }
            }
            State::Attached { .. } | State::Detached => {}
        }
        self.attach(session, gate).await
    }

    async fn attach(&self, session: &Busy, gate: &mut Gate) -> Result<(), UpstreamError> {
        let device = &session.0.device;
        let result = match self.identity(device, gate).await {
            Ok((identity, until)) => self
                .upstream
                .attach(identity.with_interest(gate.wanted), self.callback.clone())
                .await
                .map(|()| until),
            Err(error) => Err(error),
        };
        match result {
            Ok(until) => {
                gate.state = State::Attached { until };
                gate.subscribed = gate.wanted;
                gate.refusals = 0;
                Ok(())
            }
            Err(error) => {
                self.note_refusal(gate, &error);
                Err(error)
            }
        }
    }

    async fn identity(
        &self,
        device: &DeviceId,
        gate: &Gate,
    ) -> Result<(DeviceIdentity, Option<SystemTime>), UpstreamError> {
        let (credential, until) = match &gate.presented {
            Some(token) if token.expires() <= SystemTime::now() => {
                return Err(UpstreamError::new(ErrorKind::Unauthorized, "attach")
                    .with_source("the device's token has expired; it must present a new one"));
            }
            Some(token) => (Credential::SasToken(token.clone()), Some(token.expires())),
            None => (self.credentials.credential(device).await?, None),
        };
        Ok((DeviceIdentity::new(device.clone(), credential), until))
    }

    /// Remembers a lasting refusal for a while, so that a bad device costs the hub little.
    fn note_refusal(&self, gate: &mut Gate, error: &UpstreamError) {
        use ErrorKind::{Rejected, Unauthorized, UnknownDevice, Unsupported};
        gate.state = match error.kind() {
            kind @ (Rejected | Unauthorized | UnknownDevice | Unsupported) => {
                let wait = self.config.refusal.delay(gate.refusals);
                gate.refusals = gate.refusals.saturating_add(1);
                State::Refused {
                    until: Instant::now() + wait,
                    kind,
                }
            }
            _ => State::Detached,
        };
    }

    /// Notes from a failed uplink that the hub does not know the device any more.
    pub(crate) fn note_failure(&self, gate: &mut Gate, error: &UpstreamError) {
        if matches!(
            error.kind(),
            ErrorKind::UnknownDevice | ErrorKind::Unauthorized
        ) {
            gate.state = State::Detached;
        }
    }

    /// Notes that the hub ended the device's session.
    pub(crate) async fn ended(&self, device: &DeviceId, reason: ErrorKind) {
        let Some(session) = lock(&self.sessions).peek(device).cloned() else {
            return;
        };
        let mut gate = session.gate.lock().await;
        self.note_refusal(&mut gate, &UpstreamError::new(reason, "session"));
    }

    /// Attaches a device that listens; it stays until the returned number is given to `offline`.
    pub(crate) async fn online(
        &self,
        session: &Busy,
        interest: Interest,
        token: Option<SasToken>,
    ) -> Result<u64, UpstreamError> {
        let mut gate = session.gate().await;
        let before = gate.presented.clone();
        let is_new = token.is_some() && token != before;
        if is_new {
            if matches!(gate.state, State::Refused { .. }) {
                gate.state = State::Detached;
            }
            gate.presented = token;
        }
        let wanted = std::mem::replace(&mut gate.wanted, interest);
        let attached_before = matches!(gate.state, State::Attached { .. });
        let result = match is_new {
            true => self.attach(session, &mut gate).await,
            false => self.attached(session, &mut gate).await,
        };
        if let Err(error) = result {
            // Whoever presents a bad token must not disturb the device that is there.
            gate.wanted = wanted;
            gate.presented = before;
            if is_new && attached_before {
                gate.state = State::Attached {
                    until: gate.presented.as_ref().map(SasToken::expires),
                };
            }
            return Err(error);
        }
        session.0.online.store(true, Relaxed);
        Ok(session.0.presence.fetch_add(1, Relaxed) + 1)
    }

    /// Takes back what `online` did, unless the device has come online again since.
    pub(crate) fn offline(self: &Arc<Self>, device: &DeviceId, presence: u64) {
        let Some(session) = lock(&self.sessions).peek(device).cloned() else {
            return;
        };
        let is_current = move |session: &Session| session.presence.load(Relaxed) == presence;
        if !is_current(&session) {
            return;
        }
        let table = self.clone();
        self.spawn(async move {
            let mut gate = session.gate.lock().await;
            if !is_current(&session) {
                return;
            }
            session.online.store(false, Relaxed);
            session.used.store(table.sweep.load(Relaxed), Relaxed);
            gate.wanted = Interest::NONE;
            let is_attached = matches!(gate.state, State::Attached { .. });
            if is_attached && gate.subscribed != Interest::NONE {
                session.busy.fetch_add(1, Relaxed);
                let busy = Busy(session.clone());
                if let Err(error) = table.attach(&busy, &mut gate).await {
                    tracing::debug!(device.id = %session.device, error = %error, "Unsubscribe failed");
                }
            }
        });
    }

    /// Stops all work on behalf of sessions.
    pub(crate) fn close(&self) {
        lock(&self.tasks).abort_all();
        lock(&self.sessions).clear();
    }
}
