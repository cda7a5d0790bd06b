//! The state against a broker that does everything in any order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use bytes::BytesMut;
use proptest::prelude::*;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{Packet, PubAck, Publish};
use tokio::time::Instant;

use super::{Kept, Task, message};
use crate::client::handle::{Client, Incoming};
use crate::client::ledger::Bounds;
use crate::client::options::Version;
use crate::client::shared::Shared;
use crate::client::state::{State, Terms};
use crate::error::MqttError;

const IN_FLIGHT: usize = 4;
const RECEIVE: u16 = 5;

/// What is to become of a message that came to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Acknowledged,
    Forgotten,
}

type Sending = Task<Result<(), MqttError>>;

struct Model {
    shared: Arc<Shared>,
    client: Client,
    inbox: Arc<Kept>,
    published: usize,
    /// Those whose callers still wait.
    tasks: BTreeMap<usize, Sending>,
    /// What the broker has not acknowledged, by packet identifier.
    open: BTreeMap<u16, usize>,
    /// The last that the broker has seen.
    last: Option<usize>,
    /// What the broker has said and the client has not read.
    wire: BytesMut,
    /// Acknowledgements in there: packet identifier and message.
    unheard: Vec<(u16, usize)>,
    /// Messages whose acknowledgement the client has read.
    acknowledged: Vec<usize>,
    delivered: u16,
    /// What the broker has sent and was not told about, in order.
    owed: VecDeque<(u16, Fate)>,
    held: Vec<Incoming>,
    is_ended: bool,
}

impl Model {
    fn new() -> Self {
        let terms = Terms {
            version: Version::V4,
            bounds: Bounds {
                in_flight: IN_FLIGHT,
                buffer: 25,
                queued: 8,
            },
            receive: RECEIVE,
            ordered_acks: true,
            max_incoming: 1000,
            keep_alive: super::SOON,
            answer_timeout: super::SOON,
        };
        let shared = Arc::new(Shared::new(State::new(terms, Instant::now())));
        Self {
            client: Client::over(shared.clone()),
            shared,
            inbox: Arc::default(),
            published: 0,
            tasks: BTreeMap::new(),
            open: BTreeMap::new(),
            last: None,
            wire: BytesMut::new(),
            unheard: Vec::new(),
            acknowledged: Vec::new(),
            delivered: 0,
            owed: VecDeque::new(),
            held: Vec::new(),
            is_ended: false,
        }
    }

    fn publish(&mut self) {
        let (client, number) = (self.client.clone(), self.published);
        self.published += 1;
        let task = Task::new(async move { client.publish(message(number)).await });
        self.tasks.insert(number, task);
    }

    /// Lets every caller go on that was woken: whoever learns something learns the truth.
    fn step(&mut self) {
        let (acknowledged, is_ended) = (&self.acknowledged, self.is_ended);
        let waiting = self.tasks.len();
        self.tasks.retain(|number, task| {
            let told = task.step();
            let is_acknowledged = acknowledged.contains(number);
            match told {
                None => {
                    assert!(
                        !is_acknowledged && !is_ended,
                        "message {number} waits in vain"
                    );
                    return true;
                }
                Some(Ok(())) => assert!(is_acknowledged, "message {number} was not taken"),
                Some(Err(MqttError::Crowded)) => assert!(waiting > 8, "there was room"),
                Some(Err(MqttError::Down)) => assert!(is_ended && !is_acknowledged),
                Some(Err(error)) => panic!("{error}"),
            }
            false
        });
    }

    /// The broker reads all that there is.
    fn read(&mut self) {
        loop {
            let output = self.shared.take_output(BytesMut::new());
            if output.is_empty() {
                break;
            }
            self.look_at(output);
        }
        // All that could be said was said.
        while let Some((_, Fate::Forgotten)) = self.owed.front() {
            self.owed.pop_front();
        }
        let front = self.owed.front().map(|(_, fate)| *fate);
        assert!(self.is_ended || front != Some(Fate::Acknowledged));
    }

    fn look_at(&mut self, mut output: BytesMut) {
        while !output.is_empty() {
            match Packet::read(&mut output, 1000).expect("MQTT") {
                Packet::Publish(publish) => {
                    let number: usize = String::from_utf8_lossy(&publish.payload)
                        .parse()
                        .expect("a number");
                    assert!(self.last < Some(number), "in order, each once");
                    self.last = Some(number);
                    let before = self.open.insert(publish.pkid, number);
                    assert_eq!(before, None, "an identifier means one message");
                    assert!(self.open.len() <= IN_FLIGHT);
                }
                Packet::PubAck(PubAck { pkid }) => {
                    // What was let go is passed over.
                    let next = loop {
                        match self.owed.pop_front() {
                            Some((_, Fate::Forgotten)) => {}
                            next => break next,
                        }
                    };
                    assert_eq!(
                        next,
                        Some((pkid, Fate::Acknowledged)),
                        "in order of arrival"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn say(&mut self, packet: &Packet) {
        packet.write(&mut self.wire, 1000).expect("MQTT");
        self.hear();
    }

    /// The client reads what it has room for.
    fn hear(&mut self) {
        let has_room = self
            .shared
            .lock()
            .poll_room(Waker::noop(), Instant::now())
            .is_ready();
        if self.is_ended || !has_room {
            return;
        }
        let taken = self.shared.on_bytes(&mut self.wire, &*self.inbox);
        let has_room = taken.expect("nothing wrong was said");
        assert!(self.wire.is_empty() || !has_room);
        self.held.append(&mut self.inbox.take());
        assert!(self.held.len() <= RECEIVE.into());
        // What is still to be read is not known to the client.
        let (mut rest, mut unheard) = (self.wire.clone(), Vec::new());
        while !rest.is_empty() {
            if let Packet::PubAck(PubAck { pkid }) = Packet::read(&mut rest, 1000).expect("MQTT") {
                unheard.push(pkid);
            }
        }
        let heard = self.unheard.extract_if(.., |(id, _)| !unheard.contains(id));
        self.acknowledged.extend(heard.map(|(_, number)| number));
    }

    fn acknowledge(&mut self, which: usize) {
        let at = which % self.open.len().max(1);
        if let Some(id) = self.open.keys().nth(at).copied()
            && let Some(number) = self.open.remove(&id)
            && !self.is_ended
        {
            self.unheard.push((id, number));
            self.say(&Packet::PubAck(PubAck::new(id)));
        }
    }

    /// What the broker acknowledges without reason settles nothing.
    fn acknowledge_in_vain(&mut self, id: u16) {
        // What waits to be read is open, too.
        self.read();
        if !self.open.contains_key(&id) && self.wire.is_empty() {
            self.say(&Packet::PubAck(PubAck::new(id)));
            // Read later, it may meet a message that has got this identifier meanwhile.
            self.wire.clear();
        }
    }

    fn cancel(&mut self, which: usize) {
        let at = which % self.tasks.len().max(1);
        let number = self.tasks.keys().nth(at).copied();
        if let Some(number) = number {
            self.tasks.remove(&number);
        }
    }

    fn deliver(&mut self) {
        if !self.is_ended {
            self.delivered += 1;
            self.owed.push_back((self.delivered, Fate::Open));
            let payload = self.delivered.to_string();
            let mut publish = Publish::new("c/d", QoS::AtLeastOnce, payload);
            publish.pkid = self.delivered;
            self.say(&Packet::Publish(publish));
        }
    }

    fn decide(&mut self, which: usize, fate: Fate) {
        if self.held.is_empty() {
            return;
        }
        let incoming = self.held.swap_remove(which % self.held.len());
        let id: u16 = String::from_utf8_lossy(&incoming.payload)
            .parse()
            .expect("a number");
        for (owed, was) in &mut self.owed {
            if *owed == id {
                *was = fate;
            }
        }
        match fate {
            Fate::Acknowledged => incoming.receipt.acknowledge(),
            _ => drop(incoming),
        }
        self.hear();
    }

    fn end(&mut self) {
        self.shared.conclude(MqttError::Down);
        self.is_ended = true;
        self.open.clear();
    }
}

#[derive(Debug, Clone)]
enum Act {
    Publish,
    Read,
    Acknowledge(usize),
    AcknowledgeInVain(u16),
    Cancel(usize),
    Deliver,
    Decide(usize, bool),
    End,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => Just(Act::Publish),
        5 => Just(Act::Read),
        8 => any::<usize>().prop_map(Act::Acknowledge),
        1 => (1..40_u16).prop_map(Act::AcknowledgeInVain),
        2 => any::<usize>().prop_map(Act::Cancel),
        3 => Just(Act::Deliver),
        4 => (any::<usize>(), proptest::bool::weighted(0.9)).prop_map(|(n, is)| Act::Decide(n, is)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Each message has one end: acknowledged, refused for want of room, or down with the
    /// connection; identifiers mean one message at a time, messages go out in order, and what came
    /// is acknowledged in the order in which it came.
    #[test]
    fn every_message_is_settled_once_whatever_the_broker_does(
        acts in proptest::collection::vec(act(), 1..120),
        end in any::<proptest::sample::Index>(),
    ) {
        let mut acts = acts;
        acts.insert(end.index(acts.len() + 1), Act::End);
        let mut model = Model::new();
        for act in acts {
            match act {
                Act::Publish => model.publish(),
                Act::Read => model.read(),
                Act::Acknowledge(which) => model.acknowledge(which),
                Act::AcknowledgeInVain(id) => model.acknowledge_in_vain(id),
                Act::Cancel(which) => model.cancel(which),
                Act::Deliver => model.deliver(),
                Act::Decide(which, true) => model.decide(which, Fate::Acknowledged),
                Act::Decide(which, false) => model.decide(which, Fate::Forgotten),
                Act::End => model.end(),
            }
            model.step();
        }
        prop_assert!(model.tasks.is_empty(), "the connection has ended");
        prop_assert_eq!(model.shared.lock().ledger().held(), 0);
        prop_assert_eq!(model.client.in_flight(), 0);
    }

    /// As long as the broker reads and acknowledges, everything gets through.
    #[test]
    fn nothing_is_stuck(acts in proptest::collection::vec(act(), 1..80)) {
        let mut model = Model::new();
        for act in acts {
            match act {
                Act::Publish => model.publish(),
                Act::Read => model.read(),
                Act::Acknowledge(which) => model.acknowledge(which),
                Act::Cancel(which) => model.cancel(which),
                _ => {}
            }
            model.step();
        }
        for _ in 0..200 {
            model.read();
            model.acknowledge(0);
            model.step();
        }
        prop_assert!(model.tasks.is_empty());
        prop_assert_eq!(model.shared.lock().ledger().held(), 0);
        prop_assert_eq!(model.shared.lock().ledger().queue_len(), 0);
    }
}

#[test]
fn those_who_give_up_waiting_leave_no_trace_in_the_queue() {
    let mut model = Model::new();
    for _ in 0..IN_FLIGHT {
        model.publish();
    }
    model.step();
    for _ in 0..10_000 {
        model.publish();
        model.step();
        let last = model.published - 1;
        assert!(model.tasks.remove(&last).is_some(), "there is room");
    }
    assert!(model.shared.lock().ledger().queue_len() < 50);
    assert_eq!(model.shared.lock().ledger().held(), IN_FLIGHT);
}

#[test]
fn identifiers_go_round_without_zero_and_without_one_in_use() {
    let mut model = Model::new();
    model.publish();
    model.step();
    model.read();
    let stuck = *model.open.keys().next().expect("it is open");
    for round in 0..70_000 {
        model.publish();
        model.step();
        model.read();
        let Some((id, number)) = model
            .open
            .iter()
            .map(|(id, n)| (*id, *n))
            .find(|(id, _)| *id != stuck)
        else {
            // All others are used up: nothing is sent rather than one twice.
            assert_eq!(round, 65_534);
            return;
        };
        model.open.remove(&id);
        model.acknowledged.clear();
        model.unheard.push((id, number));
        model.say(&Packet::PubAck(PubAck::new(id)));
        model.step();
    }
    panic!("an identifier was used twice");
}
