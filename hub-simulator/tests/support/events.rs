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
use fe2o3_amqp::types::messaging::{Annotations, Source};
use fe2o3_amqp::types::performatives::{Attach, Performative};
use fe2o3_amqp::types::primitives::{Symbol, Value};
use hub_simulator::HubSimulator;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;

use crate::support::{Client, DataBody, bytes_of, expiry, soon};
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
