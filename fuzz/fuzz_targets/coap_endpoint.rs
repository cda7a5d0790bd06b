//! The CoAP endpoint, as server and client: whatever comes and whatever is asked in any order, each
//! request of ours, each notification and each observation has one end, nobody who has not shown
//! where it is gets more than three times what it sent, and in the end nothing is left.
//!
//! The input is steps of a byte that says what to do, a byte of length and so many bytes.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, option};
use gateway_downstream_coap::proto::udp::{
    CallId, Endpoint, EndpointStats, Event, ExchangeId, ObservationId,
};
use gateway_downstream_coap::proto::{EndpointConfig, Seed};
use libfuzzer_sys::fuzz_target;

const MAX_REMEMBERED: usize = 24;
const MAX_BLOCK_BYTES: usize = 4096;
/// A call is our own wish; this is more than what is sent of it in all.
const CALL: usize = 16 * 1024;
/// The peer of this step has shown where it is, and may be sent anything from then on.
const PROVEN: u8 = 64;

struct World {
    endpoint: Endpoint<u8>,
    now: Duration,
    exchanges: Vec<ExchangeId<u8>>,
    calls: HashSet<CallId<u8>>,
    observations: Vec<ObservationId<u8>>,
    notifying: HashSet<ObservationId<u8>>,
    room: HashMap<u8, usize>,
}

impl World {
    fn step(&mut self, what: u8, data: &[u8]) {
        let (peer, number) = (what >> 4 & 3, usize::from(data.first().copied().unwrap_or(0)));
        let body = vec![7; number * 16];
        match what & 15 {
            0..=6 => {
                let is_proven = what & PROVEN != 0;
                self.allow(peer, if is_proven { usize::MAX / 2 } else { 3 * data.len() });
                self.endpoint.receive(self.now, peer, is_proven, data);
            }
            7 | 8 if !self.exchanges.is_empty() => {
                let exchange = self.exchanges.swap_remove(number % self.exchanges.len());
                let response = Message::new(Code::CONTENT).with_payload(body);
                let result = match what & 15 {
                    7 => self.endpoint.respond(self.now, exchange, response).map(|_| None),
                    _ => self.endpoint.observe(self.now, exchange, response),
                };
                self.hear();
                self.observations.extend(result.ok().flatten());
            }
            9 if !self.observations.is_empty() => {
                let observation = self.observations[number % self.observations.len()];
                let code = if number > 250 { Code::INTERNAL_ERROR } else { Code::CONTENT };
                let message = Message::new(code).with_payload(body);
                if self.endpoint.notify(self.now, observation, message).is_ok() {
                    assert!(self.notifying.insert(observation));
                    self.allow(observation.peer, CALL);
                }
            }
            10 => {
                let request = Message::new(Code::POST).with_path("x").with_payload(body);
                self.allow(peer, CALL);
                let call = self.endpoint.request(self.now, peer, request, number.is_multiple_of(2));
                self.calls.extend(call.ok());
            }
            11 => {
                let call = self.calls.iter().next().copied();
                if let Some(call) = call {
                    self.calls.remove(&call);
                    self.endpoint.cancel(self.now, call);
                }
            }
            12 => self.endpoint.forget(self.now, peer),
            13 if !self.observations.is_empty() => {
                let observation = self.observations[number % self.observations.len()];
                match what & PROVEN {
                    0 => self.endpoint.end_observation(self.now, observation),
                    _ => self.endpoint.withdraw_notification(self.now, observation),
                }
            }
            _ => self.pass(Duration::from_millis(number as u64 * 300)),
        }
        self.look();
    }

    fn allow(&mut self, peer: u8, bytes: usize) {
        let room = self.room.entry(peer).or_default();
        *room = room.saturating_add(bytes);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.endpoint.next_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.endpoint.on_timeout(self.now);
            self.look();
        }
        self.now = end;
    }

    fn hear(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Request(incoming) => {
                    assert!(!self.exchanges.contains(&incoming.exchange));
                    self.exchanges.push(incoming.exchange);
                }
                Event::Response { call, .. } => assert!(self.calls.remove(&call)),
                Event::Notified { observation, .. } => assert!(self.notifying.remove(&observation)),
                Event::Ended { observation, .. } => {
                    assert!(!self.notifying.contains(&observation));
                    let at = self.observations.iter().position(|one| *one == observation);
                    self.observations.swap_remove(at.expect("it ends once"));
                }
                _ => {}
            }
        }
    }

    fn look(&mut self) {
        self.hear();
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let datagram = Datagram::decode(&transmit.bytes).expect("what goes out can be read");
            assert!(transmit.bytes.len() <= 1152);
            let room = self.room.entry(transmit.peer).or_default();
            *room = room.checked_sub(transmit.bytes.len()).expect("not more than it may get");
            if datagram.kind == Kind::Confirmable {
                // Acknowledged, it shows that the peer has received it.
                *room = room.saturating_add(4 * transmit.bytes.len());
            }
            if datagram.message.options.has(option::ECHO)
                && datagram.message.code == Code::UNAUTHORIZED
            {
                assert!(transmit.bytes.len() < 64);
            }
        }
        let stats = self.endpoint.stats();
        assert!(stats.block_bytes <= MAX_BLOCK_BYTES);
        assert!(stats.remembered <= MAX_REMEMBERED && stats.peers <= MAX_REMEMBERED);
        assert_eq!(stats.observations, self.observations.len());
    }
}

fuzz_target!(|input: &[u8]| {
    let mut config = EndpointConfig::default();
    config.blocks.size = 64;
    config.limits.max_remembered = MAX_REMEMBERED;
    config.limits.max_pending = 8;
    config.limits.max_block_bytes = MAX_BLOCK_BYTES;
    let mut world = World {
        endpoint: Endpoint::new(config, Seed([1, 2])),
        now: Duration::from_secs(1),
        exchanges: Vec::new(),
        calls: HashSet::new(),
        observations: Vec::new(),
        notifying: HashSet::new(),
        room: HashMap::new(),
    };
    let mut rest = input;
    while let [what, length, tail @ ..] = rest {
        let (data, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        world.step(*what, data);
        rest = tail;
    }
    for peer in 0..4 {
        world.endpoint.forget(world.now, peer);
    }
    world.look();
    assert!(world.calls.is_empty() && world.notifying.is_empty() && world.observations.is_empty());
    assert_eq!(world.endpoint.stats(), EndpointStats::default());
    assert_eq!(world.endpoint.next_timeout(), None);
});
