//! A reader of telemetry as an Event Hubs client is one.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use fe2o3_amqp::Delivery;
use fe2o3_amqp::link::Receiver;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::definitions::{Error, Fields, Role, SenderSettleMode};
use fe2o3_amqp::types::messaging::annotations::OwnedKey;
use fe2o3_amqp::types::messaging::{
    Annotations, ApplicationProperties, Message, Outcome, Properties, Source,
};
use fe2o3_amqp::types::performatives::{Attach, Performative};
use fe2o3_amqp::types::primitives::{SimpleValue, Symbol, Value};
use hub_simulator::HubSimulator;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;

use crate::support::{Client, DataBody, accepted, bytes_of, expiry, message, soon};
use crate::wire::{self, Wire};

pub(crate) const START: &str = "amqp.annotation.x-opt-offset > '-1'";

/// The parts of the hub's connection string for Event Hubs clients.
pub(crate) fn parts(hub: &HubSimulator) -> BTreeMap<String, String> {
    let text = hub.eventhub_connection_string();
    let pair = |part: &str| {
        part.split_once('=')
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
    };
    text.split(';').filter_map(pair).collect()
}

/// A token as Event Hubs clients make it: signed with the text of the key.
pub(crate) fn token(hub: &HubSimulator, resource: &str) -> String {
    let parts = parts(hub);
    let key = parts["SharedAccessKey"].as_bytes();
    let expiry = expiry(std::time::Duration::from_secs(3600));
    hub_simulator::sign(resource, key, expiry, Some(&parts["SharedAccessKeyName"]))
}

/// Lets a connection read everything.
pub(crate) async fn authorize(client: &mut Client, hub: &HubSimulator) {
    let status = client.cbs.put("event hub", &whole(hub)).await;
    assert_eq!(status.0, 200, "{status:?}");
}

/// The address of a partition for the default group.
pub(crate) fn partition(hub: &HubSimulator, id: u32) -> String {
    let entity = &parts(hub)["EntityPath"];
    format!("{entity}/ConsumerGroups/$Default/Partitions/{id}")
}

/// What to attach as.
pub(crate) struct Reader<'a> {
    pub(crate) address: String,
    pub(crate) selector: Option<&'a str>,
    pub(crate) epoch: Option<i64>,
    pub(crate) metrics: bool,
    pub(crate) presettled: bool,
    pub(crate) credit: u32,
}

impl Reader<'_> {
    pub(crate) fn at(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            selector: Some(START),
            epoch: None,
            metrics: false,
            presettled: false,
            credit: 300,
        }
    }

    /// Attaches, which is granted.
    pub(crate) async fn attach(self, client: &mut Client) -> Receiver {
        let mut builder = Receiver::builder()
            .name(link_name())
            .source(self.source())
            .properties(self.properties())
            .credit_mode(CreditMode::Auto(self.credit));
        for capability in self.capabilities() {
            builder = builder.add_desired_capabilities(capability);
        }
        if self.presettled {
            builder = builder.sender_settle_mode(SenderSettleMode::Settled);
        }
        soon(builder.attach(&mut client.session)).await.unwrap()
    }

    /// Attaches on a connection of its own; returns why this is refused.
    pub(crate) async fn refusal(self, hub: &HubSimulator, token: &str) -> Error {
        self.attempt(hub, token).await.err().expect("it is refused")
    }

    /// Attaches on a connection of its own, which is left open if that is granted.
    ///
    /// Frame by frame, because `fe2o3-amqp` may lose the reason of a refusal.
    pub(crate) async fn attempt(self, hub: &HubSimulator, token: &str) -> Result<Wire, Error> {
        let mut wire = Wire::with_session(hub, wire::open(), wire::begin(2048)).await;
        if !token.is_empty() {
            wire.put_token("token", token).await;
        }
        let attach = Attach {
            source: Some(Box::new(self.source())),
            properties: Some(self.properties()),
            ..wire::attach(&link_name(), 2, Role::Receiver, &self.address)
        };
        wire.send(0, Performative::Attach(attach)).await;
        let Performative::Attach(reply) = wire.next().await else {
            panic!("an attach")
        };
        if reply.source.is_some() {
            return Ok(wire);
        }
        match wire.next().await {
            Performative::Detach(detach) if detach.closed => Err(detach.error.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn source(&self) -> Source {
        let source = Source::builder().address(self.address.clone());
        match self.selector {
            None => source.build(),
            Some(selector) => {
                let filter = Described {
                    descriptor: Descriptor::Code(77_567_109_365_764),
                    value: Value::String(selector.to_owned()),
                };
                source
                    .add_to_filter("apache.org:selector-filter:string", filter)
                    .build()
            }
        }
    }

    fn properties(&self) -> Fields {
        let mut properties = Fields::new();
        let name = Symbol::from("com.microsoft:receiver-name");
        properties.insert(name, Value::from("tester"));
        if let Some(epoch) = self.epoch {
            properties.insert(Symbol::from("com.microsoft:epoch"), Value::Long(epoch));
        }
        properties
    }

    fn capabilities(&self) -> Vec<&'static str> {
        let metrics = self
            .metrics
            .then_some("com.microsoft:enable-receiver-runtime-metric");
        ["com.microsoft:georeplication"]
            .into_iter()
            .chain(metrics)
            .collect()
    }
}

fn link_name() -> String {
    static NAMES: AtomicU32 = AtomicU32::new(0);
    format!("reader-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// A token for the whole event hub.
pub(crate) fn whole(hub: &HubSimulator) -> String {
    token(
        hub,
        &format!("sb://{}/{}", hub.host(), parts(hub)["EntityPath"]),
    )
}

/// The next event.
pub(crate) async fn next(receiver: &mut Receiver) -> Delivery<DataBody> {
    let delivery = soon(receiver.recv::<DataBody>()).await.unwrap();
    soon(receiver.accept(&delivery)).await.unwrap();
    delivery
}

/// The bodies of the next `count` events.
pub(crate) async fn bodies(receiver: &mut Receiver, count: usize) -> Vec<String> {
    let mut bodies = Vec::with_capacity(count);
    for _ in 0..count {
        let event = next(receiver).await;
        bodies.push(String::from_utf8(bytes_of(event.body())).unwrap());
    }
    bodies
}

/// Annotations by name.
pub(crate) fn by_name(annotations: &Annotations) -> BTreeMap<String, Value> {
    let name = |key: &OwnedKey| match key {
        OwnedKey::Symbol(name) => name.to_string(),
        OwnedKey::Ulong(number) => number.to_string(),
    };
    annotations
        .iter()
        .map(|(key, value)| (name(key), value.clone()))
        .collect()
}

/// A hub with one partition, on plain TCP.
pub(crate) async fn hub() -> HubSimulator {
    HubSimulator::builder()
        .with_tls(false)
        .with_partitions(1)
        .with_consumer_group("second")
        .start()
        .await
        .unwrap()
}

/// A connection that may read, and a device's that sends.
pub(crate) async fn both(hub: &HubSimulator) -> (Client, Client) {
    hub.add_device("dev1");
    let mut reader = Client::connect(hub).await;
    authorize(&mut reader, hub).await;
    (reader, Client::device(hub, "dev1").await)
}

/// Sends numbers as a device's telemetry, one message each.
pub(crate) async fn send(device: &mut Client, numbers: std::ops::Range<u32>) {
    let mut sender = device.telemetry("dev1").await;
    for number in numbers {
        let sent = sender.send(message("m", &number.to_string()));
        accepted(soon(sent).await.unwrap());
    }
    soon(sender.close()).await.unwrap();
}

/// A string.
pub(crate) fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

/// The two links of `$management`.
pub(crate) struct Node {
    sender: fe2o3_amqp::Sender,
    receiver: fe2o3_amqp::Receiver,
}

impl Node {
    pub(crate) async fn open(client: &mut Client) -> Self {
        Self {
            sender: client.sender("$management").await,
            receiver: client.receiver("$management").await,
        }
    }

    /// Asks; returns the status, and the answer by name.
    pub(crate) async fn read(
        &mut self,
        properties: &[(&str, &str)],
    ) -> (i32, BTreeMap<String, Value>) {
        let mut application = ApplicationProperties::builder().insert("operation", "READ");
        for (name, value) in properties {
            application = application.insert(*name, *value);
        }
        let request = Message::builder()
            .properties(Properties::builder().message_id(5u64).build())
            .application_properties(application.build())
            .data(b"[]".to_vec())
            .build();
        let outcome = soon(self.sender.send(request)).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted(_)));
        let reply = next(&mut self.receiver).await;
        let reply = reply.message();
        assert_eq!(
            reply.properties.as_ref().unwrap().correlation_id,
            Some(5u64.into())
        );
        let application = &reply.application_properties.as_ref().unwrap().0;
        let [status, other] = ["status-code", "statusCode"].map(|name| application.get(name));
        assert_eq!(status, other);
        let Some(&SimpleValue::Int(status)) = status else {
            panic!("a status is an int")
        };
        let body = match reply.body.try_as_value() {
            Ok(Value::Map(body)) => body
                .iter()
                .map(|(name, value)| (String::try_from(name.clone()).unwrap(), value.clone()))
                .collect(),
            _ => Default::default(),
        };
        (status, body)
    }
}
