//! A device that speaks through a DTLS session.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dimpl::crypto::{Dtls12CipherSuite, rust_crypto};
use dimpl::{Config, Dtls, Output, PskResolver};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// When a message that is not answered is sent again.
const AGAIN: Duration = Duration::from_secs(1);

struct OneKey(Vec<u8>);

impl PskResolver for OneKey {
    fn resolve(&self, _identity: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }
}

pub(crate) struct Session {
    socket: UdpSocket,
    engine: Dtls,
    is_connected: bool,
    due: Instant,
    received: VecDeque<Vec<u8>>,
}

impl Session {
    /// Makes a session with the gateway.
    pub(crate) async fn open(gateway: SocketAddr, identity: &str, key: &str) -> Self {
        let config = Config::builder()
            .with_crypto_provider(rust_crypto::default_provider())
            .with_psk_client(identity.into(), Arc::new(OneKey(key.into())))
            .dtls12_cipher_suites(&[Dtls12CipherSuite::PSK_AES128_CCM_8])
            .dtls13_cipher_suites(&[])
            .build();
        let now = Instant::now();
        let mut engine = Dtls::new_12_psk(Arc::new(config.unwrap()), now.into_std());
        engine.set_active(true);
        engine.handle_timeout(now.into_std()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(gateway).await.unwrap();
        let mut session = Self {
            socket,
            engine,
            is_connected: false,
            due: now,
            received: VecDeque::new(),
        };
        let hello = session.drain();
        session.send(&hello).await;
        let limit = Instant::now() + PATIENCE;
        while !session.is_connected {
            assert!(Instant::now() < limit, "the handshake does not end");
            session.turn(limit).await;
        }
        session
    }

    /// The datagrams that carry a message.
    pub(crate) fn seal(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        self.engine.send_application_data(message).unwrap();
        self.drain()
    }

    /// The datagrams that take leave.
    pub(crate) fn close(&mut self) -> Vec<Vec<u8>> {
        self.engine.close().unwrap();
        self.drain()
    }

    pub(crate) async fn send(&self, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.socket.send(datagram).await.unwrap();
        }
    }

    /// Sends a message, and again while there is no answer, and waits for the next that comes.
    pub(crate) async fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        let limit = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < limit, "the gateway is silent");
            let sealed = self.seal(message);
            self.send(&sealed).await;
            let again = Instant::now() + AGAIN;
            while Instant::now() < again {
                if let Some(message) = self.received.pop_front() {
                    return message;
                }
                self.turn(again).await;
            }
        }
    }

    /// Sends a message once.
    pub(crate) async fn tell(&mut self, message: &[u8]) {
        let sealed = self.seal(message);
        self.send(&sealed).await;
    }

    /// Waits for the next message.
    pub(crate) async fn next(&mut self) -> Vec<u8> {
        loop {
            if let Some(message) = self.received.pop_front() {
                return message;
            }
            self.turn(Instant::now() + AGAIN).await;
        }
    }

    /// Waits for a datagram, or until it is time to send something again.
    async fn turn(&mut self, until: Instant) {
        let mut buffer = [0; 4096];
        let received = timeout_at(self.due.min(until), self.socket.recv(&mut buffer)).await;
        let now = Instant::now();
        self.engine.handle_timeout(now.into_std()).unwrap();
        if let Ok(length) = received {
            self.engine
                .handle_packet(&buffer[..length.unwrap()])
                .unwrap();
        }
        let answers = self.drain();
        self.send(&answers).await;
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        let (mut packets, mut buffer) = (Vec::new(), vec![0; 4096]);
        loop {
            match self.engine.poll_output(&mut buffer) {
                Output::Packet(bytes) => packets.push(bytes.to_vec()),
                Output::ApplicationData(bytes) => self.received.push_back(bytes.to_vec()),
                Output::Connected => self.is_connected = true,
                Output::Timeout(at) => {
                    self.due = Instant::from_std(at);
                    return packets;
                }
                _ => {}
            }
        }
    }
}
