//! A concentrator with a packet forwarder.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway_downstream_lorawan::proto::Eui64;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Longer than any answer takes.
pub(crate) const SOON: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Forwarder {
    eui: Eui64,
    socket: UdpSocket,
}

/// What a concentrator is asked to send.
#[derive(Debug)]
pub(crate) struct Asked {
    token: [u8; 2],
    pub(crate) txpk: Value,
    pub(crate) datagram: Vec<u8>,
}

impl Asked {
    pub(crate) fn frame(&self) -> Vec<u8> {
        STANDARD
            .decode(self.txpk["data"].as_str().unwrap())
            .unwrap()
    }
}

impl Forwarder {
    /// Connects a concentrator, and waits until it is known.
    pub(crate) async fn connect(eui: u64, server: SocketAddr) -> Self {
        let forwarder = Self::open(eui, server).await;
        forwarder.send(2, [0, 1], "").await;
        assert_eq!(forwarder.receive().await, [2, 0, 1, 4]);
        forwarder
    }

    /// Opens a concentrator that says nothing yet.
    pub(crate) async fn open(eui: u64, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(server).await.unwrap();
        Self {
            eui: Eui64::new(eui),
            socket,
        }
    }

    async fn send(&self, kind: u8, token: [u8; 2], json: &str) {
        let mut datagram = vec![2, token[0], token[1], kind];
        datagram.extend(self.eui.get().to_be_bytes());
        datagram.extend(json.as_bytes());
        self.send_raw(&datagram).await;
    }

    pub(crate) async fn send_raw(&self, datagram: &[u8]) {
        fuzz_seeds::keep("lorawan_gwmp", datagram);
        self.socket.send(datagram).await.unwrap();
    }

    async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 4096];
        let received = timeout(SOON, self.socket.recv(&mut buffer)).await;
        buffer.truncate(received.expect("an answer comes").unwrap());
        buffer
    }

    /// Hands on a frame as heard, without waiting for the acknowledgement.
    pub(crate) async fn push(&self, frame: &[u8], snr: f32) {
        self.push_as(frame, json!({"lsnr": snr})).await;
    }

    /// Hands on a frame as heard, with these fields beside the usual ones or in their place.
    pub(crate) async fn push_as(&self, frame: &[u8], fields: Value) {
        let mut heard = json!({
            "tmst": 1_000_000, "freq": 868.1, "chan": 0, "rfch": 0, "stat": 1, "modu": "LORA",
            "datr": "SF7BW125", "codr": "4/5", "rssi": -60, "size": frame.len(),
            "data": STANDARD.encode(frame),
        });
        for (name, value) in fields.as_object().unwrap() {
            heard[name] = value.clone();
        }
        let data = json!({"rxpk": [heard]});
        self.send(0, [0, 2], &data.to_string()).await;
    }

    /// Hands on a frame as heard, and waits until the server has it.
    pub(crate) async fn hear(&self, frame: &[u8]) {
        self.push(frame, 5.0).await;
        assert_eq!(self.receive().await, [2, 0, 2, 1]);
    }

    /// Waits until it shall send something; the server's acknowledgements are passed over.
    pub(crate) async fn asked(&self) -> Asked {
        loop {
            let datagram = self.receive().await;
            if datagram[3] == 3 {
                let json: Value = serde_json::from_slice(&datagram[4..]).unwrap();
                return Asked {
                    token: [datagram[1], datagram[2]],
                    txpk: json["txpk"].clone(),
                    datagram,
                };
            }
        }
    }

    /// Tells whether it shall send something, of all that has come so far.
    pub(crate) fn has_been_asked(&self) -> bool {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.try_recv(&mut buffer) {
            if buffer[..length][3] == 3 {
                return true;
            }
        }
        false
    }

    /// Says what became of a frame: `NONE` is that it was sent.
    pub(crate) async fn acknowledge(&self, asked: &Asked, error: &str) {
        let json = json!({"txpk_ack": {"error": error}}).to_string();
        self.send(5, asked.token, &json).await;
    }
}
