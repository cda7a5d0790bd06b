//! Devices with DTLS clients of their own, and the wire between them and a table.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dimpl::crypto::{Dtls12CipherSuite, rust_crypto};
use dimpl::{Config, Dtls, Output, PskResolver};
use gateway_core::DeviceId;

use crate::dtls::{DtlsConfig, DtlsEvent, DtlsTable, PskEntry, PskKey, SessionId};
use crate::proto::Seed;

/// Devices that a world knows; the name of each is also its identity.
pub(super) const NAMES: [&str; 3] = ["device-0", "device-1", "device-2"];
/// Has the identity of the first device, and another key.
pub(super) const IMPOSTOR: usize = 3;
/// Has an identity that nobody knows.
pub(super) const STRANGER: usize = 4;

pub(crate) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

struct OneKey(Vec<u8>);

impl PskResolver for OneKey {
    fn resolve(&self, _identity: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }
}

/// Checking a configuration takes longer than a handshake.
static CLIENTS: LazyLock<Vec<Arc<Config>>> = LazyLock::new(|| {
    let config = |identity: &str, key: &str| {
        let config = Config::builder()
            .with_crypto_provider(rust_crypto::default_provider())
            .with_psk_client(identity.into(), Arc::new(OneKey(key.into())))
            .dtls12_cipher_suites(&[Dtls12CipherSuite::PSK_AES128_CCM_8])
            .dtls13_cipher_suites(&[])
            .build();
        Arc::new(config.unwrap())
    };
    let known = NAMES.iter().map(|name| config(name, name));
    let wrong = [config(NAMES[0], "wrong"), config("stranger", "stranger")];
    known.chain(wrong).collect()
});

/// What a store knows.
fn look_up(identity: &str) -> Option<PskEntry> {
    let known = NAMES.contains(&identity);
    let entry = || {
        PskEntry::new(
            DeviceId::new(identity).unwrap(),
            PskKey::new(identity).unwrap(),
        )
    };
    known.then(entry)
}

/// A client, as long as its device does not restart.
pub(crate) struct Client {
    engine: Dtls,
    start: tokio::time::Instant,
    pub(super) is_connected: bool,
    pub(super) is_closed: bool,
    pub(super) received: Vec<Vec<u8>>,
    due: Option<Duration>,
}

impl Client {
    pub(crate) fn new(who: usize, now: Duration) -> (Self, Vec<Vec<u8>>) {
        let start = tokio::time::Instant::now();
        let mut engine = Dtls::new_12_psk(CLIENTS[who].clone(), (start + now).into_std());
        engine.set_active(true);
        let mut client = Self {
            engine,
            start,
            is_connected: false,
            is_closed: false,
            received: Vec::new(),
            due: None,
        };
        let hello = client.on_time(now);
        (client, hello)
    }

    pub(super) fn on_time(&mut self, now: Duration) -> Vec<Vec<u8>> {
        self.is_closed |= self
            .engine
            .handle_timeout((self.start + now).into_std())
            .is_err();
        self.drain()
    }

    pub(crate) fn take(&mut self, now: Duration, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut sent = self.on_time(now);
        self.is_closed |= self.engine.handle_packet(datagram).is_err();
        sent.extend(self.drain());
        sent
    }

    pub(super) fn say(&mut self, message: &[u8]) -> Vec<Vec<u8>> {
        self.engine.send_application_data(message).unwrap();
        self.drain()
    }

    fn drain(&mut self) -> Vec<Vec<u8>> {
        let (mut sent, mut buffer) = (Vec::new(), vec![0; 4096]);
        loop {
            match self.engine.poll_output(&mut buffer) {
                Output::Packet(bytes) => sent.push(bytes.to_vec()),
                Output::ApplicationData(bytes) => self.received.push(bytes.to_vec()),
                Output::Connected => self.is_connected = true,
                Output::CloseNotify => self.is_closed = true,
                Output::Timeout(at) => {
                    self.due = Some(at.saturating_duration_since(self.start.into_std()));
                    return sent;
                }
                _ => {}
            }
        }
    }
}

/// A table, clients at their addresses, and what happened.
pub(super) struct World {
    pub(super) now: Duration,
    pub(super) table: DtlsTable,
    pub(super) clients: HashMap<SocketAddr, Client>,
    /// All but what asks for a key, which is answered at once.
    pub(super) events: Vec<DtlsEvent>,
    /// Whether look-ups are answered.
    pub(super) has_store: bool,
    /// Says of the number of a datagram how often it arrives; without, once.
    pub(super) fate: Box<dyn FnMut() -> usize>,
}

impl World {
    pub(super) fn new(config: DtlsConfig) -> Self {
        Self {
            now: Duration::ZERO,
            table: DtlsTable::new(config, Seed([7, 8])).unwrap(),
            clients: HashMap::new(),
            events: Vec::new(),
            has_store: true,
            fate: Box::new(|| 1),
        }
    }

    /// Starts a client and lets it talk to the table until both are silent.
    pub(super) fn connect(&mut self, who: usize, at: SocketAddr) {
        let (client, hello) = Client::new(who, self.now);
        self.clients.insert(at, client);
        self.carry(at, hello);
    }

    /// The session of the device that was ready last.
    pub(super) fn ready(&mut self, who: usize, at: SocketAddr) -> SessionId {
        self.connect(who, at);
        match self.events.last() {
            Some(DtlsEvent::Ready { session, device }) if device.as_str() == NAMES[who] => *session,
            other => panic!("{who} is not ready: {other:?}"),
        }
    }

    /// The message that was the last to happen.
    pub(super) fn heard(&self) -> Option<(SessionId, &[u8])> {
        match self.events.last()? {
            DtlsEvent::Datagram { session, bytes, .. } => Some((*session, bytes)),
            _ => None,
        }
    }

    pub(super) fn say(&mut self, at: SocketAddr, message: &[u8]) {
        let sent = self.clients.get_mut(&at).unwrap().say(message);
        self.carry(at, sent);
    }

    /// Hands datagrams of an address to the table, and carries on until nobody has anything to send.
    pub(super) fn carry(&mut self, from: SocketAddr, datagrams: Vec<Vec<u8>>) {
        let mut up: VecDeque<_> = datagrams.into_iter().map(|bytes| (from, bytes)).collect();
        loop {
            while let Some((from, bytes)) = up.pop_front() {
                for _ in 0..(self.fate)() {
                    self.table.receive(self.now, from, &bytes);
                    self.hear();
                }
            }
            let Some(down) = self.table.poll_transmit() else {
                return;
            };
            for _ in 0..(self.fate)() {
                if let Some(client) = self.clients.get_mut(&down.to) {
                    let answers = client.take(self.now, &down.bytes);
                    up.extend(answers.into_iter().map(|bytes| (down.to, bytes)));
                }
            }
        }
    }

    fn hear(&mut self) {
        while let Some(event) = self.table.poll_event() {
            match event {
                DtlsEvent::Identify { session, identity } if self.has_store => {
                    self.table.identified(self.now, session, look_up(&identity));
                }
                event => self.events.push(event),
            }
        }
    }

    /// Lets time pass, with all that becomes due on the way.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let clients = self.clients.values().filter(|client| !client.is_closed);
            let dues = clients.filter_map(|client| client.due);
            let due = dues.chain(self.table.next_timeout()).min();
            let Some(due) = due.filter(|due| *due <= until) else {
                break;
            };
            self.now = self.now.max(due);
            self.table.on_timeout(self.now);
            self.hear();
            let now = self.now;
            let late =
                |client: &Client| !client.is_closed && client.due.is_some_and(|due| due <= now);
            let mut late: Vec<_> = self
                .clients
                .iter()
                .filter(|(_, client)| late(client))
                .map(|(at, _)| *at)
                .collect();
            late.sort();
            for at in late {
                let sent = self.clients.get_mut(&at).unwrap().on_time(now);
                self.carry(at, sent);
            }
            self.carry(address(0), Vec::new());
        }
        self.now = until;
    }
}
