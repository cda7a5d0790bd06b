//! A server, devices, and a network that loses, doubles, delays and reorders datagrams.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;

use super::{millis, seconds};
use crate::proto::config::EndpointConfig;
use crate::proto::message::{Code, Message, option};
use crate::proto::random::Seed;
use crate::proto::udp::{
    CallError, CallId, Endpoint, EndpointStats, Event, ExchangeId, Incoming, Transmit,
};

/// The endpoint that devices talk to, by its name at theirs.
const SERVER: u8 = 0;

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Datagrams of 100 that are lost, and that come twice.
    pub(super) loss: u64,
    pub(super) doubled: u64,
    /// The longest way, and that of one in 20.
    pub(super) latency: Duration,
    pub(super) detour: Duration,
}

/// A request to be made.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) at: Duration,
    pub(super) device: u8,
    /// From the server to the device.
    pub(super) is_downward: bool,
    pub(super) is_confirmable: bool,
    pub(super) body: usize,
    pub(super) answer: usize,
    /// How long the handler takes.
    pub(super) delay: Duration,
}

enum Act {
    Ask(usize),
    Arrive {
        from: u8,
        to: u8,
        bytes: Bytes,
    },
    Answer {
        at: u8,
        exchange: ExchangeId<u8>,
        response: Message,
    },
}

pub(super) struct World {
    now: Duration,
    /// The server, then the devices.
    endpoints: Vec<Endpoint<u8>>,
    acts: BTreeMap<(Duration, u64), Act>,
    serial: u64,
    dice: u64,
    weather: Weather,
    asks: Vec<Ask>,
    /// Which request a call is, by who made it.
    calls: HashMap<(u8, CallId<u8>), usize>,
    pub(super) results: HashMap<usize, Result<Message, CallError>>,
    /// How often a handler had a request.
    pub(super) handled: HashMap<usize, usize>,
}

pub(super) fn body(length: usize, ask: usize) -> Bytes {
    (0..length).map(|at| (at * 7 + ask) as u8).collect()
}

impl World {
    pub(super) fn new(seed: u64, config: &EndpointConfig, devices: u8, weather: Weather) -> Self {
        let endpoint = |at: u8| Endpoint::new(config.clone(), Seed([seed, u64::from(at)]));
        Self {
            now: seconds(1),
            endpoints: (0..=devices).map(endpoint).collect(),
            acts: BTreeMap::new(),
            serial: 0,
            dice: seed,
            weather,
            asks: Vec::new(),
            calls: HashMap::new(),
            results: HashMap::new(),
            handled: HashMap::new(),
        }
    }

    /// A number below the limit (SplitMix64).
    fn roll(&mut self, limit: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ self.dice >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit.max(1)
    }

    fn plan(&mut self, at: Duration, act: Act) {
        self.serial += 1;
        self.acts.insert((at, self.serial), act);
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        let at = self.now + ask.at;
        self.asks.push(ask);
        self.plan(at, Act::Ask(self.asks.len() - 1));
    }

    /// Runs until nothing is to be done any more, by anybody.
    pub(super) fn run(&mut self) {
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 500_000, "it never ends");
            let act = self.acts.keys().next().map(|(at, _)| *at);
            let timeouts = self.endpoints.iter().map(Endpoint::next_timeout);
            let timer = timeouts.flatten().min();
            let Some(next) = act.into_iter().chain(timer).min() else {
                break;
            };
            self.now = self.now.max(next);
            if act == Some(next) {
                let (_, act) = self.acts.pop_first().unwrap();
                self.act(act);
            } else {
                for endpoint in &mut self.endpoints {
                    endpoint.on_timeout(self.now);
                }
            }
            for at in 0..self.endpoints.len() as u8 {
                self.look(at);
            }
        }
        for endpoint in &self.endpoints {
            assert_eq!(endpoint.stats(), EndpointStats::default());
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Ask(number) => {
                let ask = self.asks[number].clone();
                let request = Message::new(Code::POST)
                    .with_option(option::URI_QUERY, format!("n={number}"))
                    .with_payload(body(ask.body, number));
                let (from, to) = match ask.is_downward {
                    true => (SERVER, ask.device),
                    false => (ask.device, SERVER),
                };
                let endpoint = &mut self.endpoints[usize::from(from)];
                let call = endpoint.request(self.now, to, request, ask.is_confirmable);
                let before = self.calls.insert((from, call.unwrap()), number);
                assert_eq!(before, None);
            }
            Act::Arrive { from, to, bytes } => {
                let endpoint = &mut self.endpoints[usize::from(to)];
                endpoint.receive(self.now, from, true, &bytes);
            }
            Act::Answer {
                at,
                exchange,
                response,
            } => {
                let endpoint = &mut self.endpoints[usize::from(at)];
                let responded = endpoint.respond(self.now, exchange, response);
                assert!(responded.is_ok(), "the answer comes within the lifetime");
            }
        }
    }

    /// Takes what an endpoint tells and sends.
    fn look(&mut self, at: u8) {
        while let Some(event) = self.endpoints[usize::from(at)].poll_event() {
            match event {
                Event::Request(incoming) => self.handle(at, incoming),
                Event::Response { call, result } => {
                    let number = self.calls.remove(&(at, call)).expect("one end of each");
                    self.results.insert(number, result);
                }
                Event::AnswerFetched { .. } | Event::Answered { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        while let Some(Transmit { peer, bytes }) = self.endpoints[usize::from(at)].poll_transmit() {
            assert!(bytes.len() <= 1152, "it fits every network's datagrams");
            self.carry(at, peer, &bytes);
        }
    }

    fn handle(&mut self, at: u8, incoming: Incoming<u8>) {
        let query = incoming.message.query().unwrap();
        let number: usize = query[0].strip_prefix("n=").unwrap().parse().unwrap();
        let ask = self.asks[number].clone();
        assert_eq!(incoming.message.payload, body(ask.body, number));
        *self.handled.entry(number).or_default() += 1;
        let response = Message::new(Code::CHANGED).with_payload(body(ask.answer, number + 1));
        let act = Act::Answer {
            at,
            exchange: incoming.exchange,
            response,
        };
        self.plan(self.now + ask.delay, act);
    }

    fn carry(&mut self, from: u8, to: u8, bytes: &Bytes) {
        if self.roll(100) < self.weather.loss {
            return;
        }
        let copies = 1 + u64::from(self.roll(100) < self.weather.doubled);
        for _ in 0..copies {
            let longest = match self.roll(20) {
                0 => self.weather.detour,
                _ => self.weather.latency,
            };
            let way = millis(self.roll(longest.as_millis() as u64));
            let bytes = bytes.clone();
            self.plan(self.now + way, Act::Arrive { from, to, bytes });
        }
    }
}
