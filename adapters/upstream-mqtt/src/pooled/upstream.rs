use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::{
    CloudCallback, ConfigError, Credential, DeviceId, DeviceIdentity, ErrorKind, LastError,
    LinkExplanation, LinkPurpose, TwinReply, TwinRequest, Uplink, Upstream, UpstreamError,
    UpstreamExplanation,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::DropGuard;

use super::config::MqttPoolConfig;
use super::convert;
use super::device::{Device, Wish};
use super::line::end_all;
use super::pool::Pool;
use crate::error::MqttError;
use crate::lock::lock;

/// How long an orderly end may take beyond the grace.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the broker may take to acknowledge that the gateway is offline.
const FAREWELL: Duration = Duration::from_secs(1);

/// Carries all devices to any MQTT broker over few connections.
///
/// Dropped, it closes every connection, and the broker publishes the gateway's last will;
/// [`Upstream::close`] lets what is in flight settle first.
#[derive(Debug)]
pub struct MqttPoolUpstream {
    pool: Arc<Pool>,
    _stop: DropGuard,
}

/// Is a snapshot of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MqttPoolStats {
    /// Connections that are up.
    pub connected: usize,
    /// Devices that are attached.
    pub devices: usize,
    /// Messages without a verdict yet.
    pub in_flight: usize,
    /// Messages that connections have on their way, those among them whose sender has gone.
    pub unacknowledged: usize,
    /// Filters that the broker has granted.
    pub subscriptions: usize,
    /// Commands that wait for their device or its verdict.
    pub pending: usize,
    /// Connections that were lost or could not be made, since the start.
    pub losses: u64,
    /// Commands given up because a device's callback had no verdict in time
    /// ([`MqttPoolCommands::verdict_timeout`](super::MqttPoolCommands::verdict_timeout)), since the
    /// start. A message is then tried again.
    pub commands_lapsed: u64,
    /// Messages to devices that were refused for good, by the device or because nobody could take
    /// them in time, since the start.
    pub messages_refused: u64,
    /// Methods answered with 504 because the device had not answered, since the start.
    pub methods_late: u64,
    /// Messages from the broker that could not be read, since the start.
    pub unreadable: u64,
    /// Commands for devices that are not here, handed over to the gateways of the group, since the
    /// start.
    pub handed_over: u64,
    /// Commands for devices that are not here, left to other gateways, since the start.
    pub left: u64,
}

impl MqttPoolUpstream {
    /// Makes an upstream. Nothing is connected until the first device is attached.
    ///
    /// # Errors
    /// A setting is out of range, a template cannot be, or a certificate cannot be read.
    ///
    /// # Panics
    /// Called outside a tokio runtime.
    pub fn new(config: MqttPoolConfig) -> Result<Self, ConfigError> {
        let pool = Arc::new(Pool::new(config)?);
        let door = pool.clone();
        pool.spawn(async move { door.door.run().await });
        pool.spawn(pool.clone().keep_up());
        let stop = pool.closing.clone().drop_guard();
        Ok(Self { pool, _stop: stop })
    }

    /// Takes a snapshot.
    #[must_use]
    pub fn stats(&self) -> MqttPoolStats {
        let (pool, counters) = (&self.pool, &self.pool.counters);
        let lines = pool.lines.iter();
        MqttPoolStats {
            connected: lines.clone().filter(|line| line.is_up()).count(),
            devices: lock(&pool.devices).len(),
            in_flight: pool.sends.len(),
            unacknowledged: lines
                .clone()
                .filter_map(|line| Some(line.client().ok()?.in_flight()))
                .sum(),
            subscriptions: lines.map(|line| line.filters.count()).sum(),
            pending: pool.queues.pending(),
            losses: counters.losses.load(Relaxed),
            commands_lapsed: counters.lapsed.load(Relaxed),
            messages_refused: counters.refused.load(Relaxed),
            methods_late: counters.late.load(Relaxed),
            unreadable: counters.unreadable.load(Relaxed),
            handed_over: counters.handed_over.load(Relaxed),
            left: counters.left.load(Relaxed),
        }
    }

    fn check_open(&self) -> Result<(), MqttError> {
        match self.pool.sends.is_closed() {
            true => Err(MqttError::Closed),
            false => Ok(()),
        }
    }

    fn find(&self, device: &DeviceId) -> Result<Arc<Device>, MqttError> {
        self.check_open()?;
        self.pool.find(device).ok_or(MqttError::NotAttached)
    }

    async fn attach_device(&self, id: DeviceId, wish: Wish) -> Result<(), MqttError> {
        self.check_open()?;
        let pool = &self.pool;
        let line = &pool.lines[pool.place(&id)];
        line.keep(pool);
        // It carries the gateway's own state.
        pool.lines[0].keep(pool);
        tokio::select! {
            biased;
            () = pool.closing.cancelled() => return Err(MqttError::Closed),
            decided = line.decided() => decided?,
        }
        self.check_open()?;
        pool.register(id, wish);
        Ok(())
    }

    async fn deliver(&self, uplinks: &[Uplink]) -> Result<(), MqttError> {
        let Some(first) = uplinks.first() else {
            return Ok(());
        };
        let device = self.find(&first.device)?;
        let _in_flight = (self.pool.sends.token(), device.send(uplinks.len()));
        let result = self.publish(&device, uplinks).await;
        if let Err(error) = &result {
            device.note_error(error);
        }
        result
    }

    async fn publish(&self, device: &Device, uplinks: &[Uplink]) -> Result<(), MqttError> {
        let pool = &self.pool;
        let limit = pool.config.wire.max_message;
        let publish = |uplink| convert::uplink(&pool.topics, pool.encoding, limit, uplink);
        let client = pool.lines[device.line].client()?;
        match uplinks {
            [uplink] => client.publish(publish(uplink)?).await,
            uplinks => {
                let publishes = uplinks.iter().map(publish).collect::<Result<_, _>>()?;
                client.publish_all(publishes).await
            }
        }
    }

    fn explain_device(&self, device: &Device) -> UpstreamExplanation {
        let pool = &self.pool;
        let line = &pool.lines[device.line];
        let mut explanation = UpstreamExplanation::default();
        explanation.in_flight = Some(device.in_flight());
        explanation.last_error = device.last_error();
        if let Some(fault) = line.fault() {
            let error = LastError::new(fault.kind(), fault.to_string(), Duration::ZERO);
            explanation.last_error = Some(error);
            return explanation;
        }
        if line.is_up() {
            explanation.connection = Some(line.number as u64);
            let link = LinkExplanation::new(LinkPurpose::Telemetry, None);
            explanation.links.push(link);
        }
        let interest = device.interest();
        for purpose in [
            LinkPurpose::Messages,
            LinkPurpose::Methods,
            LinkPurpose::Twin,
        ] {
            let mut one = gateway_core::Interest::NONE;
            match purpose {
                LinkPurpose::Messages => one.messages = interest.messages,
                LinkPurpose::Methods => one.methods = interest.methods,
                _ => one.desired = interest.desired,
            }
            let filters = pool.filters(&device.id, device.line, one);
            let standing = filters
                .iter()
                .map(|(place, filter)| pool.lines[*place].filters.standing(filter));
            let standing: Vec<_> = standing.collect();
            if let Some(refusal) = standing.iter().find_map(|(_, refusal)| refusal.clone()) {
                let error = LastError::new(ErrorKind::Unauthorized, refusal, Duration::ZERO);
                explanation.last_error = Some(error);
            } else if !standing.is_empty() && standing.iter().all(|(granted, _)| *granted) {
                explanation.links.push(LinkExplanation::new(purpose, None));
            }
        }
        explanation
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Upstream for MqttPoolUpstream {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        // Whoever took it from the device counts on the hub to judge it.
        if matches!(identity.credential, Credential::SasToken(_)) {
            return Err(MqttError::Unjudged.into_upstream("attach"));
        }
        let interest = identity.interest;
        let wish = Wish { interest, callback };
        self.attach_device(identity.device, wish)
            .await
            .map_err(|error| error.into_upstream("attach"))
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
        let reply = async {
            let device = self.find(device)?;
            self.pool.ask_twin(&device, request).await
        };
        reply.await.map_err(|error| error.into_upstream("twin"))
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        let open = self.check_open();
        open.map_err(|error| error.into_upstream("detach"))?;
        self.pool.unregister(device);
        Ok(())
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        let device = self.pool.find(device)?;
        Some(self.explain_device(&device))
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        let pool = &self.pool;
        let end = Instant::now() + grace;
        pool.sends.close();
        let settled = timeout(grace, pool.sends.wait()).await.is_ok();
        if settled {
            let notice = pool.state_notice(1, "offline");
            if let (Some(notice), Ok(client)) = (notice, pool.lines[0].client()) {
                // An orderly end takes the last will back.
                drop(timeout(FAREWELL, client.publish(notice)).await);
            }
        }
        // Commands without a verdict stay unacknowledged: the broker keeps them for us.
        pool.closing.cancel();
        pool.tasks.close();
        let ended = timeout(CLOSE_PATIENCE, pool.tasks.wait()).await.is_ok();
        let left = end.saturating_duration_since(Instant::now());
        end_all(&pool.lines, settled.then_some(left)).await;
        pool.connections.close();
        let ended = timeout(CLOSE_PATIENCE, pool.connections.wait())
            .await
            .is_ok()
            && ended;
        if !ended {
            let count = pool.tasks.len() + pool.connections.len();
            tracing::warn!(count, "Tasks outlived the close");
        }
        match settled {
            true => Ok(()),
            false => Err(UpstreamError::new(ErrorKind::TimedOut, "close")),
        }
    }
}
