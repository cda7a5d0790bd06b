mod desired;
mod state;
mod twin;

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::callback::CloudCallback;
use crate::credential::{Credential, SasToken, SymmetricKey};
use crate::error::{ErrorKind, UpstreamError};
use crate::explain::UpstreamExplanation;
use crate::id::{DeviceId, MessageId};
use crate::message::{
    CloudMessage, Disposition, MethodCall, MethodReply, SessionEnd, TwinReply, TwinRequest, Uplink,
};
use crate::upstream::{DeviceIdentity, Interest, Upstream};
use state::{Attachment, Counts, State, fail};

/// Is a hub in memory, with faults by script. Cheap to clone: all clones are one hub.
///
/// It takes every device with any credential that has not expired, until devices are
/// [registered](Self::register). It settles at once, keeps what it accepted in order, and never
/// forgets: use it in tests only.
#[derive(Debug, Clone, Default)]
pub struct MemoryUpstream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    /// What ends sessions with their tokens, and brings again what a device missed.
    timers: Mutex<JoinSet<()>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(State::default()),
            timers: Mutex::default(),
        }
    }
}

/// Counts uplinks of a device as in flight.
struct InFlight<'a> {
    hub: &'a MemoryUpstream,
    device: &'a DeviceId,
    count: usize,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.hub.change(|state| {
            if let Some(in_flight) = state.in_flight.get_mut(self.device) {
                *in_flight -= self.count;
                if *in_flight == 0 {
                    state.in_flight.remove(self.device);
                }
            }
        });
    }
}

impl MemoryUpstream {
    /// The largest message taken, in bytes: body and application properties.
    pub const MAX_MESSAGE: usize = 256 * 1024;

    /// Makes a hub that takes every device.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut result = None;
        self.0
            .state
            .send_modify(|state| result = Some(change(state)));
        result.expect("`send_modify` runs its closure")
    }

    async fn wait(&self, mut wanted: impl FnMut(&State) -> bool) {
        let mut changes = self.0.state.subscribe();
        drop(changes.wait_for(|state| wanted(state)).await);
    }

    /// Registers a device with its key. From the first one on, only registered devices are taken:
    /// with their key, a token signed with it, or a policy.
    pub fn register(&self, device: DeviceId, key: SymmetricKey) {
        self.change(|state| state.registry.get_or_insert_default().insert(device, key));
    }

    /// Refuses a device's attaches with this kind, or takes it again.
    pub fn refuse(&self, device: &DeviceId, kind: impl Into<Option<ErrorKind>>) {
        self.change(|state| match kind.into() {
            Some(kind) => state.refused.insert(device.clone(), kind),
            None => state.refused.remove(device),
        });
    }

    /// Holds every message that comes from now on: neither accepted nor refused.
    pub fn hold(&self) {
        self.change(|state| state.is_holding = true);
    }

    /// Accepts the messages held, in order of arrival, and holds no more.
    pub fn release(&self) {
        self.change(|state| {
            state.is_holding = false;
            for (uplinks, settle) in mem::take(&mut state.held) {
                state.accepted.extend(uplinks);
                // A send that was given up needs no settlement.
                settle.send(()).ok();
            }
        });
    }

    /// Waits until at least this many messages are held.
    pub async fn wait_held(&self, count: usize) {
        self.wait(|state| {
            state
                .held
                .iter()
                .map(|(uplinks, _)| uplinks.len())
                .sum::<usize>()
                >= count
        })
        .await;
    }

    /// Refuses the next message, or batch, with this kind; called again, the one after it.
    pub fn reject_next(&self, kind: ErrorKind) {
        self.change(|state| state.rejections.push_back(kind));
    }

    /// Refuses this message, and any batch that has it, with this kind whenever it comes.
    pub fn poison(&self, message: MessageId, kind: ErrorKind) {
        self.change(|state| state.poison.insert(message, kind));
    }

    /// Accepts the next messages but never says so: their sends wait until a [`cut`](Self::cut).
    pub fn lose_settlements(&self, count: usize) {
        self.change(|state| state.settlements_to_lose = count);
    }

    /// Refuses every request as throttled, with this time to wait, or stops doing so.
    pub fn throttle(&self, retry_after: Option<Duration>) {
        self.change(|state| state.throttle = retry_after);
    }

    /// Lets every answer take this long.
    pub fn set_latency(&self, latency: Duration) {
        self.change(|state| state.latency = latency);
    }

    /// Cuts every connection: what is pending fails as `Disconnected`. Devices stay attached.
    pub fn cut(&self) {
        self.change(State::cut);
    }

    /// Goes down, cutting every connection and refusing new ones, or comes up again.
    pub fn set_down(&self, is_down: bool) {
        self.change(|state| {
            state.is_down = is_down;
            if is_down {
                state.cut();
            }
        });
    }

    /// The messages accepted, in order; one whose settlement was lost may stand there twice.
    #[must_use]
    pub fn accepted(&self) -> Vec<Uplink> {
        self.0.state.borrow().accepted.clone()
    }

    /// Waits until at least this many messages were accepted, and gives them.
    pub async fn wait_accepted(&self, count: usize) -> Vec<Uplink> {
        self.wait(|state| state.accepted.len() >= count).await;
        self.accepted()
    }

    /// How many devices are attached.
    #[must_use]
    pub fn attached_devices(&self) -> usize {
        self.0.state.borrow().attached.len()
    }

    /// Whether a device is attached.
    #[must_use]
    pub fn is_attached(&self, device: &DeviceId) -> bool {
        self.0.state.borrow().attached.contains_key(device)
    }

    /// Waits until a device is attached, or is not.
    pub async fn wait_attached(&self, device: &DeviceId, is_attached: bool) {
        self.wait(|state| state.attached.contains_key(device) == is_attached)
            .await;
    }

    /// Waits until a device is attached and hears at least this.
    pub async fn wait_listening(&self, device: &DeviceId, interest: Interest) {
        self.wait(|state| state.listens(device, interest)).await;
    }

    /// Waits until a device hears nothing.
    pub async fn wait_deaf(&self, device: &DeviceId) {
        self.wait(|state| {
            let attachment = state.attached.get(device);
            attachment.is_none_or(|attachment| attachment.identity.interest == Interest::NONE)
        })
        .await;
    }

    /// How often a device was attached that was not attached before.
    #[must_use]
    pub fn attaches(&self, device: &DeviceId) -> u64 {
        self.read_counts(device).attaches
    }

    /// How often an attach was asked for, with or without success.
    #[must_use]
    pub fn attach_requests(&self, device: &DeviceId) -> u64 {
        self.read_counts(device).requests
    }

    /// How often a device was detached that was attached before.
    #[must_use]
    pub fn detaches(&self, device: &DeviceId) -> u64 {
        self.read_counts(device).detaches
    }

    fn read_counts(&self, device: &DeviceId) -> Counts {
        let state = self.0.state.borrow();
        state.counts.get(device).copied().unwrap_or_default()
    }

    /// The credential and interest that a device is attached with.
    #[must_use]
    pub fn identity(&self, device: &DeviceId) -> Option<DeviceIdentity> {
        let state = self.0.state.borrow();
        Some(state.attached.get(device)?.identity.clone())
    }

    fn listener(&self, device: &DeviceId, interest: Interest) -> Option<Arc<dyn CloudCallback>> {
        let state = self.0.state.borrow();
        let listens = state.listens(device, interest) && !state.is_down;
        listens.then(|| state.attached.get(device).map(|a| a.callback.clone()))?
    }

    /// Delivers a message once and gives the verdict; none if the device does not listen.
    pub async fn send_message(&self, message: CloudMessage) -> Option<Disposition> {
        let interest = Interest::NONE.with_messages(true);
        let listener = self.listener(&message.device, interest)?;
        Some(listener.on_message(message).await)
    }

    /// Calls a method and gives the reply; none if the device does not listen.
    pub async fn call_method(&self, call: MethodCall) -> Option<MethodReply> {
        let interest = Interest::NONE.with_methods(true);
        let listener = self.listener(&call.device, interest)?;
        Some(listener.on_method(call).await)
    }

    /// Ends a device's session as the hub does it, and tells the device's callback.
    pub async fn end_session(&self, device: &DeviceId, reason: ErrorKind) {
        self.end(SessionEnd::new(device.clone(), reason)).await;
    }

    async fn end(&self, end: SessionEnd) {
        if let Some(attachment) = self.change(|state| state.attached.remove(&end.device)) {
            attachment.callback.on_end(end).await;
        }
    }

    /// Takes messages of one device, all or none.
    async fn take(&self, device: &DeviceId, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        let count = uplinks.len();
        let (arrival, way_back) = self.change(|state| {
            *state.in_flight.entry(device.clone()).or_default() += count;
            (state.arrive(device, uplinks), state.way_back())
        });
        let _in_flight = InFlight {
            hub: self,
            device,
            count,
        };
        let settled = async {
            match arrival? {
                Some(settled) => settled.await.or(fail(ErrorKind::Disconnected, "send")),
                None => Ok(()),
            }
        };
        way_back.answer("send", settled).await
    }

    /// Ends the session with its token.
    fn end_at_expiry(&self, device: DeviceId, token: SasToken) {
        let left = token.expires().duration_since(SystemTime::now());
        let hub = Arc::downgrade(&self.0);
        let timer = async move {
            sleep(left.unwrap_or_default()).await;
            let Some(hub) = hub.upgrade().map(MemoryUpstream) else {
                return;
            };
            let current = hub.identity(&device).map(|identity| identity.credential);
            if current == Some(Credential::SasToken(token)) {
                hub.end(SessionEnd::expired(device)).await;
            }
        };
        self.spawn(timer);
    }

    fn spawn(&self, timer: impl Future<Output = ()> + Send + 'static) {
        let timers = self.0.timers.lock();
        timers.unwrap_or_else(PoisonError::into_inner).spawn(timer);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Upstream for MemoryUpstream {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let device = identity.device.clone();
        let (verdict, way_back) = self.change(|state| {
            state.counts(&device).requests += 1;
            let judged = state.judge(&identity);
            let judged = judged.map_err(|kind| UpstreamError::new(kind, "attach"));
            (state.check("attach").and(judged), state.way_back())
        });
        way_back.answer("attach", async { verdict }).await?;
        let credential = identity.credential.clone();
        self.change(|state| {
            state.check("attach")?;
            let attachment = Attachment { identity, callback };
            if state.attached.insert(device.clone(), attachment).is_none() {
                state.counts(&device).attaches += 1;
            }
            Ok::<_, UpstreamError>(())
        })?;
        if let Credential::SasToken(token) = credential {
            self.end_at_expiry(device, token);
        }
        Ok(())
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        self.take(&uplink.device, std::slice::from_ref(uplink))
            .await
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        match uplinks {
            [] => Ok(()),
            [first, ..] => self.take(&first.device, uplinks).await,
        }
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        let (reply, way_back) =
            self.change(|state| (state.ask_twin(device, request), state.way_back()));
        way_back.answer("twin", async { reply }).await
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        let (done, way_back) = self.change(|state| {
            if state.is_closed {
                return (fail(ErrorKind::Closed, "detach"), state.way_back());
            }
            if state.attached.remove(device).is_some() {
                state.counts(device).detaches += 1;
            }
            (Ok(()), state.way_back())
        });
        way_back.answer("detach", async { done }).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.0.state.borrow().explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        let was_closed = self.change(|state| mem::replace(&mut state.is_closed, true));
        if was_closed {
            return fail(ErrorKind::Closed, "close");
        }
        let drained = timeout(grace, self.wait(|state| state.in_flight.is_empty())).await;
        self.change(|state| {
            state.cut();
            state.attached.clear();
        });
        drained.map_err(|_| UpstreamError::new(ErrorKind::TimedOut, "close"))
    }
}
