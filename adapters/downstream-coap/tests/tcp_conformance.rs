//! The downstream suite over TCP on real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::credential::Secret;
use gateway_core::testkit::{
    DeviceClient, DeviceEvent, DownstreamCapabilities, DownstreamFixture, DownstreamSettings,
};
use gateway_core::{DeviceId, Disposition, Downstream, MessageId, MethodReply};
use gateway_downstream_coap::proto::message::{Code, Message, option};
use gateway_downstream_coap::{Authenticator, Claim, CoapConfig, CoapDownstream, TcpConfig};
use support::stream::StreamDevice;
use support::{Purpose, TOKEN};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Knows one token for every device.
#[derive(Debug)]
struct OneToken;

impl Authenticator for OneToken {
    fn identify(&self, claim: Claim<'_>) -> Option<DeviceId> {
        let token = claim.token?;
        let is_right = Secret::from(TOKEN).matches(token);
        is_right.then(|| DeviceId::new(claim.device?).ok())?
    }

    fn may_speak_for(&self, _gateway: &DeviceId, _child: &DeviceId) -> bool {
        false
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
        let mut capabilities = DownstreamCapabilities::default();
        // 5.03 instead.
        capabilities.pushes_back = false;
        // A pong is all that a notification gets.
        capabilities.refuses_messages = false;
        capabilities
    }

    async fn bind(&self, settings: DownstreamSettings) -> Arc<dyn Downstream> {
        let mut config = CoapConfig::default();
        config.udp.get_or_insert_default().listen.set_port(0);
        let mut tcp = TcpConfig::default();
        tcp.listen.set_port(0);
        config.tcp = Some(tcp);
        // Above what a loaded machine makes of a short pause.
        config.connections.write = Duration::from_secs(60);
        if let Some(idle) = settings.idle_timeout {
            config.connections.idle = idle / 2;
            config.connections.pong = idle / 2;
        }
        let builder = CoapDownstream::builder(config).with_authenticator(OneToken);
        let coap = builder.bind().await.unwrap();
        *self.0.lock().unwrap() = coap.tcp_addr();
        Arc::new(coap)
    }

    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient> {
        let mut client = StreamDevice::new(self.dial().await, device).await;
        client.register().await;
        Box::new(Client(client))
    }

    async fn intrude(&self, device: &DeviceId, id: MessageId) {
        let claimed = format!("$.id={device}");
        for proof in [&[&*claimed, "$.token=guessed"][..], &[&*claimed], &[]] {
            let mut client = StreamDevice::new(self.dial().await, device).await;
            let mut request = Message::new(Code::POST).with_path("t").with_payload("1");
            let id = format!("$.mid={id}");
            for part in proof.iter().copied().chain([&*id]) {
                request = request.with_option(option::URI_QUERY, part.as_bytes().to_vec());
            }
            assert!(client.tell(&request).await);
            assert_eq!(client.hear().await.unwrap().code, Code::CSM);
            assert_eq!(client.hear().await.unwrap().code, Code::UNAUTHORIZED);
        }
    }

    async fn send_garbage(&self) {
        let noise: Vec<u8> = (0..10_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let long = vec![b'x'; 200 * 1024];
        for bytes in [
            &noise[..],
            &long,
            // A token of 9 bytes; 4 GiB; a request before the settings; half a frame.
            b"\x09\xe1",
            b"\xf0\xff\xff\xff\xff\x01",
            b"\x00\x01",
            b"\xd0\x01\xe1",
            b"\x00\xe1\x20\x01\xf0\x00",
            b"",
        ] {
            for waits in [true, false] {
                let mut stream = self.dial().await;
                // The gateway may have closed it already.
                let written = stream.write_all(bytes).await.and(stream.shutdown().await);
                if waits && written.is_ok() {
                    let mut rest = Vec::new();
                    drop(stream.read_to_end(&mut rest).await);
                }
            }
        }
    }
}

struct Client(StreamDevice);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait]
impl DeviceClient for Client {
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool {
        let request = Message::new(Code::POST).with_path("t").with_payload(body);
        let request = request.with_option(option::URI_QUERY, format!("$.mid={id}").into_bytes());
        self.0.request(Purpose::Uplink(id), request).await
    }

    async fn next(&mut self) -> DeviceEvent {
        self.0.next().await
    }

    async fn settle(&mut self, tag: &str, disposition: Disposition) {
        assert_eq!(disposition, Disposition::Complete);
        self.0.confirm(tag).await;
    }

    async fn reply(&mut self, tag: &str, reply: MethodReply) {
        let status = format!("$.status={}", reply.status).into_bytes();
        let request = Message::new(Code::POST)
            .with_path(tag)
            .with_option(option::URI_QUERY, status)
            .with_payload(reply.payload);
        self.0.request(Purpose::Other, request).await;
    }

    async fn ask_twin(&mut self) {
        let request = Message::new(Code::GET).with_path("twin");
        self.0.request(Purpose::Twin, request).await;
    }

    async fn report(&mut self, patch: Bytes) {
        let request = Message::new(Code::IPATCH)
            .with_path("twin/reported")
            .with_uint(option::CONTENT_FORMAT, 52)
            .with_payload(patch);
        self.0.request(Purpose::Report, request).await;
    }

    async fn close(mut self: Box<Self>) {
        self.0.finish().await;
    }
}

async fn fixture() -> Tcp {
    Tcp::default()
}

gateway_core::downstream_conformance!(fixture);
