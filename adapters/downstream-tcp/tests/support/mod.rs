//! A gateway over a hub in memory, and devices on real sockets.

#![allow(dead_code, reason = "each test program uses its part")]

use std::net::SocketAddr;
use std::sync::Arc;

use fuzz_seeds::Conversation;
use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{DeviceId, Gateway, GatewayConfig, ShutdownReport};
use gateway_downstream_tcp::{TcpConfig, TcpDownstream, TcpDownstreamBuilder};
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, Lines, ReadHalf,
    WriteHalf, split,
};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) const SECRET: &str = "open sesame";

pub(crate) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

/// A configuration on a free port that knows the secret of these devices.
pub(crate) fn config(devices: &[&str]) -> TcpConfig {
    let mut config = TcpConfig::default();
    config.listen.set_port(0);
    for name in devices {
        config
            .identity
            .secrets
            .insert(device(name), SECRET.to_owned().into());
    }
    config
}

/// A gateway that serves.
pub(crate) struct Running {
    pub(crate) hub: MemoryUpstream,
    pub(crate) tcp: Arc<TcpDownstream>,
    pub(crate) gateway: Gateway,
    pub(crate) shutdown: CancellationToken,
    run: JoinSet<ShutdownReport>,
}

impl Running {
    pub(crate) async fn start(config: TcpConfig) -> Self {
        Self::start_with(TcpDownstream::builder(config), |_| {}).await
    }

    pub(crate) async fn start_with(
        builder: TcpDownstreamBuilder,
        configure: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let hub = MemoryUpstream::new();
        let tcp = Arc::new(builder.bind().await.unwrap());
        let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
        let mut config = GatewayConfig::default();
        configure(&mut config);
        let gateway = Gateway::builder(hub.clone())
            .with_config(config)
            .with_credentials(HubPolicyCredentials::new(SharedAccessPolicy::new(
                "device", key,
            )))
            .with_downstream("tcp", tcp.clone())
            .build()
            .unwrap();
        let shutdown = CancellationToken::new();
        let mut run = JoinSet::new();
        run.spawn({
            let (gateway, shutdown) = (gateway.clone(), shutdown.clone());
            async move { gateway.run(shutdown).await.unwrap() }
        });
        Self {
            hub,
            tcp,
            gateway,
            shutdown,
            run,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.tcp.local_addr()
    }

    /// Connects a device that has not said anything.
    pub(crate) async fn dial(&self) -> Device {
        Device::new(TcpStream::connect(self.address()).await.unwrap())
    }

    /// Connects a device that is let in.
    pub(crate) async fn connect(&self, name: &str) -> Device {
        let mut device = self.dial().await;
        device.hello(name).await;
        device
    }

    pub(crate) async fn end(mut self) -> ShutdownReport {
        self.shutdown.cancel();
        self.run.join_next().await.unwrap().unwrap()
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A device that speaks JSON lines.
pub(crate) struct Device {
    lines: Lines<BufReader<ReadHalf<Box<dyn Stream>>>>,
    writer: WriteHalf<Box<dyn Stream>>,
    said: Conversation,
}

impl Device {
    pub(crate) fn new(stream: impl Stream + 'static) -> Self {
        let (reader, writer) = split(Box::new(stream) as Box<dyn Stream>);
        Self {
            lines: BufReader::new(reader).lines(),
            writer,
            said: Conversation::new("json_lines", &[]),
        }
    }

    pub(crate) async fn hello(&mut self, name: &str) {
        self.say(json!({"type": "hello", "id": name, "secret": SECRET}))
            .await;
        assert_eq!(self.hear().await, json!({"type": "welcome", "id": name}));
    }

    /// Sends one message; false if the connection is gone.
    pub(crate) async fn say(&mut self, message: Value) -> bool {
        self.write(format!("{message}\n").as_bytes()).await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.said.say(bytes);
        self.writer.write_all(bytes).await.is_ok() && self.writer.flush().await.is_ok()
    }

    /// Waits for the next message; none if the connection is closed.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn try_hear(&mut self) -> Option<Value> {
        let line = self.lines.next_line().await.ok()??;
        Some(serde_json::from_str(&line).unwrap())
    }

    pub(crate) async fn hear(&mut self) -> Value {
        self.try_hear().await.expect("the connection is open")
    }

    /// Asserts that this is the last message, and that the connection is closed behind it.
    pub(crate) async fn hears_last(&mut self, kind: &str, reason: &str) {
        let message = self.hear().await;
        assert_eq!(
            (&message["type"], &message["reason"]),
            (&json!(kind), &json!(reason))
        );
        assert_eq!(self.try_hear().await, None);
    }

    /// Asserts that the device can send and is told that its message was accepted.
    pub(crate) async fn works(&mut self, id: &str) {
        self.say(json!({"type": "telemetry", "id": id, "body": 1}))
            .await;
        assert_eq!(self.hear().await, json!({"type": "ack", "id": id}));
    }

    /// Waits for the end, whatever comes before it.
    pub(crate) async fn read_to_end(&mut self) {
        while matches!(self.lines.next_line().await, Ok(Some(_))) {}
    }

    /// Says that nothing more comes, but goes on listening.
    pub(crate) async fn finish(&mut self) {
        self.writer.shutdown().await.unwrap();
    }
}
