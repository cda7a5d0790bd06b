//! Any MQTT broker as the hub: few connections carry all devices, and topics stand for a hub's
//! services.
//!
//! A broker knows topics and clients, not devices. So a device is a level of a topic
//! ([`MqttPoolTopics`]), and its *credential means nothing here*: nothing of it is presented, and no
//! session ends with a token. The gateway itself is the client, with its own user name, password or
//! certificate ([`MqttPoolConfig`]). Attaching is book-keeping here plus a connection that is up: it
//! is refused as `Unauthorized` only where the broker refuses the gateway, and where a device presents
//! a token of its own, since nobody here can tell a true one from one made up. So the gateway vouches
//! for its devices ([`VouchedCredentials`](gateway_core::credential::VouchedCredentials)), and no
//! downstream takes tokens (`identity.token = false`); whoever is to judge them does so before
//! ([`CredentialProvider`](gateway_core::CredentialProvider)) or by the hub's own dialect.
//!
//! # Connections
//! A device's connection follows from its id: its messages keep their order, and the session that the
//! broker keeps for that connection is the one with its commands, over restarts too. A connection that
//! is lost comes back after a jittered wait, under one budget for all, and subscribes anew; what was
//! unsettled on it fails at once, and what is sent meanwhile is told when to come again. The first
//! connection also carries the gateway's own state, retained, with the last will behind it.
//!
//! # What a message says
//! At least once (QoS 1) in both directions. `send` is Ok at the broker's PUBACK, which means that the
//! *broker* has it; whether anybody subscribes is not told. In MQTT 5 a reason code refuses a message
//! by itself; in 3.1.1 a broker that does not like a message acknowledges it all the same (Mosquitto,
//! for a topic that its access list denies) or closes the connection. A batch goes out as so many
//! messages without a wait between them.
//!
//! A text that a broker may take for a fault of the connection, such as a control character in a
//! property, is refused as `Rejected` before it leaves, since its connection is everybody's.
//!
//! # The envelope
//! Where there are no properties of MQTT 5, a message is one JSON object. All fields may be missing:
//!
//! ```json
//! {"id": "m-1", "request_id": "7", "method": "reboot", "status": 200, "version": 3,
//!  "system": {"correlation_id": "…", "content_type": "…", "content_encoding": "…", "user_id": "…",
//!             "created_at": "2026-01-31T12:00:00.250Z", "schema": "…", "component": "…"},
//!  "properties": {"name": "value"},
//!  "json": {"temperature": 21.5}}
//! ```
//!
//! The body is in `json` as it is if it is meant as JSON, else in `text`, else in `base64`: one of the
//! three. In MQTT 5 what `system` holds stands in user properties named `$message_id`,
//! `$content_encoding` and so on, beside `$method`, `$status` and `$version`.
//!
//! A command with more than 100 properties of the application is unreadable: it is counted, told in a
//! warning and acknowledged, as is whatever else cannot be read.
//!
//! # Commands
//! A message to a device is acknowledged after its verdict, in whatever order verdicts come:
//! section 4.6 asks for the order of arrival, but then one slow device would hold up all on its
//! connection, and every broker known to us finds an acknowledgement by its number. MQTT has neither
//! reject nor abandon: an abandoned message is kept here, unacknowledged, and tried again after a wait;
//! what is rejected, or nobody could take in time, is acknowledged and goes to the dead letters.
//! Commands of one device begin in their order, a bounded number at a time; changes of desired
//! properties one after the other. What comes for a device that takes nothing is refused after
//! [`patience`](MqttPoolCommands::patience), so that it does not use up what the broker gives out.
//!
//! What the broker has not taken of dead letters, answers and commands handed over in
//! [`answer_timeout`](MqttPoolWire::answer_timeout), or what three connections were lost with, one soon
//! after the other, as where a broker closes them for a topic that it denies, is given up with a
//! warning, and its command acknowledged: so is what goes to the same topic soon after, and all dead
//! letters, or all answers on the gateway's own topics. Of the topics that callers choose, those go on
//! that the broker is known to take, and of the others one every 30 s. Soon is 30 s and the longest
//! wait between two connections, and for dead letters also
//! [`keep`](MqttPoolCommands::keep), for which a message is tried before.
//!
//! A device that misses changes of its desired properties, since the broker kept no session or since
//! its callback abandoned one, is given all of them as a whole where twins can be read
//! ([`twin_get`](MqttPoolTopics::twin_get)), and no single change before that. Elsewhere the change is
//! given again, for as long as a message is.
//!
//! A method is answered to the response topic of its request (MQTT 5) or to a topic of its own, with
//! the request's correlation data: by the device, or in its place with 400 (not callable), 404 (does
//! not listen here), 429 (too many calls) or 504 (no answer in time).
//!
//! Whose commands a gateway hears is a choice:
//!
//! | `subscriptions` | `group` | a command goes to | for a device attached elsewhere |
//! | --- | --- | --- | --- |
//! | per device (default) | none | every gateway that has the device | is not heard |
//! | per device | set | one of the gateways that have the device | is not heard |
//! | wildcard | none | every gateway | is left to the others |
//! | wildcard | set | one gateway | is handed over |
//!
//! The default asks nothing of the broker but subscriptions, and never moves a command twice. A group
//! over all devices balances without regard to who has the device: a gateway that gets a command of
//! another's publishes it once more below [`handover`](MqttPoolCommands::handover), where all gateways
//! hear it and the right one takes it. That costs a second hop, and the order between commands that
//! went different ways. If no gateway has the device, a handed-over command is lost; without a group
//! over all devices it stays at the broker, if at all, in the session of the connection that heard it
//! before. Desired properties are state: all gateways that have the device hear them.
//!
//! The broker keeps subscriptions with the session of a connection. One of a device that went to another
//! gateway while this one was away ends when a command comes by it: a method is left to the other
//! gateway, a message waits for the device for [`keep`](MqttPoolCommands::keep) before that and then
//! goes to the dead letters. A gateway that hears all devices and was away does the same with messages
//! for devices that are not back, but without dead letters, for as long after its start; later it
//! leaves at once what is for devices that are not here. Desired properties that are retained come to
//! such a gateway once, as it subscribes: a device that attaches later is given them by reading its
//! twin, where that can be done, and else reads it itself.
//!
//! # What it costs
//! 10,000 devices over 8 connections, each with one message of 100 bytes in flight, beside `rumqttc`
//! 0.25 alone, which sends the same packets and knows neither devices nor whose an acknowledgement is
//! (`mqtt_pool` in `benches`, one run, release build, two cores with other work on them, Linux):
//!
//! | broker | client | CPU a settled message | messages a second |
//! | --- | --- | --- | --- |
//! | one that only acknowledges | pool | 4.4 us | 176,000 |
//! | the same | `rumqttc` | 2.8 us | 262,000 |
//! | Mosquitto 2.0.11 | pool | 6.6 us | 50,000 |
//! | the same | `rumqttc` | 5.7 us | 54,000 |
//!
//! An attached device takes 250 bytes, 500 after traffic.

mod config;
mod convert;
mod desired;
mod device;
mod envelope;
mod filters;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod inbound;
mod line;
mod messages;
mod methods;
mod pool;
mod queues;
mod suspicion;
mod template;
mod topics;
mod twin;
mod upstream;
mod verdict;

pub use config::{
    MqttEncoding, MqttPoolCommands, MqttPoolConfig, MqttPoolWire, MqttSubscriptions, MqttVersion,
};
pub use topics::{MqttEventTopic, MqttPoolTopics};
pub use upstream::{MqttPoolStats, MqttPoolUpstream};
