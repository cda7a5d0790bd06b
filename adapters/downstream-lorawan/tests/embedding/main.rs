//! The embedding API as a network server and a hub see it, on a clock that does not wait for this
//! machine.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod codecs;
mod messages;
mod methods;
mod uplinks;

use std::time::Duration;

use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{
    CloudMessage, CorrelationId, DeviceId, Gateway, GatewayConfig, Interest, MethodCall, MethodName,
};
use gateway_downstream_lorawan::embed::{
    Directory, EuiDirectory, ListenPolicy, LorawanConfig, LorawanDownstream, NetworkEvents, Order,
    OrderStream, Profile, ProfileConfig,
};
use gateway_downstream_lorawan::event::{DevEui, Downlink, TransmitAck, Uplink};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const DEV_EUI: DevEui = DevEui::new([1; 8]);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
/// How long is watched for what must not happen.
const WATCH: Duration = Duration::from_millis(100);

/// A gateway between a hub in memory and a network server that the test plays.
struct Network {
    hub: MemoryUpstream,
    events: NetworkEvents,
    orders: OrderStream,
    gateway: Gateway,
    _run: JoinSet<()>,
}

impl Network {
    fn start(directory: impl Directory, config: LorawanConfig) -> Self {
        Self::start_with(directory, config, GatewayConfig::default())
    }

    fn start_with(
        directory: impl Directory,
        config: LorawanConfig,
        gateway: GatewayConfig,
    ) -> Self {
        let hub = MemoryUpstream::new();
        let (lorawan, orders) = LorawanDownstream::builder(config)
            .with_directory(directory)
            .stream()
            .unwrap();
        let events = lorawan.events();
        let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
        let gateway = Gateway::builder(hub.clone())
            .with_config(gateway)
            .with_credentials(HubPolicyCredentials::new(SharedAccessPolicy::new(
                "device", key,
            )))
            .with_downstream("lorawan", lorawan)
            .build()
            .unwrap();
        let mut run = JoinSet::new();
        let running = gateway.clone();
        run.spawn(async move {
            running.run(CancellationToken::new()).await.unwrap();
        });
        Self {
            hub,
            events,
            orders,
            gateway,
            _run: run,
        }
    }

    async fn downlink(&mut self) -> Downlink {
        match self.orders.next().await.unwrap() {
            Order::Send(downlink) => downlink,
            other => panic!("saw {other:?} instead of a downlink"),
        }
    }

    async fn transmitted(&self, downlink: &Downlink) {
        let ack = TransmitAck::new(downlink.dev_eui, downlink.id.clone(), Ok(()));
        self.events.transmit_ack(ack).await;
    }

    async fn wait_listening(&self) {
        self.hub.wait_listening(&name(), Interest::COMMANDS).await;
    }
}

fn name() -> DeviceId {
    DeviceId::new(DEV_EUI.to_string()).unwrap()
}

/// Everybody under their EUI, on port 5.
fn everybody(change: impl FnOnce(&mut ProfileConfig)) -> EuiDirectory {
    let mut profile = ProfileConfig::default();
    profile.port = Some(5);
    change(&mut profile);
    EuiDirectory::new(Profile::new(profile).unwrap())
}

fn always(profile: &mut ProfileConfig) {
    profile.listen = Some(ListenPolicy::Always);
}

/// Windows so long that none closes while something is watched.
fn patient() -> LorawanConfig {
    let mut config = LorawanConfig::default();
    config.window = Duration::from_secs(15);
    config
}

fn uplink(frame_counter: u32) -> Uplink {
    Uplink::new(DEV_EUI, frame_counter, 1, &[0xaa, 0][..])
}

/// An uplink after which the device does not hear.
fn closed(frame_counter: u32) -> Uplink {
    uplink(frame_counter).with_window(Duration::ZERO)
}

fn message(body: &'static str, patience: Duration) -> CloudMessage {
    CloudMessage::new(name(), body, Instant::now() + patience)
}

fn call(method: &str, payload: &'static str, patience: Duration) -> MethodCall {
    MethodCall::new(
        name(),
        CorrelationId::new("call").unwrap(),
        MethodName::new(method).unwrap(),
        payload,
        Instant::now() + patience,
    )
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}
