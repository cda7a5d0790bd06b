//! A webhook of The Things Stack: it posts what happens, and downlinks are posted to it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use gateway_core::credential::Secret;
use gateway_core::testkit::{
    DeviceClient, DeviceEvent, DownstreamCapabilities, DownstreamFixture, DownstreamSettings,
};
use gateway_core::{DeviceId, Disposition, Downstream, MessageId};
use gateway_downstream_lorawan::cloud::{HttpConfig, PostConfig};
use gateway_downstream_lorawan::event::DevEui;
use gateway_downstream_lorawan::tts::{self, TtsWebhookConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Radio;
use super::book::Book;
use super::post::{post, take_request};

const TOKEN: &str = "a token of 16 bytes or more";

async fn fixture() -> Fixture {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let radio = Arc::new(Radio::default());
    let mut server = JoinSet::new();
    server.spawn(radio.clone().hear_posts(listener));
    Fixture {
        server: address,
        gateway: Mutex::default(),
        radio,
        book: Arc::default(),
        _run: server,
    }
}

gateway_core::downstream_conformance!(fixture);

impl Radio {
    async fn hear_posts(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(self.clone().serve(stream));
        }
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        while let Some((head, body)) = take_request(&mut stream, "200 OK").await {
            let path = head.split(' ').nth(1).unwrap();
            let device = path.split('/').nth(9).unwrap();
            for downlink in body["downlinks"].as_array().unwrap() {
                self.send(device, downlink.clone()).await;
            }
        }
    }
}

#[derive(Debug)]
struct Fixture {
    server: SocketAddr,
    /// Where it is posted to, once the downstream is there.
    gateway: Mutex<Option<SocketAddr>>,
    radio: Arc<Radio>,
    book: Arc<Book>,
    _run: JoinSet<()>,
}

impl Fixture {
    fn gateway(&self) -> SocketAddr {
        self.gateway.lock().unwrap().unwrap()
    }
}

#[async_trait]
impl DownstreamFixture for Fixture {
    fn capabilities(&self) -> DownstreamCapabilities {
        super::capabilities()
    }

    async fn bind(&self, settings: DownstreamSettings) -> Arc<dyn Downstream> {
        let mut http = HttpConfig::new(Secret::new(TOKEN));
        http.listen = ([127, 0, 0, 1], 0).into();
        let mut config = TtsWebhookConfig::new("gateway", http);
        let url = format!("http://{}", self.server);
        config.downlinks = Some(PostConfig::new(url, Secret::new("NNSXS.KEY")));
        let lorawan = super::lorawan(&self.book, settings);
        let downstream = tts::http(config, lorawan).await.unwrap();
        *self.gateway.lock().unwrap() = downstream.local_addr();
        Arc::new(downstream)
    }

    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient> {
        let dev_eui = self.book.add(device);
        let downlinks = self.radio.listen(dev_eui);
        let (gateway, joined) = (self.gateway(), event(dev_eui, "join_accept", json!({})));
        assert_eq!(tell(gateway, &joined).await, 204);
        Box::new(Client::new(dev_eui, gateway, downlinks))
    }

    async fn intrude(&self, device: &DeviceId, id: MessageId) {
        let up = uplink(self.book.add(device), &id, &Bytes::new()).to_string();
        for token in ["", "another token of 16 bytes or more"] {
            let status = post(self.gateway(), "/", token, up.as_bytes()).await;
            assert_eq!(status, 401);
        }
    }

    async fn send_garbage(&self) {
        let stranger = event(
            DevEui::new([0xff; 8]),
            "uplink_message",
            json!({"f_port": 1}),
        );
        let bodies = ["", "garbage", "{}", "[[[[", &stranger.to_string()];
        for body in bodies {
            let status = post(self.gateway(), "/", TOKEN, body.as_bytes()).await;
            assert!(status >= 400, "{body} gave {status}");
        }
        let endless = vec![b' '; 1 << 20];
        assert_eq!(post(self.gateway(), "/", TOKEN, &endless).await, 413);
        // Some are closed at once, and some in the middle.
        for noise in [
            "",
            "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
            "\0\u{1}\u{2}\r\n\r\n",
        ] {
            let stream = TcpStream::connect(self.gateway()).await.unwrap();
            stream.writable().await.unwrap();
            drop(stream.try_write(noise.as_bytes()));
        }
    }
}

fn event(dev_eui: DevEui, key: &str, value: Value) -> Value {
    json!({
        "end_device_ids": {"device_id": dev_eui, "application_ids": {"application_id": "app1"},
            "dev_eui": dev_eui, "dev_addr": "00BCB929"},
        key: value,
    })
}

fn uplink(dev_eui: DevEui, id: &MessageId, body: &Bytes) -> Value {
    let message = json!({"f_port": 1, "frm_payload": BASE64_STANDARD.encode(body)});
    let mut uplink = event(dev_eui, "uplink_message", message);
    uplink["correlation_ids"] = json!([format!("as:up:{id}")]);
    uplink
}

async fn tell(gateway: SocketAddr, event: &Value) -> u16 {
    post(gateway, "/", TOKEN, event.to_string().as_bytes()).await
}

/// A device, and The Things Stack's part that concerns it.
#[derive(Debug)]
struct Client {
    dev_eui: DevEui,
    gateway: SocketAddr,
    uplinks: mpsc::Sender<(MessageId, Bytes)>,
    settled: mpsc::Receiver<DeviceEvent>,
    downlinks: mpsc::Receiver<Value>,
    _sender: JoinSet<()>,
}

impl Client {
    fn new(dev_eui: DevEui, gateway: SocketAddr, downlinks: mpsc::Receiver<Value>) -> Self {
        let (uplinks, mut waiting) = mpsc::channel::<(MessageId, Bytes)>(100);
        let (settle, settled) = mpsc::channel(100);
        let mut sender = JoinSet::new();
        sender.spawn(async move {
            while let Some((id, body)) = waiting.recv().await {
                let event = match tell(gateway, &uplink(dev_eui, &id, &body)).await {
                    204 => DeviceEvent::Accepted(id),
                    422 => DeviceEvent::Rejected(id),
                    503 => DeviceEvent::RetryLater(id),
                    status => panic!("answered with {status}"),
                };
                settle.send(event).await.unwrap();
            }
        });
        Self {
            dev_eui,
            gateway,
            uplinks,
            settled,
            downlinks,
            _sender: sender,
        }
    }
}

#[async_trait]
impl DeviceClient for Client {
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool {
        self.uplinks.send((id, body)).await.is_ok()
    }

    async fn next(&mut self) -> DeviceEvent {
        tokio::select! {
            biased;
            Some(event) = self.settled.recv() => event,
            Some(downlink) = self.downlinks.recv() => {
                let body = BASE64_STANDARD.decode(downlink["frm_payload"].as_str().unwrap());
                DeviceEvent::Message {
                    tag: downlink.to_string(),
                    body: body.unwrap().into(),
                }
            }
            else => DeviceEvent::Closed,
        }
    }

    async fn settle(&mut self, tag: &str, disposition: Disposition) {
        let downlink: Value = serde_json::from_str(tag).unwrap();
        let failed = |name| json!({"downlink": downlink, "error": {"name": name}});
        let told = match disposition {
            Disposition::Complete => vec![
                event(self.dev_eui, "downlink_sent", downlink.clone()),
                event(self.dev_eui, "downlink_ack", downlink),
            ],
            Disposition::Reject => {
                let failed = failed("application_downlink_too_long");
                vec![event(self.dev_eui, "downlink_failed", failed)]
            }
            Disposition::Abandon => {
                vec![event(self.dev_eui, "downlink_failed", failed("schedule"))]
            }
        };
        for event in told {
            assert_eq!(tell(self.gateway, &event).await, 204);
        }
    }

    async fn close(self: Box<Self>) {}
}
