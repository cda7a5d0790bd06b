//! What a gateway takes for delivered over a stream: each notification and each answer that should
//! arrive has one end, an observation too, and what counts as received a device that keeps to the
//! protocol has received, however late it reads and however late it is heard. One that does is asked
//! until it has said so.
//!
//! The input is steps of a byte that says what to do, a byte of length and so many bytes.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use gateway_downstream_coap::fuzzing::{Happened, Stream};
use gateway_downstream_coap::proto::message::{Code, Message, Token, option};
use gateway_downstream_coap::proto::tcp::{FrameReader, Session, StreamConfig, write_frame};
use gateway_downstream_coap::proto::udp::{NotificationOutcome, NotifyError, Responded};
use gateway_downstream_coap::proto::{Budget, Seed};
use libfuzzer_sys::fuzz_target;

/// Bytes of a block; what the device takes has room for a few more.
const BLOCK: usize = 64;
const TAKES: u32 = 120;
/// In a message of settings: the largest message that the peer takes.
const MAX_MESSAGE_SIZE: u16 = 2;
const NOW: Duration = Duration::from_secs(1);

/// A body's bytes are its number, again and again.
type Number = u16;

/// A body that the device fetches: the first block has come.
struct Fetch {
    number: Number,
    token: Token,
}

/// A device that keeps to the protocol: it fetches bodies block by block, the newest that it has of
/// a resource, and answers pings.
struct Device {
    /// It does not say which ping a pong answers.
    is_terse: bool,
    tokens: u32,
    /// Requests for resources, and observations of them, by their path.
    asked: HashMap<Token, String>,
    fetches: BTreeMap<String, Fetch>,
    /// Bytes that it was given, by body and block.
    given: BTreeMap<(Number, usize), usize>,
    /// Blocks behind the first ones that it has asked for.
    wanted: BTreeSet<(Number, usize)>,
    says: BytesMut,
}

impl Device {
    fn say(&mut self, message: &Message) {
        write_frame(message, &mut self.says);
    }

    fn ask(&mut self, path: &str, observe: Option<u32>) {
        self.tokens += 1;
        let token = Token::from(self.tokens);
        let mut get = Message::new(Code::GET).with_path(path).with_token(token);
        if let Some(observe) = observe {
            get.options.set_uint(option::OBSERVE, observe);
        }
        self.asked.insert(token, path.to_owned());
        self.say(&get);
    }

    /// Waits for an answer, or fetches the rest of one.
    fn is_busy(&self, path: &str) -> bool {
        self.asked.values().any(|one| one == path) || self.fetches.contains_key(path)
    }

    fn read(&mut self, message: Message) {
        match message.code {
            Code::PING => {
                let token = if self.is_terse { Token::EMPTY } else { message.token };
                self.say(&Message::new(Code::PONG).with_token(token));
            }
            code if code.is_response() => self.take(message),
            _ => {}
        }
    }

    fn take(&mut self, message: Message) {
        let block = message.options.uint(option::BLOCK2).unwrap_or(0);
        let (at, has_more) = ((block >> 4) as usize, block & 8 != 0);
        let number = number_of(&message);
        if let Some(number) = number {
            self.given.insert((number, at), message.payload.len());
        }
        let path = match self.asked.get(&message.token) {
            // What was asked once is answered once.
            Some(path) if !message.options.has(option::OBSERVE) => {
                let path = path.clone();
                self.asked.remove(&message.token);
                path
            }
            Some(path) => path.clone(),
            None => {
                let mut fetches = self.fetches.iter();
                let Some((path, fetch)) = fetches.find(|(_, one)| one.token == message.token)
                else {
                    return;
                };
                let (path, is_it) = (path.clone(), Some(fetch.number) == number);
                if !is_it {
                    self.fetches.remove(&path);
                    return;
                }
                path
            }
        };
        self.fetches.remove(&path);
        let Some(number) = number.filter(|_| has_more) else {
            return;
        };
        self.tokens += 1;
        let token = Token::from(self.tokens);
        let next = (at as u32 + 1) << 4 | block & 7;
        let get = Message::new(Code::GET).with_path(&path).with_token(token);
        self.say(&get.with_uint(option::BLOCK2, next));
        self.wanted.insert((number, at + 1));
        self.fetches.insert(path, Fetch { number, token });
    }
}

fn number_of(message: &Message) -> Option<Number> {
    let bytes = message.payload.first_chunk()?;
    message.code.is_success().then_some(Number::from_be_bytes(*bytes))
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Observe,
    /// An answer that should arrive.
    Poll,
    Other,
}

/// What a handler does when it hears of something else: it notifies, or ends an observation.
struct Plan {
    ends: bool,
    which: usize,
    size: usize,
}

struct World {
    stream: Stream,
    device: Device,
    /// Said to the device, and not read yet.
    down: VecDeque<Message>,
    /// It says what no such device would.
    is_hostile: bool,
    is_over: bool,
    /// Requests that wait.
    exchanges: BTreeMap<u64, Wish>,
    /// With what the device is known to have begun to receive.
    observations: BTreeMap<u64, Option<Number>>,
    notifying: BTreeMap<u64, Number>,
    answering: BTreeMap<u64, Number>,
    begun: BTreeMap<u64, Number>,
    plans: VecDeque<Plan>,
    /// Of each body.
    lengths: Vec<usize>,
}

/// One of them, the same for the same input.
fn pick<T>(map: &BTreeMap<u64, T>, number: usize) -> Option<u64> {
    map.keys().nth(number % map.len().max(1)).copied()
}

impl World {
    fn step(&mut self, what: u8, data: &[u8]) {
        let at = |at: usize| usize::from(data.get(at).copied().unwrap_or(0));
        let (which, size) = (at(0), at(1));
        let observed = format!("o{}", which % 3);
        match what & 15 {
            0 => self.read(which),
            1 => self.arrive(which),
            2 => self.device.ask(&observed, Some(0)),
            3 => self.device.ask(&observed, Some(1)),
            4 => {
                let path = format!("p{}", which % 3);
                if !self.device.is_busy(&path) {
                    self.device.ask(&path, None);
                }
            }
            5 => self.answer(which, size),
            6 => self.notify(which, size),
            7 => self.plans.push_back(Plan { ends: what & 16 != 0, which, size }),
            8 => {
                if let Some(observation) = pick(&self.observations, which) {
                    let before = self.notifying.get(&observation).copied();
                    self.stream.withdraw_notification(NOW, observation);
                    self.hear();
                    let now = self.notifying.get(&observation).copied();
                    assert!(before.is_none() || before != now);
                }
            }
            9 => {
                if let Some(observation) = pick(&self.observations, which) {
                    self.end(observation, size.is_multiple_of(2));
                    self.hear();
                    assert!(!self.observations.contains_key(&observation));
                }
            }
            10 => {
                if let Some(exchange) = pick(&self.answering, which) {
                    self.answering.remove(&exchange);
                    self.stream.forget_answer(exchange);
                }
            }
            11 => self.stream.ask(),
            12 => self.device.say(&Message::new(Code::POST)),
            13 => {
                self.is_hostile = true;
                self.device.says.extend_from_slice(data);
            }
            _ => {
                self.read(which);
                self.arrive(size);
            }
        }
        self.hear();
    }

    /// The device reads so many messages.
    fn read(&mut self, count: usize) {
        let reader = FrameReader::new(1 << 20);
        let mut output = self.stream.session().take_output();
        while let Some(message) = reader.read(&mut output).expect("what goes out can be read") {
            self.down.push_back(message);
        }
        for message in self.down.drain(..count.min(self.down.len())) {
            self.device.read(message);
        }
    }

    /// So many bytes that it has said arrive.
    fn arrive(&mut self, count: usize) {
        let count = count.min(self.device.says.len());
        let mut bytes = self.device.says.split_to(count);
        if self.is_over {
            return;
        }
        // What is no whole message yet is there the next time.
        let received = self.stream.receive(NOW, &mut bytes);
        bytes.extend_from_slice(&self.device.says);
        self.device.says = bytes;
        self.is_over = received.is_err();
        assert!(!self.is_over || self.is_hostile);
        self.hear();
    }

    fn body(&mut self, size: usize) -> (Number, Message) {
        let (number, length) = (self.lengths.len() as Number, 2 + 24 * (size % 8));
        self.lengths.push(length);
        let body = number.to_be_bytes().repeat(length / 2);
        (number, Message::new(Code::CONTENT).with_payload(body))
    }

    fn answer(&mut self, which: usize, size: usize) {
        let Some(exchange) = pick(&self.exchanges, which) else {
            return;
        };
        let wish = self.exchanges.remove(&exchange);
        if wish == Some(Wish::Other) {
            let changed = Message::new(Code::CHANGED);
            self.stream.session().respond(NOW, exchange, changed).expect("it waits");
            return;
        }
        let (number, message) = self.body(size);
        if wish == Some(Wish::Observe) {
            let observed = self.stream.observe(NOW, exchange, message).expect("it waits");
            self.observations.extend(observed.map(|observation| (observation, None)));
            return;
        }
        match self.stream.give(NOW, exchange, message).expect("it waits") {
            Responded::Apart => assert_eq!(self.answering.insert(exchange, number), None),
            Responded::Begun => assert_eq!(self.begun.insert(exchange, number), None),
            other => panic!("{other:?}"),
        }
    }

    fn notify(&mut self, which: usize, size: usize) {
        let Some(observation) = pick(&self.observations, which) else {
            return;
        };
        let (number, message) = self.body(size);
        match self.stream.notify(NOW, observation, message) {
            Ok(()) => {
                assert_eq!(self.notifying.insert(observation, number), None);
                self.observations.insert(observation, None);
            }
            Err(NotifyError::Busy) => assert!(self.notifying.contains_key(&observation)),
            // Its end is told yet.
            Err(_) => {}
        }
    }

    fn end(&mut self, observation: u64, is_failed: bool) {
        match is_failed {
            true => {
                let farewell = Message::new(Code::FORBIDDEN);
                self.stream.dismiss(NOW, observation, farewell);
            }
            false => self.stream.end_observation(NOW, observation),
        }
    }

    fn hear(&mut self) {
        while let Some(event) = self.stream.poll_event() {
            self.on_event(event);
            let Some(Plan { ends, which, size }) = self.plans.pop_front() else {
                continue;
            };
            match pick(&self.observations, which) {
                // Its end may have been told, and not heard yet.
                Some(observation) if ends => self.end(observation, size.is_multiple_of(2)),
                _ => self.notify(which, size),
            }
        }
    }

    fn on_event(&mut self, event: Happened) {
        match event {
            Happened::Request(exchange, message) => {
                if message.options.uint(option::BLOCK2).unwrap_or(0) >> 4 > 0 {
                    // Of a body that is gone: what is given is given from its beginning.
                    let answer = Message::new(Code::INCOMPLETE);
                    let session = self.stream.session();
                    session.respond(NOW, exchange, answer).expect("it waits");
                    return;
                }
                let observes = message.options.uint(option::OBSERVE) == Some(0);
                let wish = match message.path() {
                    Some(path) if path.concat().starts_with('p') => Wish::Poll,
                    _ if observes => Wish::Observe,
                    _ => Wish::Other,
                };
                assert_eq!(self.exchanges.insert(exchange, wish), None);
            }
            Happened::Notified(observation, outcome) => {
                let number = self.notifying.remove(&observation).expect("it ends once");
                if let NotificationOutcome::Acknowledged { is_whole } = outcome {
                    self.has_received(number, is_whole);
                    let begun = (!is_whole).then_some(number);
                    self.observations.insert(observation, begun);
                }
            }
            Happened::NotificationFetched(observation) => {
                let begun = self.observations.get_mut(&observation).and_then(Option::take);
                if let Some(number) = begun {
                    self.has_asked(number);
                }
            }
            Happened::Answered(exchange) => {
                let number = self.answering.remove(&exchange).expect("it ends once");
                self.has_received(number, true);
            }
            Happened::AnswerFetched(exchange) => {
                if let Some(number) = self.begun.remove(&exchange) {
                    self.has_asked(number);
                }
            }
            Happened::Ended(observation) => {
                assert!(self.observations.remove(&observation).is_some());
                assert!(!self.notifying.contains_key(&observation));
            }
            Happened::Other => {}
        }
    }

    fn has_received(&self, number: Number, is_whole: bool) {
        let given = &self.device.given;
        assert!(self.is_hostile || given.contains_key(&(number, 0)));
        if is_whole && !self.is_hostile {
            let blocks = given.range((number, 0)..=(number, usize::MAX));
            let length: usize = blocks.map(|(_, length)| length).sum();
            assert_eq!(length, self.lengths[usize::from(number)]);
        }
    }

    fn has_asked(&self, number: Number) {
        let last = (self.lengths[usize::from(number)] - 1) / BLOCK;
        assert!(self.is_hostile || self.device.wanted.contains(&(number, last)));
    }

    /// Nothing is waited for any more when a device has read all and is heard.
    fn finish(mut self) {
        self.plans.clear();
        while self.stream.session().unwritten() + self.down.len() + self.device.says.len() > 0
            && !self.is_over
            && !self.is_hostile
        {
            self.read(usize::MAX);
            self.arrive(usize::MAX);
        }
        self.hear();
        if !self.is_hostile {
            assert!(self.notifying.is_empty() && self.answering.is_empty());
            assert!(self.device.fetches.is_empty());
        }
        while let Some(observation) = pick(&self.observations, 0) {
            self.end(observation, false);
            self.hear();
            assert!(!self.observations.contains_key(&observation));
        }
        assert!(self.notifying.is_empty());
    }
}

fuzz_target!(|input: (bool, &[u8])| {
    let (is_terse, input) = input;
    let mut config = StreamConfig::default();
    config.blocks.size = BLOCK;
    let session = Session::new(config, Budget::new(1 << 20), Seed([1, 2]));
    let mut world = World {
        stream: Stream::new(session),
        device: Device {
            is_terse,
            tokens: 0,
            asked: HashMap::new(),
            fetches: BTreeMap::new(),
            given: BTreeMap::new(),
            wanted: BTreeSet::new(),
            says: BytesMut::new(),
        },
        down: VecDeque::new(),
        is_hostile: false,
        is_over: false,
        exchanges: BTreeMap::new(),
        observations: BTreeMap::new(),
        notifying: BTreeMap::new(),
        answering: BTreeMap::new(),
        begun: BTreeMap::new(),
        plans: VecDeque::new(),
        lengths: Vec::new(),
    };
    let settings = Message::new(Code::CSM).with_uint(MAX_MESSAGE_SIZE, TAKES);
    world.device.say(&settings);
    world.arrive(usize::MAX);
    let mut rest = input;
    while let [what, length, tail @ ..] = rest {
        let (data, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        world.step(*what, data);
        rest = tail;
    }
    world.finish();
});
