//! The engine against everything a device and its hub may do, in any order, at any time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fuzzing::caller;
use crate::hub::device::Fate;
use crate::hub::message::C2d;
use crate::hub::queue::C2dOutcome;
use crate::hub::sas::sign;
use crate::mqtt::codec::{Connect, PubAck, Subscribe};

const DEVICE: &str = "dev1";
const MESSAGES: &str = "devices/dev1/messages/devicebound/#";

/// A device that remembers what it owes and what it is owed.
struct Model {
    hub: Arc<Hub>,
    caller: Caller,
    now: Now,
    connection: Option<(Connection, Arc<Peer>)>,
    last_id: u16,
    /// Publications that wait for their PUBACK, in order.
    unanswered: VecDeque<u16>,
    /// Messages that the device has not acknowledged: packet identifier to body.
    held: BTreeMap<u16, String>,
    /// What was sent to the device, by body.
    sent: BTreeMap<String, Arc<Fate>>,
    acknowledged: Vec<String>,
}

impl Model {
    fn new() -> Self {
        let caller = caller();
        Self {
            hub: Arc::clone(&caller.hub),
            caller,
            now: Now::read(),
            connection: None,
            last_id: 0,
            unanswered: VecDeque::new(),
            held: BTreeMap::new(),
            sent: BTreeMap::new(),
            acknowledged: Vec::new(),
        }
    }

    fn next_id(&mut self) -> u16 {
        self.last_id += 1;
        self.last_id
    }

    /// Gives the connection a packet and looks at everything that comes back.
    fn say(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        codec::write(packet, &mut bytes);
        if let Some((connection, _)) = &mut self.connection {
            connection.input(&mut bytes, self.now);
        }
        self.listen();
    }

    fn listen(&mut self) {
        let mut output = BytesMut::new();
        if let Some((connection, peer)) = &mut self.connection {
            for notice in peer.collect() {
                connection.notice(notice, self.now);
            }
            if connection.next_deadline() <= self.now.instant {
                connection.on_time(self.now);
            }
            output.unsplit(connection.take_output());
        }
        while let Some(packet) = codec::read(&mut output, usize::MAX).unwrap() {
            self.hear(packet);
        }
    }

    fn hear(&mut self, packet: Packet) {
        match packet {
            // Without a session the device forgets what it holds, too.
            Packet::ConnAck(answer) if !answer.session_present => self.held.clear(),
            Packet::PubAck(PubAck { pkid }) => {
                assert_eq!(
                    self.unanswered.pop_front(),
                    Some(pkid),
                    "each once, in order"
                );
            }
            Packet::Publish(publish) if publish.qos == QoS::AtLeastOnce => {
                let body = String::from_utf8(publish.payload.to_vec()).unwrap();
                assert!(
                    !self.acknowledged.contains(&body),
                    "what is complete stays so"
                );
                if let Some(before) = self.held.insert(publish.pkid, body.clone()) {
                    assert_eq!(
                        (before, publish.dup),
                        (body, true),
                        "one identifier, one message"
                    );
                }
            }
            _ => {}
        }
    }

    fn connect(&mut self, clean: bool) {
        let peer = self.hub.join();
        let connection = Connection::new(self.caller.clone(), Arc::clone(&peer), self.now);
        let former = self.connection.replace((connection, peer));
        let key = self
            .hub
            .state()
            .registry
            .add(DEVICE)
            .keys()
            .cloned()
            .unwrap();
        let token = sign("hub.test/devices/dev1", key.primary(), u64::MAX, None);
        let mut connect = Connect::new(DEVICE);
        connect.clean_session = clean;
        connect.keep_alive = 0;
        connect.set_login("hub.test/dev1/?api-version=2021-04-12", token);
        self.unanswered.clear();
        self.say(&Packet::Connect(connect));
        // The one before learns of it only now, and can no longer spoil anything.
        if let Some((mut former, peer)) = former {
            for notice in peer.collect() {
                former.notice(notice, self.now);
            }
            assert!(former.is_closed());
        }
    }

    fn is_open(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|(connection, _)| !connection.is_closed())
    }

    fn subscribe(&mut self) {
        let mut subscribe = Subscribe::new(MESSAGES, QoS::AtLeastOnce);
        subscribe.pkid = self.next_id();
        self.say(&Packet::Subscribe(subscribe));
    }

    fn publish(&mut self, topic: &str) {
        let mut publish = Publish::new(topic, QoS::AtLeastOnce, "{}");
        publish.pkid = self.next_id();
        if self.is_open() {
            self.unanswered.push_back(publish.pkid);
        }
        self.say(&Packet::Publish(publish));
        assert!(self.unanswered.is_empty() || !self.is_open());
    }

    fn acknowledge(&mut self, which: usize) {
        let id = self
            .held
            .keys()
            .nth(which % self.held.len().max(1))
            .copied();
        if let Some(id) = id
            && self.is_open()
        {
            let body = self.held.remove(&id).unwrap();
            self.say(&Packet::PubAck(PubAck::new(id)));
            // One that comes after the lock has lapsed is too late: the message comes again.
            if *self.sent[&body].outcome.borrow() == Some(C2dOutcome::Completed) {
                self.acknowledged.push(body);
            }
        }
    }

    fn send(&mut self) {
        let body = self.sent.len().to_string();
        let sent = self
            .hub
            .state()
            .enqueue(DEVICE, C2d::new(body.clone()), self.now);
        if let Ok(fate) = sent {
            self.sent.insert(body, fate);
        }
        self.listen();
    }

    fn wait(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.hub.state().tick(self.now);
        self.listen();
        self.say(&Packet::PingReq);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Connect { clean: bool },
    Vanish,
    Disconnect,
    Subscribe,
    Telemetry,
    Twin,
    WrongTopic,
    Send,
    Acknowledge(usize),
    AcknowledgeNothing(u16),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => proptest::bool::weighted(0.15).prop_map(|clean| Step::Connect { clean }),
        1 => Just(Step::Vanish),
        1 => Just(Step::Disconnect),
        3 => Just(Step::Subscribe),
        3 => Just(Step::Telemetry),
        1 => Just(Step::Twin),
        1 => Just(Step::WrongTopic),
        8 => Just(Step::Send),
        8 => any::<usize>().prop_map(Step::Acknowledge),
        1 => (40_000..u16::MAX).prop_map(Step::AcknowledgeNothing),
        2 => (1..40u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Each publication at least once has one PUBACK or ends the connection; a packet identifier means
    /// one message until it is acknowledged; no message is complete before that, and none is lost.
    #[test]
    fn a_device_gets_what_it_is_owed(steps in proptest::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Connect { clean } => model.connect(clean),
                Step::Vanish => model.connection = None,
                Step::Disconnect => {
                    model.say(&Packet::Disconnect);
                    prop_assert!(!model.is_open());
                }
                Step::Subscribe => model.subscribe(),
                Step::Telemetry => model.publish("devices/dev1/messages/events/a=b"),
                Step::Twin => model.publish("$iothub/twin/GET/?$rid=1"),
                Step::WrongTopic => {
                    model.publish("home/kitchen");
                    prop_assert!(!model.is_open());
                }
                Step::Send => model.send(),
                Step::Acknowledge(which) => model.acknowledge(which),
                Step::AcknowledgeNothing(id) => model.say(&Packet::PubAck(PubAck::new(id))),
                Step::Wait(seconds) => model.wait(seconds),
            }
            for (body, fate) in &model.sent {
                let complete = *fate.outcome.borrow() == Some(C2dOutcome::Completed);
                prop_assert!(!complete || model.acknowledged.contains(body), "{} was not taken", body);
            }
        }
        // Whatever has happened: the device comes back, and gets the rest.
        model.connect(false);
        model.subscribe();
        while !model.held.is_empty() {
            // What nobody sends again is held by the device alone.
            let before = model.held.len();
            model.acknowledge(0);
            prop_assert!(model.held.len() < before || model.is_open());
        }
        model.wait(61);
        while !model.held.is_empty() {
            model.acknowledge(0);
        }
        for (body, fate) in &model.sent {
            prop_assert_eq!(*fate.outcome.borrow(), Some(C2dOutcome::Completed), "message {}", body);
        }
        prop_assert_eq!(model.hub.state().attached, 1);
        drop(model.connection.take());
        prop_assert_eq!(model.hub.state().attached, 0);
        prop_assert!(model.hub.connections().is_empty());
    }
}
