use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use gateway_core::governor::{Class, Held, Operation, Priority, Turn};
use gateway_core::{
    CloudCallback, ConfigError, DeviceId, DeviceIdentity, ErrorKind, TwinReply, TwinRequest,
    Uplink, Upstream, UpstreamError, UpstreamExplanation,
};
use tokio::join;
use tokio::sync::{MutexGuard, mpsc, oneshot};
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout};
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

use crate::attach::{change, lose_link, note_throttle};
use crate::client::{ClientError, Outcome};
use crate::commands::{Ask, Commands, Scope};
use crate::config::AmqpConfig;
use crate::convert;
use crate::device::{Attached, Device, Link, Wish};
use crate::env::{Env, Event, lock};
use crate::error::AmqpError;
use crate::lane::Lane;
use crate::pool::Pool;
use crate::supervisor::{Registry, Supervisor, remove};
use crate::transport::Transport;

/// Events that wait for the supervisor, which never waits for the network itself.
const EVENTS: usize = 1024;
/// Messages go in the order in which they come, each device having one at the door.
const SENDS: Priority = Priority::new(Class::Wanted, 0);
/// How long an orderly end of a device's links may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Multiplexes devices over few AMQP connections to an IoT hub.
///
/// Dropped, it closes every connection; [`Upstream::close`] lets what is in flight settle first.
#[derive(Debug)]
pub struct AmqpUpstream {
    env: Arc<Env>,
    pool: Arc<Pool>,
    registry: Arc<Registry>,
    /// Sends in flight.
    sends: TaskTracker,
    sent: AtomicU64,
    _stop: DropGuard,
}

/// Is a snapshot of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AmqpStats {
    /// Devices on each open connection.
    pub connections: Vec<usize>,
    /// Devices that are attached, or are being brought back.
    pub devices: usize,
    /// Messages without a verdict yet.
    pub in_flight: usize,
    /// Devices that were lost and are not back.
    pub recovering: usize,
    /// Devices that listen, or that asked for their twin of late: each has a task.
    pub listening: usize,
    /// Cloud-to-device messages given back to the hub because nobody had settled them in time
    /// ([`CommandConfig::lock`](crate::CommandConfig::lock)), since the start.
    pub messages_lapsed: u64,
    /// Methods without an answer in time
    /// ([`CommandConfig::method_timeout`](crate::CommandConfig::method_timeout)), since the start.
    /// An answer that comes later is dropped.
    pub methods_late: u64,
    /// Requests to the hub that wait for the budget, see [`BudgetConfig`](gateway_core::governor::BudgetConfig).
    pub waiting: usize,
    /// Devices that the hub refused or detached so often that it is not asked for now.
    pub held: usize,
    /// When the last lost device will be back, at the speed of the last ones and by the budget;
    /// zero if none is lost. An estimate: nobody knows when an unreachable hub comes back.
    pub recovered_in: Duration,
}

impl AmqpUpstream {
    /// Makes an upstream. Nothing is connected until the first device is attached.
    ///
    /// # Errors
    /// A setting is out of range, or the CA file cannot be read.
    ///
    /// # Panics
    /// Called outside a tokio runtime.
    pub fn new(config: AmqpConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let transport = Transport::new(&config)?;
        let (events, queue) = mpsc::channel(EVENTS);
        let env = Arc::new(Env::new(config, transport, events));
        let pool = Arc::new(Pool::new(env.clone()));
        let registry = Arc::new(Registry::default());
        let supervisor = Supervisor {
            env: env.clone(),
            pool: pool.clone(),
            registry: registry.clone(),
            events: queue,
        };
        env.tasks.spawn(supervisor.run());
        let door = env.clone();
        env.tasks.spawn(async move {
            tokio::select! {
                () = door.closing.cancelled() => {}
                () = door.door.run() => {}
            }
        });
        let stop = env.closing.clone().drop_guard();
        Ok(Self {
            env,
            pool,
            registry,
            sends: TaskTracker::new(),
            sent: AtomicU64::new(0),
            _stop: stop,
        })
    }

    /// Takes a snapshot.
    #[must_use]
    pub fn stats(&self) -> AmqpStats {
        let recovering = self.env.progress.left();
        let by_budget = match recovering {
            0 => Duration::ZERO,
            devices => {
                let operations = [Operation::Token, Operation::Link];
                self.env.door.forecast(&operations, devices)
            }
        };
        AmqpStats {
            recovering,
            listening: self.env.counters.listening.load(Relaxed),
            messages_lapsed: self.env.counters.lapsed.load(Relaxed),
            methods_late: self.env.counters.late.load(Relaxed),
            waiting: self.env.door.waiting(),
            held: self.env.breakers.open(),
            recovered_in: by_budget.max(self.env.progress.forecast().unwrap_or_default()),
            connections: self.pool.fill(),
            devices: lock(&self.registry).len(),
            in_flight: self.sends.len(),
        }
    }

    fn find(&self, device: &DeviceId) -> Result<Arc<Device>, AmqpError> {
        if self.sends.is_closed() {
            return Err(AmqpError::Closed);
        }
        lock(&self.registry)
            .get(device)
            .cloned()
            .ok_or(AmqpError::NotAttached)
    }

    /// Sends one message, or several of one device as one.
    async fn deliver(&self, uplinks: &[Uplink]) -> Result<(), AmqpError> {
        let Some(first) = uplinks.first() else {
            return Ok(());
        };
        let device = self.find(&first.device)?;
        let (message, format) = convert::uplinks(uplinks)?;
        let _in_flight = self.sends.token();
        let _busy = device.engage();
        let mut link = match device.link.try_lock() {
            Ok(link) => link,
            Err(_) => {
                self.env.door.hurry(&device.turn);
                device.link.lock().await
            }
        };
        let attached = attached(&mut link)?;
        device.set_active(self.sent.fetch_add(1, Relaxed));
        let after_uplink = self.env.config.commands.after_uplink;
        if !after_uplink.is_zero() {
            let scope = self.scope(&device, &attached.lane);
            attached.commands.listen(scope, after_uplink);
        }
        tokio::select! {
            biased;
            () = self.env.door.pass(Operation::Send, SENDS, &device.turn) => {}
            // Recovery waits for the link.
            () = attached.lane.down.cancelled() => return Err(AmqpError::Down),
        }
        let sent = tokio::select! {
            biased;
            sent = attached.sender.send(message, format) => sent,
            () = attached.lane.down.cancelled() => return Err(AmqpError::Down),
        };
        let delivery = match sent {
            Ok(delivery) => delivery,
            Err(error) => {
                let error = error.into();
                lose_link(&self.env, &device, &mut link, &error);
                return Err(error);
            }
        };
        drop(link);
        let error = match delivery.await? {
            Outcome::Accepted => return Ok(()),
            Outcome::Rejected(Some(error)) => ClientError::from(error).into(),
            Outcome::Rejected(None) => AmqpError::Refused {
                condition: "amqp:not-allowed".to_owned(),
                description: "rejected without a reason".to_owned(),
            },
            Outcome::Released => AmqpError::Released,
        };
        note_throttle(&self.env, Operation::Send, &error);
        device.note_error(&error);
        Err(error)
    }

    fn scope<'a>(&'a self, device: &'a Arc<Device>, lane: &'a Arc<Lane>) -> Scope<'a> {
        Scope {
            env: &self.env,
            device,
            lane,
        }
    }

    async fn attach_device(&self, wish: Wish) -> Result<(), AmqpError> {
        let id = wish.identity.device.clone();
        loop {
            if self.sends.is_closed() {
                return Err(AmqpError::Closed);
            }
            let device = lock(&self.registry)
                .entry(id.clone())
                .or_insert_with(|| Arc::new(Device::new(wish.clone())))
                .clone();
            let _busy = device.engage();
            self.env.door.hurry(&device.turn);
            let link = device.link.lock().await;
            if device.is_gone() {
                // Detached while this waited for its turn: begin anew.
                continue;
            }
            let mut taken = Taken {
                upstream: self,
                device: &device,
                link,
            };
            return change(&self.env, &self.pool, &device, &mut taken.link, wish).await;
        }
    }

    async fn ask_twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, AmqpError> {
        let device = self.find(device)?;
        let _busy = device.engage();
        let (answer, answered) = oneshot::channel();
        let turn = Turn::default();
        tokio::select! {
            biased;
            // Then nobody keeps the door.
            () = self.env.closing.cancelled() => return Err(AmqpError::Closed),
            () = self.env.door.pass(Operation::Twin, SENDS, &turn) => {}
        }
        {
            let mut link = device.link.lock().await;
            let attached = attached(&mut link)?;
            let scope = self.scope(&device, &attached.lane);
            attached.commands.ask(scope, Ask { request, answer });
        }
        match timeout(self.env.config.wire.answer_timeout, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(AmqpError::Down),
            Err(_) => Err(AmqpError::Unanswered("a twin request")),
        }
    }
}

/// A device whose link an attach has taken. However that ends, the device is not left half attached.
struct Taken<'a> {
    upstream: &'a AmqpUpstream,
    device: &'a Arc<Device>,
    link: MutexGuard<'a, Link>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        match &*self.link {
            Link::New => {
                self.device.set_gone();
                remove(&self.upstream.registry, self.device);
            }
            // It was attached before, and is again as it was then.
            Link::Down(_) => {
                let lost = Event::LinkLost(self.device.clone());
                self.upstream.env.tell_soon(lost);
            }
            Link::Up(_) | Link::Held(..) | Link::Ended => {}
        }
    }
}

/// Takes the command task of a device that is up.
fn take_commands(device: &Device) -> Option<Commands> {
    match &mut *device.link.try_lock().ok()? {
        Link::Up(attached) => Some(std::mem::take(&mut attached.commands)),
        _ => None,
    }
}

fn attached(link: &mut Link) -> Result<&mut Attached, AmqpError> {
    match link {
        Link::Up(attached) => Ok(attached),
        Link::Down(_) => Err(AmqpError::Down),
        Link::Held(until, kind) => {
            let wait = until.saturating_duration_since(Instant::now());
            Err(Held::new(wait, *kind).into())
        }
        Link::New | Link::Ended => Err(AmqpError::NotAttached),
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Upstream for AmqpUpstream {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let attached = self.attach_device(Wish { identity, callback }).await;
        attached.map_err(|error| error.into_upstream("attach"))
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        self.deliver(std::slice::from_ref(uplink))
            .await
            .map_err(|error| error.into_upstream("send"))
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        self.deliver(uplinks)
            .await
            .map_err(|error| error.into_upstream("send"))
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        self.ask_twin(device, request)
            .await
            .map_err(|error| error.into_upstream("twin"))
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        if self.sends.is_closed() {
            return Err(AmqpError::Closed.into_upstream("detach"));
        }
        let Some(device) = lock(&self.registry).remove(device) else {
            return Ok(());
        };
        device.set_gone();
        let ended = self.env.tasks.spawn(async move {
            let mut link = device.link.lock().await;
            device.set_lane(0);
            if let Link::Up(attached) = std::mem::replace(&mut *link, Link::Down(None)) {
                let Attached {
                    watched: _watched,
                    sender,
                    commands,
                    lane: _lane,
                    place: _place,
                } = *attached;
                let close = async { join!(commands.close(), sender.close()) };
                return timeout(CLOSE_PATIENCE, close).await.is_ok();
            }
            true
        });
        match ended.await {
            Ok(true) => Ok(()),
            _ => Err(UpstreamError::new(ErrorKind::TimedOut, "detach")),
        }
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        let device = lock(&self.registry).get(device)?.clone();
        Some(self.env.explain(&device))
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.sends.close();
        let settled = timeout(grace, self.sends.wait()).await.is_ok();
        let devices = std::mem::take(&mut *lock(&self.registry));
        // What devices have not settled goes back to the hub's queues while there is a line to it.
        let commands = devices.values().filter_map(|device| take_commands(device));
        // A task's budget of steps would have each look at a few of them poll all that remain.
        let closed = unconstrained(join_all(commands.map(Commands::close)));
        drop(timeout(CLOSE_PATIENCE, closed).await);
        self.env.closing.cancel();
        // What is still unsettled fails as its sender is dropped.
        for device in devices.values() {
            *device.link.lock().await = Link::Down(None);
        }
        self.pool.clear();
        self.env.tasks.close();
        let ended = timeout(CLOSE_PATIENCE, self.env.tasks.wait()).await.is_ok();
        if !ended {
            tracing::warn!(count = self.env.tasks.len(), "Tasks outlived the close");
        }
        match settled {
            true => Ok(()),
            false => Err(UpstreamError::new(ErrorKind::TimedOut, "close")),
        }
    }
}
