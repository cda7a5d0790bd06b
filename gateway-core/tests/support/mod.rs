//! What several tests share.

pub(crate) mod memory_devices;
pub(crate) mod memory_hub;
pub(crate) mod watch;

use std::time::{Duration, SystemTime};

use gateway_core::credential::{
    HubPolicyCredentials, SasToken, SharedAccessPolicy, SymmetricKey, sas_resource,
};
use gateway_core::testkit::{MemoryDownstream, MemoryUpstream};
use gateway_core::{
    Announcement, DeviceId, ErrorKind, Gateway, GatewayBuilder, GatewayConfig, MessageId, Presence,
    RunError, Settlement, ShutdownReport, Uplink, Upstream,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

pub(crate) fn uplink(device: &DeviceId, id: &str) -> Uplink {
    Uplink::new(device.clone(), MessageId::new(id).unwrap(), id.to_owned())
}

pub(crate) fn key() -> SymmetricKey {
    SymmetricKey::from_base64("c2VjcmV0").unwrap()
}

pub(crate) fn policy() -> HubPolicyCredentials {
    HubPolicyCredentials::new(SharedAccessPolicy::new("device", key()))
}

pub(crate) fn token(device: &DeviceId, key: &SymmetricKey, life: Duration) -> SasToken {
    SasToken::sign(&sas_resource("hub", device), key, SystemTime::now() + life)
}

/// A gateway at work between devices and a hub in memory.
#[derive(Debug)]
pub(crate) struct Harness {
    pub(crate) hub: MemoryUpstream,
    pub(crate) devices: MemoryDownstream,
    pub(crate) gateway: Gateway,
    pub(crate) shutdown: CancellationToken,
    run: JoinSet<Result<ShutdownReport, RunError>>,
}

impl Harness {
    pub(crate) fn start(configure: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::build(configure, |hub| hub, |builder| builder)
    }

    pub(crate) fn build<U: Upstream>(
        configure: impl FnOnce(&mut GatewayConfig),
        wrap: impl FnOnce(MemoryUpstream) -> U,
        more: impl FnOnce(GatewayBuilder<U>) -> GatewayBuilder<U>,
    ) -> Self {
        let (hub, devices) = (MemoryUpstream::new(), MemoryDownstream::new());
        let mut config = GatewayConfig::default();
        configure(&mut config);
        let builder = Gateway::builder(wrap(hub.clone()))
            .with_config(config)
            .with_credentials(policy())
            .with_downstream("memory", devices.clone());
        let gateway = more(builder).build().unwrap();
        let shutdown = CancellationToken::new();
        let mut run = JoinSet::new();
        run.spawn({
            let (gateway, shutdown) = (gateway.clone(), shutdown.clone());
            async move { gateway.run(shutdown).await }
        });
        Self {
            hub,
            devices,
            gateway,
            shutdown,
            run,
        }
    }

    /// Sends one message of a device that only speaks.
    pub(crate) async fn send(&self, name: &str, id: &str) -> Settlement {
        let device = self.devices.device(device(name)).await;
        device.send_uplink(uplink(device.id(), id)).await
    }

    pub(crate) async fn online(&self, announcement: Announcement) -> Result<Presence, ErrorKind> {
        let ingress = self.devices.ingress().await;
        ingress.online(announcement).await.map_err(|e| e.kind())
    }

    pub(crate) async fn ended(&mut self) -> Result<ShutdownReport, RunError> {
        self.run.join_next().await.unwrap().unwrap()
    }
}

/// Turns retries off, so that a test sees the first failure.
pub(crate) fn no_retries(config: &mut GatewayConfig) {
    config.retry.budget = Duration::ZERO;
}

/// Waits for what must come, on a paused clock that runs on while nothing does.
pub(crate) async fn soon<T>(event: impl Future<Output = T>) -> T {
    let within = tokio::time::timeout(Duration::from_secs(3 * 3600), event);
    within
        .await
        .expect("it comes within hours of a paused clock")
}
