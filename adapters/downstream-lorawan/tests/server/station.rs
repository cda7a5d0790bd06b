//! A Basics Station.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::forwarder::SOON;

pub(crate) struct Station(WebSocketStream<TcpStream>);

impl Station {
    pub(crate) async fn open(server: SocketAddr, path: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(server).await?;
        let url = format!("ws://{server}{path}");
        let (socket, _) = timeout(SOON, client_async(url, stream)).await.unwrap()?;
        Ok(Self(socket))
    }

    pub(crate) async fn say(&mut self, message: Value) {
        self.say_text(&message.to_string()).await;
    }

    pub(crate) async fn say_text(&mut self, message: &str) {
        fuzz_seeds::keep("lorawan_station", message.as_bytes());
        self.0.send(Message::text(message)).await.unwrap();
    }

    /// The next message; none when the server has ended the connection.
    pub(crate) async fn hears(&mut self) -> Option<Value> {
        loop {
            match timeout(SOON, self.0.next()).await.expect("an answer") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).ok(),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Asks where to go.
    pub(crate) async fn discover(server: SocketAddr, router: &str) -> Value {
        let mut station = Self::open(server, "/router-info").await.unwrap();
        station.say(json!({"router": router})).await;
        station.hears().await.unwrap()
    }

    /// Hands on a frame of data as heard, taken apart.
    pub(crate) async fn hear(&mut self, frame: &[u8]) {
        let word = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().unwrap());
        let mic = frame.len() - 4;
        let hex: String = frame[9..mic].iter().map(|it| format!("{it:02x}")).collect();
        self.say(json!({
            "msgtype": "updf", "MHdr": frame[0], "DevAddr": word(&frame[1..5]),
            "FCtrl": frame[5], "FCnt": u16::from_le_bytes([frame[6], frame[7]]), "FOpts": "",
            "FPort": frame[8], "FRMPayload": hex, "MIC": word(&frame[mic..]),
            "DR": 5, "Freq": 868_100_000,
            "upinfo": {"rctx": 0, "xtime": (1_i64 << 54) + 7, "gpstime": 0, "rssi": -60.0, "snr": 5.0},
        }))
        .await;
    }
}
