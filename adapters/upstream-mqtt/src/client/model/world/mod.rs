//! A client, those who wait for its answers, what drives it, and the broker at its other end.

mod drive;
mod end;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::acts::Act;
use super::book::{Book, Fate};
use super::broker::Broker;
use super::clock::Clock;
use super::said::Said;
use super::task::Task;
use crate::client::arrivals::Arrival;
use crate::client::codec::{ConnAck, Outgoing};
use crate::client::driver;
use crate::client::handle::Ticket;
use crate::client::ledger::{Key, Kind, Outcome};
use crate::client::options::{Options, Publish, Version};
use crate::client::shared::Shared;
use crate::client::state::State;
use crate::error::MqttError;

pub(in crate::client) struct World {
    pub(super) shared: Arc<Shared>,
    pub(super) book: Book,
    clock: Clock,
    broker: Broker,
    version: Version,
    /// Whether the broker may do what it must not.
    is_strange: bool,
    /// Those who wait for an answer, by the number of their packet.
    pub(super) tasks: BTreeMap<usize, Task<Outcome>>,
    submitted: usize,
    /// Messages without a verdict, with their numbers.
    held: Vec<(u64, Arrival)>,
    /// What the driver has read and the client has not looked at.
    buffer: BytesMut,
    /// What has gathered, as far as it was looked at.
    seen: usize,
    gathered: Vec<Said>,
    /// Waits to read on.
    room: Option<Task<()>>,
    /// Waits for the last answer.
    drained: Option<Task<()>>,
}

impl World {
    /// A connection behind this answer to CONNECT.
    pub(in crate::client) fn new(options: &Options, answer: &ConnAck, is_strange: bool) -> Self {
        // Far enough from the clock's beginning to look back.
        let now = Instant::now() + Duration::from_secs(3600);
        let state = State::new(driver::terms(options, answer), now);
        let mut world = Self {
            shared: Arc::new(Shared::new(state)),
            book: Book::new(options, answer),
            clock: Clock::new(options, answer, now),
            broker: Broker::new(options.version, options.limits.receive),
            version: options.version,
            is_strange,
            tasks: BTreeMap::new(),
            submitted: 0,
            held: Vec::new(),
            buffer: BytesMut::new(),
            seen: 0,
            gathered: Vec::new(),
            room: None,
            drained: None,
        };
        world.pass(Duration::ZERO);
        world
    }

    pub(in crate::client) fn act(&mut self, act: Act) {
        match act {
            Act::Publish(size) => self.publish(size),
            Act::PublishAll(count) => self.publish_all(count % 4),
            Act::Subscribe(count) => self.subscribe(count % 3 + 1),
            Act::Unsubscribe(count) => self.unsubscribe(count % 3 + 1),
            Act::Cancel(which) => self.cancel(which.into()),
            Act::Acknowledge(which) => self.decide(which.into(), Fate::Acknowledged),
            Act::Forget(which) => self.decide(which.into(), Fate::Forgotten),
            Act::Close => self.close(),
            Act::Run => self.run(),
            Act::Write => {
                self.write();
            }
            Act::Hear(u8::MAX) => self.hear(usize::MAX),
            Act::Hear(count) => self.hear(usize::from(count).max(1)),
            Act::Pass(seconds) => self.pass(Duration::from_secs(seconds.into())),
            Act::Answer(which, code) => {
                self.broker.answer(which, code);
            }
            Act::Deliver(size) => self.broker.deliver(size),
            Act::Tell(size) => self.broker.tell(size),
            Act::Again(which) => self.broker.again(which),
            Act::Pong => {
                self.broker.pong();
            }
            Act::Goodbye(code) => self.broker.goodbye(code),
            Act::Strange(strange) => self.broker.strange(strange),
        }
        self.check();
    }

    /// The broker says anything.
    #[cfg(feature = "fuzzing")]
    pub(in crate::client) fn say(&mut self, bytes: &[u8]) {
        self.broker.wire.extend_from_slice(bytes);
    }

    /// Tells whether messages wait for a verdict, or behind those that do.
    #[cfg(feature = "fuzzing")]
    pub(in crate::client) fn is_behind(&self) -> bool {
        !self.book.is_over && (!self.held.is_empty() || !self.broker.wire.is_empty())
    }

    /// Bytes that were read and not looked at, for as long as somebody may.
    #[cfg(feature = "fuzzing")]
    pub(in crate::client) fn unread(&self) -> usize {
        match self.book.is_over {
            true => 0,
            false => self.buffer.len(),
        }
    }

    // --- What the holders do. ---

    fn publish(&mut self, size: u8) {
        let message = self.message(self.submitted, size);
        self.submit_one(Kind::Publish, message);
    }

    fn publish_all(&mut self, count: u8) {
        let numbers = self.submitted..self.submitted + usize::from(count);
        let messages: Vec<_> = numbers.map(|number| self.message(number, 0)).collect();
        let (now, count) = (self.clock.now(), messages.len());
        let submit = |state: &mut State| state.submit(Kind::Publish, messages, now);
        let keys = self.shared.with(submit);
        self.entered(Kind::Publish, count, keys);
    }

    fn message(&self, number: usize, size: u8) -> Outgoing {
        let publish = Publish {
            topic: "a/b".to_owned(),
            payload: format!("{number:0width$}", width = usize::from(size % 64)).into(),
            ..Publish::default()
        };
        Outgoing::publish(self.version, publish).expect("a good message")
    }

    fn subscribe(&mut self, count: u8) {
        let packet = Outgoing::subscribe(self.version, &self.filters(count));
        self.submit_one(Kind::Subscribe, packet.expect("good filters"));
    }

    fn unsubscribe(&mut self, count: u8) {
        let packet = Outgoing::unsubscribe(self.version, &self.filters(count));
        self.submit_one(Kind::Unsubscribe, packet.expect("good filters"));
    }

    fn filters(&self, count: u8) -> Vec<String> {
        vec![self.submitted.to_string(); count.into()]
    }

    fn submit_one(&mut self, kind: Kind, packet: Outgoing) {
        let now = self.clock.now();
        let submit = |state: &mut State| state.submit_one(kind, packet, now);
        let key = self.shared.with(submit);
        self.entered(kind, 1, key.map(|key| vec![key]));
    }

    fn entered(&mut self, kind: Kind, count: usize, keys: Result<Vec<Key>, MqttError>) {
        let refused = self.book.refuses(count);
        let keys = match (keys, refused) {
            (Ok(keys), None) => keys,
            (Err(error), Some(refused)) => {
                assert_eq!(error.to_string(), refused.to_string());
                return;
            }
            (told, refused) => panic!("{told:?} instead of {refused:?}"),
        };
        assert_eq!(keys.len(), count);
        let is_next = self.book.has_turn();
        for key in keys {
            self.book.enter(self.submitted, kind);
            let ticket = Ticket::new(self.shared.clone(), key);
            self.tasks.insert(self.submitted, Task::new(ticket));
            self.submitted += 1;
        }
        self.read();
        if is_next {
            self.book.check_progress(self.seen);
        }
    }

    fn cancel(&mut self, which: usize) {
        let at = which % self.tasks.len().max(1);
        if let Some(number) = self.tasks.keys().nth(at).copied() {
            self.tasks.remove(&number);
            self.book.cancel(number);
        }
    }

    fn decide(&mut self, which: usize, fate: Fate) {
        if self.held.is_empty() {
            return;
        }
        let (number, arrival) = self.held.remove(which % self.held.len());
        self.book.decide(number, fate);
        let now = self.clock.now();
        match fate {
            Fate::Forgotten => {
                self.clock.forgot();
                let is_stuck = self.shared.with(|state| state.forget(arrival, now));
                assert_eq!(is_stuck, self.book.is_stuck());
                self.read();
                if is_stuck {
                    self.end();
                }
            }
            _ => self.shared.with(|state| state.acknowledge(arrival)),
        }
        self.read();
    }

    fn close(&mut self) {
        self.book.close();
        self.shared.with(State::close);
        let shared = self.shared.clone();
        let drained = poll_fn(move |cx| shared.lock().poll_drained(cx.waker()));
        self.drained.get_or_insert_with(|| Task::new(drained));
    }

    /// Lets all go on that were woken: whoever learns something learns the truth.
    fn run(&mut self) {
        let book = &mut self.book;
        self.tasks.retain(|number, task| {
            let told = task.step();
            assert_eq!(told, book.told(*number), "what {number} comes to");
            told.is_none()
        });
        if let Some(drained) = &mut self.drained {
            let is_drained = drained.step().is_some();
            assert_eq!(is_drained, book.is_over || book.open() == 0);
            if is_drained {
                self.drained = None;
            }
        }
        if let Some(room) = &mut self.room {
            let has_room = room.step().is_some();
            assert_eq!(has_room, !book.is_full());
            if has_room {
                self.room = None;
                self.clock.listen();
                self.look();
            }
        }
    }
}
