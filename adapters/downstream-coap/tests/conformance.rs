//! The downstream suite over plain UDP on real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

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
use gateway_downstream_coap::{Authenticator, Claim, CoapConfig, CoapDownstream};
use support::{Device, Purpose, TOKEN};
use tokio::net::UdpSocket;

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
struct Coap(Mutex<Option<SocketAddr>>);

impl Coap {
    fn address(&self) -> SocketAddr {
        self.0.lock().unwrap().unwrap()
    }
}

#[async_trait]
impl DownstreamFixture for Coap {
    fn capabilities(&self) -> DownstreamCapabilities {
        let mut capabilities = DownstreamCapabilities::default();
        // 5.03 instead.
        capabilities.pushes_back = false;
        // An acknowledgement is all that a notification gets.
        capabilities.refuses_messages = false;
        capabilities.has_connections = false;
        capabilities
    }

    async fn bind(&self, settings: DownstreamSettings) -> Arc<dyn Downstream> {
        let mut config = CoapConfig::default();
        config.udp.get_or_insert_default().listen.set_port(0);
        if let Some(idle) = settings.idle_timeout {
            config.timeouts.probe = idle;
            config.endpoint.transmission.ack_timeout = Duration::from_millis(200);
            config.endpoint.transmission.max_retransmit = 1;
        }
        let builder = CoapDownstream::builder(config).with_authenticator(OneToken);
        let coap = builder.bind().await.unwrap();
        *self.0.lock().unwrap() = Some(coap.udp_addr().unwrap());
        Arc::new(coap)
    }

    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient> {
        let mut client = Device::new(self.address(), device).await;
        client.register().await;
        Box::new(Client(client))
    }

    async fn intrude(&self, device: &DeviceId, id: MessageId) {
        let claimed = format!("$.id={device}");
        for proof in [&[&*claimed, "$.token=guessed"][..], &[&*claimed], &[]] {
            let mut client = Device::new(self.address(), device).await;
            let mut request = Message::new(Code::POST).with_path("t").with_payload("1");
            let id = format!("$.mid={id}");
            for part in proof.iter().copied().chain([&*id]) {
                request = request.with_option(option::URI_QUERY, part.as_bytes().to_vec());
            }
            let answer = client.ask(request).await;
            assert_eq!(answer.code, Code::UNAUTHORIZED);
        }
    }

    async fn send_garbage(&self) {
        let noise: Vec<u8> = (0..10_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let long = vec![b'x'; 60_000];
        for bytes in [
            &noise[..],
            &noise[..7],
            &long,
            &[0x40][..],
            &[0x49, 1, 0, 1],
            &[0x48, 1, 0, 2, 1, 2],
            &[0x40, 1, 0, 3, 0xff],
            &[0x40, 1, 0, 4, 0xf0],
            &[0x60, 0, 0, 5],
            &[0x70, 0, 0, 6],
            &[0x40, 0, 0, 7],
            &[],
        ] {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(bytes, self.address()).await.unwrap();
        }
    }
}

#[derive(Debug)]
struct Client(Device);

#[async_trait]
impl DeviceClient for Client {
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool {
        let request = Message::new(Code::POST).with_path("t").with_payload(body);
        let request = request.with_option(option::URI_QUERY, format!("$.mid={id}").into_bytes());
        self.0.request(Purpose::Uplink(id), request).await;
        true
    }

    async fn next(&mut self) -> DeviceEvent {
        self.0.next().await
    }

    async fn settle(&mut self, tag: &str, disposition: Disposition) {
        assert_eq!(disposition, Disposition::Complete);
        self.0.acknowledge(tag.parse().unwrap()).await;
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
        self.0.deregister().await;
    }
}

async fn fixture() -> Coap {
    Coap::default()
}

gateway_core::downstream_conformance!(fixture);
