//! A broker that does what a test says.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::{Kept, local, soon};
pub(super) use crate::client::model::said::Said;
use crate::client::{Client, Options, Version};
use crate::error::MqttError;

/// CONNACK with success and without a session, in either version.
pub(super) const WELCOME_4: &[u8] = &[0x20, 2, 0, 0];
pub(super) const WELCOME_5: &[u8] = &[0x20, 3, 0, 0, 0];

pub(super) fn welcome(version: Version) -> &'static [u8] {
    match version {
        Version::V4 => WELCOME_4,
        Version::V5 => WELCOME_5,
    }
}

pub(super) struct Broker(TcpListener);

impl Broker {
    pub(super) async fn bind() -> Self {
        Self(TcpListener::bind(("127.0.0.1", 0)).await.expect("a port"))
    }

    pub(super) fn options(&self, version: Version) -> Options {
        local(self.0.local_addr().expect("its address").port(), version)
    }

    pub(super) async fn accept(&self, version: Version) -> Peer {
        let (socket, _) = soon(self.0.accept()).await.expect("a connection");
        Peer {
            socket,
            version,
            buffer: BytesMut::new(),
        }
    }
}

/// One connection as the broker sees it.
pub(super) struct Peer {
    pub(super) socket: TcpStream,
    version: Version,
    buffer: BytesMut,
}

impl Peer {
    pub(super) async fn say(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.expect("it is taken");
    }

    /// Acknowledges a message: with a code only if it is not zero.
    pub(super) async fn puback(&mut self, id: u16, code: u8) {
        let [high, low] = id.to_be_bytes();
        match code {
            0 => self.say(&[0x40, 2, high, low]).await,
            _ => self.say(&[0x40, 3, high, low, code]).await,
        }
    }

    /// Sends a message at least once, of fewer than 100 bytes.
    pub(super) async fn publish(&mut self, id: u16, text: &str, duplicate: bool) {
        let mut body = vec![0, 1, b't'];
        body.extend_from_slice(&id.to_be_bytes());
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend_from_slice(text.as_bytes());
        let first = 0x32 | u8::from(duplicate) << 3;
        let mut bytes = vec![first, body.len() as u8];
        bytes.append(&mut body);
        self.say(&bytes).await;
    }

    /// What the client says next.
    pub(super) async fn next(&mut self) -> Said {
        soon(async {
            loop {
                if let Some(said) = Said::read(self.version, &mut self.buffer) {
                    return said;
                }
                match self.socket.read_buf(&mut self.buffer).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Said::Nothing,
                }
            }
        })
        .await
    }

    /// The text of the next message, which is acknowledged.
    pub(super) async fn take(&mut self) -> String {
        let (id, text) = self.next_publish().await;
        self.puback(id, 0).await;
        text
    }

    pub(super) async fn next_publish(&mut self) -> (u16, String) {
        match self.next().await {
            Said::Publish { id, text, .. } => (id, text),
            other => panic!("{other:?} is no message"),
        }
    }
}

/// A client, its broker, and what has come.
pub(super) struct Pair {
    pub(super) client: Client,
    pub(super) peer: Peer,
    pub(super) kept: Arc<Kept>,
    pub(super) tasks: TaskTracker,
}

impl Pair {
    /// Connects with these options; the broker answers with these bytes.
    pub(super) async fn with(broker: &Broker, options: &Options, answer: &[u8]) -> Self {
        let (kept, tasks) = (Arc::new(Kept::default()), TaskTracker::new());
        let answering = async {
            let mut peer = broker.accept(options.version).await;
            assert_eq!(peer.next().await, Said::Connect);
            peer.say(answer).await;
            peer
        };
        let connecting = soon(Client::connect(options, kept.clone(), &tasks));
        let (peer, client) = tokio::join!(answering, connecting);
        let client = client.expect("the broker lets it in");
        Self {
            client,
            peer,
            kept,
            tasks,
        }
    }

    pub(super) async fn connect(version: Version) -> Self {
        Self::with_options(version, |_| ()).await
    }

    /// Connects with options that a test changes.
    pub(super) async fn with_options(version: Version, change: impl FnOnce(&mut Options)) -> Self {
        let broker = Broker::bind().await;
        let mut options = broker.options(version);
        change(&mut options);
        Self::with(&broker, &options, welcome(version)).await
    }
}

/// What a client is told whose broker answers CONNECT with these bytes, and closes then.
pub(super) async fn refusal(version: Version, answer: &[u8]) -> MqttError {
    let broker = Broker::bind().await;
    let options = broker.options(version);
    let tasks = TaskTracker::new();
    let answering = async {
        let mut peer = broker.accept(version).await;
        assert_eq!(peer.next().await, Said::Connect);
        peer.say(answer).await;
    };
    let connecting = soon(Client::connect(&options, Arc::<Kept>::default(), &tasks));
    let ((), client) = tokio::join!(answering, connecting);
    client.expect_err("the broker does not let it in")
}
