//! The downstream suite over JSON lines on real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::testkit::{
    DeviceClient, DeviceEvent, DownstreamCapabilities, DownstreamFixture, DownstreamSettings,
};
use gateway_core::{DeviceId, Disposition, Downstream, MessageId, MethodName, MethodReply};
use gateway_downstream_tcp::{SharedSecrets, TcpConfig, TcpDownstream};
use serde_json::{Value, json};
use support::{Device, SECRET};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Knows one secret for every device.
#[derive(Debug)]
struct OneSecret;

#[async_trait]
impl gateway_downstream_tcp::Authenticator for OneSecret {
    async fn authenticate(
        &self,
        device: &DeviceId,
        secret: Option<&gateway_core::credential::Secret>,
        peer: &gateway_downstream_tcp::proto::Peer,
    ) -> Result<(), gateway_downstream_tcp::proto::Refusal> {
        let known = [(device.clone(), SECRET.to_owned().into())]
            .into_iter()
            .collect();
        SharedSecrets::new(known)
            .authenticate(device, secret, peer)
            .await
    }
}

#[derive(Debug, Default)]
struct Tcp(Mutex<Option<SocketAddr>>);

impl Tcp {
    async fn dial(&self) -> TcpStream {
        let address = self.0.lock().unwrap().unwrap();
        TcpStream::connect(address).await.unwrap()
    }
}

#[async_trait]
impl DownstreamFixture for Tcp {
    fn capabilities(&self) -> DownstreamCapabilities {
        DownstreamCapabilities::default()
    }

    async fn bind(&self, settings: DownstreamSettings) -> Arc<dyn Downstream> {
        let mut config = TcpConfig::default();
        config.listen.set_port(0);
        // Above what a loaded machine makes of a short pause.
        config.timeouts.write = Duration::from_secs(60);
        if let Some(idle) = settings.idle_timeout {
            config.timeouts.idle = idle;
        }
        let tcp = TcpDownstream::builder(config)
            .with_authenticator(OneSecret)
            .bind()
            .await
            .unwrap();
        *self.0.lock().unwrap() = Some(tcp.local_addr());
        Arc::new(tcp)
    }

    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient> {
        let mut client = Device::new(self.dial().await);
        let interest = json!({"desired": true});
        let hello = json!({"type": "hello", "id": device, "secret": SECRET, "interest": interest});
        client.say(hello).await;
        assert_eq!(client.hear().await["type"], "welcome");
        Box::new(Client(client))
    }

    async fn intrude(&self, device: &DeviceId, id: MessageId) {
        for hello in [
            json!({"type": "hello", "id": device, "secret": "guessed"}),
            json!({"type": "hello", "id": device}),
            json!({"type": "ping"}),
        ] {
            let mut client = Device::new(self.dial().await);
            client.say(hello).await;
            client
                .say(json!({"type": "telemetry", "id": id, "body": 1}))
                .await;
            while let Some(message) = client.try_hear().await {
                assert!(
                    message["type"] == "error" || message["type"] == "bye",
                    "{message}"
                );
            }
        }
    }

    async fn send_garbage(&self) {
        let noise: Vec<u8> = (0..10_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let long = vec![b'x'; 200 * 1024];
        let cut_off = &b"{\"type\":\"hello\",\"id\":\"de"[..];
        for bytes in [
            &noise[..],
            &long,
            cut_off,
            b"\n\n{}\n",
            b"[[[[[\n",
            b"\"\xff\xfe\"\n",
            b"",
        ] {
            for waits in [true, false] {
                let mut stream = self.dial().await;
                // The gateway may have closed it already.
                let written = stream.write_all(bytes).await.and(stream.shutdown().await);
                if waits && written.is_ok() {
                    let mut client = Device::new(stream);
                    while client.try_hear().await.is_some() {}
                }
            }
        }
    }
}

struct Client(Device);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// The JSON text within a message, as it was written.
fn text(value: &Value) -> Bytes {
    value.to_string().into()
}

#[async_trait]
impl DeviceClient for Client {
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool {
        let body: Value = serde_json::from_slice(&body).unwrap();
        self.0
            .say(json!({"type": "telemetry", "id": id, "body": body}))
            .await
    }

    async fn next(&mut self) -> DeviceEvent {
        loop {
            let Some(message) = self.0.try_hear().await else {
                return DeviceEvent::Closed;
            };
            let id = || MessageId::new(message["id"].as_str().unwrap()).unwrap();
            return match message["type"].as_str().unwrap() {
                "ack" => DeviceEvent::Accepted(id()),
                "nack" if message["retry_after_ms"].is_null() => DeviceEvent::Rejected(id()),
                "nack" => DeviceEvent::RetryLater(id()),
                "c2d" => DeviceEvent::Message {
                    tag: message["tag"].to_string(),
                    body: text(&message["body"]),
                },
                "method" => DeviceEvent::Method {
                    tag: message["id"].to_string(),
                    name: MethodName::new(message["name"].as_str().unwrap()).unwrap(),
                    payload: text(&message["payload"]),
                },
                "desired" => DeviceEvent::Desired {
                    version: message["version"].as_u64().unwrap(),
                    patch: text(&message["patch"]),
                },
                "twin" => DeviceEvent::Twin(text(&message["body"])),
                "twin_patched" => DeviceEvent::Reported,
                _ => continue,
            };
        }
    }

    async fn settle(&mut self, tag: &str, disposition: Disposition) {
        let outcome = match disposition {
            Disposition::Complete => "complete",
            Disposition::Reject => "reject",
            Disposition::Abandon => "abandon",
        };
        self.0
            .say(json!({"type": "c2d_ack", "tag": tag, "outcome": outcome}))
            .await;
    }

    async fn reply(&mut self, tag: &str, reply: MethodReply) {
        let payload: Value = serde_json::from_slice(&reply.payload).unwrap();
        let status = reply.status;
        let answer = json!({
            "type": "method_response", "id": tag, "status": status, "payload": payload,
        });
        self.0.say(answer).await;
    }

    async fn ask_twin(&mut self) {
        self.0.say(json!({"type": "twin_get"})).await;
    }

    async fn report(&mut self, patch: Bytes) {
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        self.0
            .say(json!({"type": "twin_patch", "patch": patch}))
            .await;
    }

    async fn close(mut self: Box<Self>) {
        self.0.finish().await;
    }
}

async fn fixture() -> Tcp {
    Tcp::default()
}

gateway_core::downstream_conformance!(fixture);
