//! The devices that the hub knows through us: a bounded table, least recently used out first.

mod desired;
mod gate;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use lru::LruCache;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as GateGuard};
use tokio::task::JoinSet;

use crate::callback::CloudCallback;
use crate::config::SessionConfig;
use crate::credential::{Credential, CredentialProvider, CredentialSource, SasToken};
use crate::error::{ErrorKind, UpstreamError};
use crate::id::DeviceId;
use crate::upstream::{DeviceIdentity, Interest, Upstream};
pub(crate) use gate::Gate;
use gate::is_lasting;

/// Sessions that may stand above the capacity while others are being detached.
const DETACHING_ABOVE_CAPACITY: usize = 64;
/// How far from the old end the table looks for a session that may go.
const EVICTION_SCAN: usize = 64;
/// Sweeps in one idle time to live: the precision with which it is kept.
pub(crate) const SWEEPS_PER_TTL: u32 = 8;

/// Which downstream last saw a device, by its place in the gateway's list.
pub(crate) type Route = u32;
const NO_ROUTE: Route = Route::MAX;

/// One device. Its gate is a fair lock: whoever holds it is the device's only sender, which keeps
/// uplinks in order over retries and makes any number of parallel attaches one.
#[derive(Debug)]
pub(crate) struct Session {
    device: DeviceId,
    gate: Arc<AsyncMutex<Gate>>,
    /// Users that came in and have not left; while there are any, the session stays.
    busy: AtomicU32,
    /// The sweep in which it was last used.
    used: AtomicU32,
    route: AtomicU32,
    online: AtomicBool,
    /// Counts announcements, so that an older connection's end does not unsubscribe a newer one.
    presence: AtomicU64,
    /// Counts attaches, so that an older session's end does not end a newer one.
    attaches: AtomicU64,
    /// The newest version of the desired properties on its way to the device since it came online.
    desired: AtomicU64,
}

impl Session {
    fn new(device: DeviceId) -> Self {
        Self {
            device,
            gate: Arc::default(),
            busy: AtomicU32::new(0),
            used: AtomicU32::new(0),
            route: AtomicU32::new(NO_ROUTE),
            online: AtomicBool::new(false),
            presence: AtomicU64::new(0),
            attaches: AtomicU64::new(0),
            desired: AtomicU64::new(0),
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

    /// Sets the route of a device that has none.
    pub(crate) fn claim_route(&self, route: Route) {
        let claimed = (self.0.route).compare_exchange(NO_ROUTE, route, Relaxed, Relaxed);
        // Who fails finds the route set.
        claimed.ok();
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
            self.touch(session);
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
        self.touch(&session);
        sessions.put(device.clone(), session.clone());
        Ok(Busy(session))
    }

    /// Notes a use. Goes with a move to the young end: the sweep relies on the order.
    fn touch(&self, session: &Session) {
        session.used.store(self.sweep.load(Relaxed), Relaxed);
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
            self.touch(&session);
            if session.may_go() && self.retire(sessions, session) {
                self.counters.evicted.fetch_add(1, Relaxed);
                return;
            }
        }
    }

    /// Removes a session that may go: at once where the upstream cannot know the device, else after
    /// a detach. False if its gate is taken, as by an earlier call.
    fn retire(
        self: &Arc<Self>,
        sessions: &mut LruCache<DeviceId, Arc<Session>>,
        session: Arc<Session>,
    ) -> bool {
        let Ok(mut gate) = session.gate.clone().try_lock_owned() else {
            return false;
        };
        if !gate.is_held {
            sessions.pop(&session.device);
            return true;
        }
        let table = self.clone();
        // The gate stays taken until the end: whoever comes meanwhile waits and attaches anew.
        self.spawn(async move {
            if let Err(error) = table.upstream.detach(&session.device).await {
                tracing::debug!(device.id = %session.device, error = %error, "Detach failed");
            }
            gate.forget();
            gate.is_held = false;
            let mut sessions = lock(&table.sessions);
            if session.may_go() {
                sessions.pop(&session.device);
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
        if gate.stands(gate.wanted) {
            return Ok(());
        }
        let (token, wanted) = (gate.token.clone(), gate.wanted);
        // Rare, and larger than all the rest of an uplink's future.
        Box::pin(self.attach(session, gate, token, wanted)).await
    }

    /// Asks the hub to take the device so. What stood before stands until the hub has agreed.
    async fn attach(
        &self,
        session: &Busy,
        gate: &mut Gate,
        token: Option<SasToken>,
        interest: Interest,
    ) -> Result<(), UpstreamError> {
        gate.check(token.as_ref())?;
        let was_held = gate.is_held;
        match self.ask(&session.0.device, gate, &token, interest).await {
            Ok(()) => {
                session.0.attaches.fetch_add(1, Relaxed);
                gate.accept(token, interest);
                Ok(())
            }
            Err(error) => {
                if is_lasting(error.kind()) {
                    gate.is_held = was_held;
                    gate.refuse(token, error.kind(), &self.config.refusal);
                }
                Err(error)
            }
        }
    }

    async fn ask(
        &self,
        device: &DeviceId,
        gate: &mut Gate,
        token: &Option<SasToken>,
        interest: Interest,
    ) -> Result<(), UpstreamError> {
        let identity =
            |credential| DeviceIdentity::new(device.clone(), credential).with_interest(interest);
        let identity = match token {
            Some(token) if token.expires() <= SystemTime::now() => {
                return Err(UpstreamError::new(ErrorKind::Unauthorized, "attach")
                    .with_source("the device's token has expired; it must present a new one"));
            }
            Some(token) => identity(Credential::SasToken(token.clone())),
            None => {
                let source = CredentialSource::new(self.credentials.clone());
                identity(source.credential(device).await?).with_source(source)
            }
        };
        gate.is_held = true;
        self.upstream.attach(identity, self.callback.clone()).await
    }

    /// Notes that the hub ended the device's session.
    pub(crate) async fn ended(&self, device: &DeviceId, reason: ErrorKind) {
        let Some(session) = lock(&self.sessions).peek(device).cloned() else {
            return;
        };
        let attaches = session.attaches.load(Relaxed);
        let mut gate = session.gate.lock().await;
        if session.attaches.load(Relaxed) != attaches {
            return;
        }
        gate.forget();
        gate.is_held = false;
        let reason = match reason {
            // Another client has the device now; its messages are as good as before.
            ErrorKind::Displaced => ErrorKind::Disconnected,
            reason if is_lasting(reason) => reason,
            _ => return,
        };
        let token = gate.token.clone();
        gate.refuse(token, reason, &self.config.refusal);
    }

    /// Attaches a device that listens; it stays until the returned number is given to `offline`.
    /// Whoever presents a bad token does not disturb the device that is there.
    pub(crate) async fn online(
        &self,
        session: &Busy,
        interest: Interest,
        token: Option<SasToken>,
    ) -> Result<u64, UpstreamError> {
        let mut gate = session.gate().await;
        // It may have forgotten, or never got, what it was given before.
        session.0.desired.store(0, Relaxed);
        if token != gate.token || !gate.stands(interest) {
            self.attach(session, &mut gate, token, interest).await?;
        }
        gate.wanted = interest;
        session.0.online.store(true, Relaxed);
        Ok(session.0.presence.fetch_add(1, Relaxed) + 1)
    }

    /// Takes back what `online` did, unless the device has come online again since.
    pub(crate) fn offline(self: &Arc<Self>, device: &DeviceId, presence: u64) {
        let is_current = move |session: &Session| session.presence.load(Relaxed) == presence;
        let session = match lock(&self.sessions).get(device) {
            Some(session) if is_current(session) => session.clone(),
            _ => return,
        };
        // Its idle time begins now.
        self.touch(&session);
        let table = self.clone();
        self.spawn(async move {
            let mut gate = session.gate.lock().await;
            if !is_current(&session) {
                return;
            }
            session.online.store(false, Relaxed);
            gate.wanted = Interest::NONE;
            if gate.is_subscribed() {
                session.busy.fetch_add(1, Relaxed);
                let busy = Busy(session.clone());
                if let Err(error) = table.attached(&busy, &mut gate).await {
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
