//! A client of HTTP as small as can be: requests as text on a socket, answers taken apart.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

use std::collections::HashMap;
use std::net::SocketAddr;

use fuzz_seeds::Conversation;
use hub_simulator::HubSimulator;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::{soon, token};

/// What every path of the hub ends with.
pub(crate) const VERSION: &str = "api-version=2021-04-12";

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// By name in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A connection to the hub's HTTP port.
pub(crate) struct Http {
    stream: BufReader<TcpStream>,
    host: String,
    token: String,
    said: Conversation,
}

impl Http {
    /// Connects over plain TCP; every request shows the token.
    pub(crate) async fn connect(hub: &HubSimulator, token: &str) -> Self {
        let http = Self::connect_to(hub.https_addr(), hub.host()).await;
        Self {
            token: token.to_owned(),
            ..http
        }
    }

    /// Connects to whatever is at an address, with nothing to show.
    pub(crate) async fn connect_to(address: SocketAddr, host: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self {
            stream: BufReader::new(stream),
            host: host.to_owned(),
            token: String::new(),
            said: Conversation::new("hub_http", &[255]),
        }
    }

    /// Connects with a device's token, good for an hour.
    pub(crate) async fn device(hub: &HubSimulator, id: &str) -> Self {
        Self::connect(hub, &token(&hub.device_connection_string(id))).await
    }

    /// Connects with a token of a policy.
    pub(crate) async fn policy(hub: &HubSimulator, policy: &str) -> Self {
        Self::connect(hub, &token(&hub.policy_connection_string(policy))).await
    }

    /// Asks and reads the answer; `headers` are lines.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Reply {
        let joiner = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joiner}{VERSION}");
        self.ask_plainly(method, &path, headers, body).await
    }

    /// Asks without a version.
    pub(crate) async fn ask_plainly(
        &mut self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Reply {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n",
            self.host,
            body.len()
        );
        if !self.token.is_empty() {
            head += &format!("Authorization: {}\r\n", self.token);
        }
        for header in headers {
            head += &format!("{header}\r\n");
        }
        self.send(&[head.as_bytes(), b"\r\n", body].concat()).await;
        self.reply().await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.ask("GET", path, &[], &[]).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Reply {
        self.ask("POST", path, &[], body.to_string().as_bytes())
            .await
    }

    /// Writes bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.said.say(bytes);
        soon(self.stream.write_all(bytes)).await.unwrap();
    }

    /// Writes bytes to a hub that may have hung up.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        drop(soon(self.stream.write_all(bytes)).await);
    }

    /// Says that nothing more comes.
    pub(crate) async fn close_writing(&mut self) {
        drop(soon(self.stream.shutdown()).await);
    }

    /// Reads some of what the hub says; tells whether it has hung up.
    pub(crate) async fn read_on(&mut self, said: &mut Vec<u8>) -> bool {
        matches!(self.stream.read_buf(said).await, Ok(0) | Err(_))
    }

    /// Reads one answer.
    pub(crate) async fn reply(&mut self) -> Reply {
        soon(async {
            let status = self.line().await;
            let status = status.split(' ').nth(1).unwrap().parse().unwrap();
            let mut headers = HashMap::new();
            loop {
                let line = self.line().await;
                let Some((name, value)) = line.split_once(':') else {
                    break;
                };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            let length = headers
                .get("content-length")
                .map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.unwrap();
            Reply {
                status,
                headers,
                body,
            }
        })
        .await
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// Waits until the hub hangs up.
    pub(crate) async fn ended(&mut self) {
        let mut rest = Vec::new();
        drop(soon(self.stream.read_to_end(&mut rest)).await);
    }
}
