use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::poll;
use gateway_core::governor::{Class, Operation, Priority, Turn};
use gateway_core::{
    CloudCallback, ConfigError, DeviceId, DeviceIdentity, ErrorKind, TwinReply, TwinRequest,
    Uplink, Upstream, UpstreamError, UpstreamExplanation, desired_of,
};
use gateway_net::tls::client;
use tokio::task::unconstrained;
use tokio::time::timeout;
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

use super::attach::{bring_up, change_credential};
use super::config::{MqttHubConfig, MqttTransport};
use super::device::{Device, Link, Wish};
use super::env::Env;
use super::error::HubError;
use super::session::Session;
use super::{convert, twin};
use crate::client::Transport;
use crate::lock::lock;

/// The hub's path for WebSockets (Microsoft, "Communicate with an IoT hub using the MQTT protocol").
const WEB_SOCKET_PATH: &str = "/$iothub/websocket";
/// Messages go in the order in which they come, each device having one at the door.
const SENDS: Priority = Priority::new(Class::Wanted, 0);
/// How long an orderly end of a connection may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Carries each device over an MQTT connection of its own to an IoT hub.
///
/// Dropped, it closes every connection; [`Upstream::close`] lets what is in flight settle first.
#[derive(Debug)]
pub struct MqttHubUpstream {
    env: Arc<Env>,
    /// Sends in flight.
    sends: TaskTracker,
    sent: AtomicU64,
    _stop: DropGuard,
}

/// Is a snapshot of an upstream over MQTT.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MqttHubStats {
    /// Connections that are open, one for each device that is up.
    pub connections: usize,
    /// Devices that are attached, or are being brought back.
    pub devices: usize,
    /// Messages without a verdict yet.
    pub in_flight: usize,
    /// Devices that were lost and are not back.
    pub recovering: usize,
    /// When the last lost device will be back, at the speed of the last ones and by the budget;
    /// zero if none is lost. An estimate: nobody knows when an unreachable hub comes back.
    pub recovered_in: Duration,
    /// Requests to the hub that wait for the [budget](crate::MqttHubBudgetConfig).
    pub waiting: usize,
    /// Devices that the hub refused, or whose connection it closed, so often that it is not asked for
    /// now.
    pub held: usize,
    /// Connections that took the place of another, as one with a fresh token does, since the start.
    pub replaced: u64,
    /// Messages to devices that a device refused, since the start: over MQTT the hub cannot be told, and
    /// counts them as delivered.
    pub messages_rejected: u64,
    /// Messages to devices that could not be delivered, or were not settled in time, since the start:
    /// the hub delivers each again.
    pub messages_abandoned: u64,
    /// Methods whose answer came too late, or found no connection, since the start.
    pub methods_late: u64,
    /// Commands dropped because too many of one device waited or they were larger than
    /// `wire.max_packet`, since the start.
    pub commands_dropped: u64,
}

impl MqttHubUpstream {
    /// Makes an upstream. Nothing is connected until the first device is attached.
    ///
    /// # Errors
    /// A setting is out of range, or the CA file cannot be read.
    ///
    /// # Panics
    /// Called outside a tokio runtime.
    pub fn new(config: MqttHubConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let transport = transport(&config)?;
        let env = Arc::new(Env::new(config, transport));
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
            sends: TaskTracker::new(),
            sent: AtomicU64::new(0),
            _stop: stop,
        })
    }

    /// Takes a snapshot.
    #[must_use]
    pub fn stats(&self) -> MqttHubStats {
        let (env, counters) = (&self.env, &self.env.counters);
        let recovering = env.progress.left();
        let by_budget = match recovering {
            0 => Duration::ZERO,
            devices => env.door.forecast(&[Operation::Connect], devices),
        };
        let (devices, connections) = {
            let registry = lock(&env.registry);
            let up = registry.values().filter(|device| device.line().is_some());
            (registry.len(), up.count())
        };
        MqttHubStats {
            connections,
            devices,
            in_flight: self.sends.len(),
            recovering,
            recovered_in: by_budget.max(env.progress.forecast().unwrap_or_default()),
            waiting: env.door.waiting(),
            held: env.breakers.open(),
            replaced: counters.replaced.load(Relaxed),
            messages_rejected: counters.rejected.load(Relaxed),
            messages_abandoned: counters.abandoned.load(Relaxed),
            methods_late: counters.late.load(Relaxed),
            commands_dropped: counters.dropped.load(Relaxed),
        }
    }

    fn find(&self, device: &DeviceId) -> Result<Arc<Device>, HubError> {
        match self.sends.is_closed() {
            true => Err(HubError::Closed),
            false => self.env.find(device).ok_or(HubError::NotAttached),
        }
    }

    /// Sends messages of one device, each a publication of its own.
    async fn deliver(&self, uplinks: &[Uplink]) -> Result<(), HubError> {
        let Some(first) = uplinks.first() else {
            return Ok(());
        };
        let device = self.find(&first.device)?;
        let publishes: Result<Vec<_>, _> = uplinks.iter().map(convert::publish).collect();
        let publishes = publishes?;
        let _in_flight = self.sends.token();
        let _busy = device.engage();
        let link = match device.link.try_lock() {
            Ok(link) => link,
            Err(_) => {
                self.env.door.hurry(&device.turn);
                device.link.lock().await
            }
        };
        let line = link.line()?.clone();
        device.set_active(self.sent.fetch_add(1, Relaxed));
        let (env, count) = (&self.env, uplinks.len() as u32);
        tokio::select! {
            biased;
            () = env.door.pass_together(Operation::Send, count, SENDS, &device.turn) => {}
            // Recovery waits for the link.
            () = line.client.down().cancelled() => return Err(HubError::Down),
            () = env.closing.cancelled() => return Err(HubError::Closed),
        }
        let _work = line.work.token();
        let mut sending = pin!(line.publish(publishes));
        // Once it was polled it has its place behind those before it: the next may come.
        let sent = poll!(sending.as_mut());
        drop(link);
        let sent = match sent {
            Poll::Ready(sent) => sent,
            Poll::Pending => sending.await,
        };
        sent.inspect_err(|error| device.note_error(error))
    }

    /// Gives the device what is wished, which counts once the hub has taken its credential.
    ///
    /// Cancel safe: the device keeps what it had.
    async fn change(
        &self,
        device: &Arc<Device>,
        link: &mut Link,
        wish: Wish,
    ) -> Result<(), HubError> {
        let (env, identity) = (&self.env, &wish.identity);
        match link {
            Link::Up(line) if line.credential == identity.credential => {}
            Link::Up(_) => change_credential(env, device, link, identity).await?,
            _ => bring_up(env, device, link, identity).await?,
        }
        let line = link.line()?.clone();
        device.set_wish(wish);
        device.changed.notify_one();
        Session::start(env, device, line);
        Ok(())
    }

    async fn attach_device(&self, wish: Wish) -> Result<(), HubError> {
        let id = wish.identity.device.clone();
        let room = self.env.config.commands.credit;
        loop {
            if self.sends.is_closed() {
                return Err(HubError::Closed);
            }
            let device = lock(&self.env.registry)
                .entry(id.clone())
                .or_insert_with(|| Arc::new(Device::new(wish.clone(), room)))
                .clone();
            let _busy = device.engage();
            self.env.door.hurry(&device.turn);
            let mut link = device.link.lock().await;
            if device.is_gone() || matches!(*link, Link::Ended) {
                // Detached or ended while this waited for its turn: begin anew.
                self.env.remove(&device);
                continue;
            }
            let is_known = matches!(*link, Link::Up(_) | Link::Held(..));
            let undo = Undo {
                env: &self.env,
                device: (!is_known).then(|| device.clone()),
            };
            let result = tokio::select! {
                biased;
                () = self.env.closing.cancelled() => Err(HubError::Closed),
                result = self.change(&device, &mut link, wish) => result,
            };
            if result.is_ok() {
                undo.disarm();
            }
            return result;
        }
    }

    async fn ask_twin(
        &self,
        device: &DeviceId,
        request: &TwinRequest,
    ) -> Result<TwinReply, HubError> {
        let device = self.find(device)?;
        let _busy = device.engage();
        let turn = Turn::default();
        self.env.pass(Operation::Twin, SENDS, &turn).await?;
        let reply = twin::ask(&self.env, &device, request).await?;
        if matches!(request, TwinRequest::Get)
            && let Some((version, _)) = desired_of(&reply.body)
        {
            device.desired.read(version);
        }
        Ok(reply)
    }
}

/// What every connection is opened over.
fn transport(config: &MqttHubConfig) -> Result<Transport, ConfigError> {
    let tls = match config.tls {
        true => Some(client::config(
            config.ca_file.as_deref(),
            config.ca_pem.as_deref(),
        )?),
        false => None,
    };
    Ok(match (config.transport, tls) {
        (MqttTransport::Tcp, Some(tls)) => Transport::Tls(tls),
        (MqttTransport::Tcp, None) => Transport::Tcp,
        (MqttTransport::WebSocket, tls) => Transport::WebSocket {
            tls,
            path: WEB_SOCKET_PATH.to_owned(),
        },
    })
}

/// Forgets a device whose attach failed, or was dropped on its way.
struct Undo<'a> {
    env: &'a Env,
    device: Option<Arc<Device>>,
}

impl Undo<'_> {
    fn disarm(mut self) {
        self.device = None;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(device) = self.device.take() {
            device.gone.cancel();
            self.env.remove(&device);
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Upstream for MqttHubUpstream {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let attached = self.attach_device(Wish { identity, callback }).await;
        attached.map_err(|error| error.into_upstream("attach"))
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        let sent = self.deliver(std::slice::from_ref(uplink)).await;
        sent.map_err(|error| error.into_upstream("send"))
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        let sent = self.deliver(uplinks).await;
        sent.map_err(|error| error.into_upstream("send"))
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        let reply = self.ask_twin(device, &request).await;
        reply.map_err(|error| error.into_upstream("twin"))
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        if self.sends.is_closed() {
            return Err(HubError::Closed.into_upstream("detach"));
        }
        let Some(device) = lock(&self.env.registry).remove(device) else {
            return Ok(());
        };
        device.gone.cancel();
        let ended = self.env.tasks.spawn(async move {
            let mut link = device.link.lock().await;
            if let Link::Up(line) = &*link {
                line.client.disconnect(CLOSE_PATIENCE).await;
            }
            device.set(&mut link, Link::Ended);
        });
        match ended.await {
            Ok(()) => Ok(()),
            Err(_) => Err(UpstreamError::new(ErrorKind::TimedOut, "detach")),
        }
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        let device = self.env.find(device)?;
        Some(self.env.explain(&device))
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.sends.close();
        let settled = timeout(grace, self.sends.wait()).await.is_ok();
        // Each device's task says goodbye to the hub; what is still unsettled fails.
        self.env.closing.cancel();
        let devices = std::mem::take(&mut *lock(&self.env.registry));
        // A task's budget of steps would have each look at a few of them poll all that remain.
        unconstrained(join_all(devices.values().map(async |device| {
            let mut link = device.link.lock().await;
            if let Link::Up(line) = &*link {
                line.client.disconnect(Duration::ZERO).await;
            }
            device.set(&mut link, Link::Ended);
        })))
        .await;
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
