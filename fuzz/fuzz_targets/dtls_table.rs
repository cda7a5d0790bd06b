//! The DTLS server: whatever devices, the network and forgers do in any order, a session is ready
//! once and ends once, says only what its device has said, and in the end nothing is left.
//!
//! The input is steps of three bytes: what to do, who does it or where, and a number. Steps that
//! forge take so many more bytes.
#![no_main]

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use dimpl::crypto::{Dtls12CipherSuite, rust_crypto};
use dimpl::{Config, Dtls, Output, PskResolver};
use gateway_core::DeviceId;
use gateway_downstream_coap::dtls::{
    DtlsConfig, DtlsEvent, DtlsStats, DtlsTable, PskEntry, PskKey, SessionId,
};
use gateway_downstream_coap::proto::Seed;
use libfuzzer_sys::fuzz_target;

/// Identities and keys; the last one has the key of nobody.
const CLIENTS: [[&str; 2]; 3] = [["one", "key 1"], ["two", "key 2"], ["one", "wrong"]];
const PORTS: u8 = 3;
const MAX_STEPS: usize = 200;
const BOUND: usize = 2;

struct OneKey(&'static str);

impl PskResolver for OneKey {
    fn resolve(&self, _identity: &[u8]) -> Option<Vec<u8>> {
        Some(self.0.into())
    }
}

static CONFIGS: LazyLock<Vec<Arc<Config>>> = LazyLock::new(|| {
    let config = |[identity, key]: [&'static str; 2]| {
        let config = Config::builder()
            .with_crypto_provider(rust_crypto::default_provider())
            .with_psk_client(identity.into(), Arc::new(OneKey(key)))
            .dtls12_cipher_suites(&[Dtls12CipherSuite::PSK_AES128_CCM_8])
            .dtls13_cipher_suites(&[])
            .dangerously_set_rng_seed(7)
            .build();
        Arc::new(config.expect("a configuration"))
    };
    CLIENTS.map(config).into()
});

struct Client {
    engine: Dtls,
    is_connected: bool,
}

struct World {
    start: Instant,
    now: Duration,
    table: DtlsTable,
    clients: HashMap<u8, Client>,
    /// Datagrams on their way to the table, and to clients.
    up: VecDeque<(u8, Vec<u8>)>,
    down: VecDeque<(u8, Vec<u8>)>,
    /// Identities that are looked up.
    asked: VecDeque<(SessionId, String)>,
    open: HashMap<SessionId, DeviceId>,
    seen: HashSet<SessionId>,
    /// What each device has said, and how often.
    said: HashMap<(String, Vec<u8>), usize>,
    names: HashMap<u8, usize>,
}

fn address(port: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 5000 + u16::from(port)))
}

impl World {
    fn step(&mut self, what: u8, who: u8, number: u8, rest: &mut &[u8]) {
        let port = who % PORTS;
        match what & 15 {
            0 => {
                let name = usize::from(number) % CLIENTS.len();
                let at = self.start + self.now;
                let mut engine = Dtls::new_12_psk(CONFIGS[name].clone(), at);
                engine.set_active(true);
                let client = Client { engine, is_connected: false };
                self.clients.insert(port, client);
                self.names.insert(port, name);
                self.drive(port, |_| {});
            }
            1 => {
                let name = self.names.get(&port).map(|name| CLIENTS[*name][0].to_owned());
                let message = vec![number; usize::from(number)];
                if let (Some(client), Some(name)) = (self.clients.get(&port), name)
                    && client.is_connected
                {
                    *self.said.entry((name, message.clone())).or_default() += 1;
                    self.drive(port, |engine| drop(engine.send_application_data(&message)));
                }
            }
            2..=6 => self.deliver_up(number, what & 32 != 0),
            7..=9 => self.deliver_down(number, what & 32 != 0),
            10 => {
                if let Some((session, identity)) = self.asked.pop_front() {
                    let known = CLIENTS[..2].iter().find(|[name, _]| *name == identity);
                    let entry = known.filter(|_| what & 32 == 0).map(|[name, key]| {
                        let device = DeviceId::new(*name).expect("a device");
                        PskEntry::new(device, PskKey::new(*key).expect("a key"))
                    });
                    self.table.identified(self.now, session, entry);
                }
            }
            11 => {
                let mut sessions: Vec<_> = self.open.keys().copied().collect();
                sessions.sort();
                if let Some(session) = sessions.get(usize::from(number) % sessions.len().max(1)) {
                    match what & 32 {
                        0 => assert!(self.table.send(self.now, *session, &[number; 20]).is_ok()),
                        _ => self.table.close(*session),
                    }
                }
            }
            12 => self.drive(port, |engine| drop(engine.close())),
            13 => {
                let (forged, tail) = rest.split_at(rest.len().min(usize::from(number)));
                *rest = tail;
                self.table.receive(self.now, address(port), forged);
            }
            _ => self.pass(Duration::from_millis(u64::from(number) * 100)),
        }
        self.hear();
    }

    /// Hands a datagram to the table, or only a copy of it; another bit of it may be what it was not.
    fn deliver_up(&mut self, number: u8, is_kept: bool) {
        let Some((port, mut bytes)) = self.up.pop_front() else {
            return;
        };
        if is_kept {
            self.up.push_back((port, bytes.clone()));
        }
        if number > 200 {
            let at = usize::from(number) * 31 % bytes.len();
            bytes[at] ^= 1 << (number & 7);
        }
        self.table.receive(self.now, address(port), &bytes);
    }

    fn deliver_down(&mut self, number: u8, is_lost: bool) {
        let Some((port, bytes)) = self.down.pop_front() else {
            return;
        };
        if !is_lost || number < 128 {
            self.drive(port, |engine| drop(engine.handle_packet(&bytes)));
        }
    }

    /// Has a client act, at the time that it is.
    fn drive(&mut self, port: u8, act: impl FnOnce(&mut Dtls)) {
        let at = self.start + self.now;
        let Some(client) = self.clients.get_mut(&port) else {
            return;
        };
        drop(client.engine.handle_timeout(at));
        act(&mut client.engine);
        let mut buffer = vec![0; 4096];
        loop {
            match client.engine.poll_output(&mut buffer) {
                Output::Packet(bytes) => self.up.push_back((port, bytes.to_vec())),
                Output::Connected => client.is_connected = true,
                Output::Timeout(_) => return,
                _ => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.table.next_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.table.on_timeout(self.now);
            self.hear();
        }
        self.now = end;
        for port in 0..PORTS {
            self.drive(port, |_| {});
        }
    }

    fn hear(&mut self) {
        while let Some(event) = self.table.poll_event() {
            match event {
                DtlsEvent::Identify { session, identity } => self.asked.push_back((session, identity)),
                DtlsEvent::Ready { session, device } => {
                    assert!(self.seen.insert(session), "it is ready once");
                    assert!(!self.open.values().any(|one| *one == device), "one at a time");
                    self.open.insert(session, device);
                }
                DtlsEvent::Datagram { session, device, bytes, .. } => {
                    assert_eq!(self.open.get(&session), Some(&device));
                    let said = self.said.get_mut(&(device.to_string(), bytes.to_vec()));
                    let said = said.filter(|times| **times > 0).expect("it has said so, and as often");
                    *said -= 1;
                }
                DtlsEvent::Ended { session, .. } => {
                    assert!(self.open.remove(&session).is_some(), "it ends once");
                }
                _ => {}
            }
        }
        while let Some(transmit) = self.table.poll_transmit() {
            let port = (transmit.to.port() - 5000) as u8;
            self.down.push_back((port, transmit.bytes.to_vec()));
        }
        let stats = self.table.stats();
        assert!(stats.sessions <= BOUND && stats.handshakes <= BOUND, "{stats:?}");
        assert_eq!(stats.sessions, self.open.len());
        for (session, device) in &self.open {
            assert_eq!(self.table.session(device), Some(*session));
        }
        // What nobody takes is lost.
        self.up.truncate(64);
        self.down.truncate(64);
    }
}

fuzz_target!(|input: &[u8]| {
    let mut config = DtlsConfig::default();
    config.max_sessions = BOUND;
    config.max_handshakes = BOUND;
    let mut world = World {
        start: Instant::now(),
        now: Duration::ZERO,
        table: DtlsTable::new(config, Seed([7, 8])).expect("a table"),
        clients: HashMap::new(),
        up: VecDeque::new(),
        down: VecDeque::new(),
        asked: VecDeque::new(),
        open: HashMap::new(),
        seen: HashSet::new(),
        said: HashMap::new(),
        names: HashMap::new(),
    };
    let (mut rest, mut steps) = (input, 0);
    while let [what, who, number, tail @ ..] = rest
        && steps < MAX_STEPS
    {
        rest = tail;
        steps += 1;
        world.step(*what, *who, *number, &mut rest);
    }
    world.clients.clear();
    world.pass(Duration::from_secs(4000));
    assert_eq!(world.table.stats(), DtlsStats::default());
    assert_eq!(world.table.next_timeout(), None);
    assert!(world.open.is_empty());
});
