use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use crate::error::ErrorKind;
use crate::gateway::{Gateway, RunError, ShutdownReport};
use crate::ingress::Announcement;
use crate::message::Uplink;

/// A gateway at work between the downstream under test and a hub in memory.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) hub: MemoryUpstream,
    pub(super) gateway: Gateway,
    pub(super) downstream: Arc<dyn Downstream>,
    shutdown: CancellationToken,
    run: JoinSet<Result<ShutdownReport, RunError>>,
}

impl Running {
    pub(super) async fn start(fixture: &dyn DownstreamFixture) -> Self {
        Self::start_with(fixture, DownstreamSettings::default(), |_| {}).await
    }

    pub(super) async fn start_with(
        fixture: &dyn DownstreamFixture,
        settings: DownstreamSettings,
        configure: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let hub = MemoryUpstream::new();
        let downstream = fixture.bind(settings).await;
        let mut config = GatewayConfig::default();
        configure(&mut config);
        let key = SymmetricKey::from_base64("c2VjcmV0").expect("a valid key");
        let policy = SharedAccessPolicy::new("device", key);
        let gateway = Gateway::builder(hub.clone())
            .with_config(config)
            .with_credentials(HubPolicyCredentials::new(policy))
            .with_downstream("under test", downstream.clone())
            .build()
            .expect("the settings are valid");
        let shutdown = CancellationToken::new();
        let mut run = JoinSet::new();
        run.spawn({
            let (gateway, shutdown) = (gateway.clone(), shutdown.clone());
            async move { gateway.run(shutdown).await }
        });
        Self {
            hub,
            gateway,
            downstream,
            shutdown,
            run,
        }
    }

    pub(super) fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Waits until nothing new is taken.
    pub(super) async fn wait_closing(&self) {
        let ingress = self.gateway.ingress("under test").expect("it is there");
        let announced = || ingress.online(Announcement::new(device("late-comer")));
        while announced().await.map_err(|error| error.kind()).err() != Some(ErrorKind::Closed) {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the end; fails if the gateway did not stop in order.
    pub(super) async fn end(mut self) -> ShutdownReport {
        self.shutdown.cancel();
        let ended = self.run.join_next().await.expect("it runs once");
        let report = ended.expect("it does not panic");
        report.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
    }

    /// Fails if serving has ended.
    pub(super) fn assert_serving(&mut self) {
        let ended = self.run.try_join_next();
        assert!(ended.is_none(), "serving ended: {ended:?}");
    }
}

pub(super) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).expect("a case's names are valid")
}

pub(super) fn message_id(id: impl AsRef<str>) -> MessageId {
    MessageId::new(id).expect("a case's ids are valid")
}

/// A JSON string, which every protocol can carry.
pub(super) fn body(text: &str) -> Bytes {
    Bytes::from(format!("\"{text}\""))
}

/// The id under which a device sent a message whose body is its id.
pub(super) fn sent_as(fixture: &dyn DownstreamFixture, uplink: &Uplink) -> String {
    if fixture.capabilities().names_messages {
        return uplink.id.to_string();
    }
    let body = String::from_utf8_lossy(&uplink.body);
    body.trim_matches('"').to_owned()
}
