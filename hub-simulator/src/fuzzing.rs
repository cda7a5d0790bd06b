//! Pure entry points for fuzz targets; not part of the public API.

use std::hint::black_box;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_util::{FutureExt, poll};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::runtime::Builder;
use tokio::task::yield_now;

use crate::amqp::codec::message::{Sections, annotated};
use crate::amqp::codec::performative::Performative;
use crate::amqp::codec::read::Value;
use crate::amqp::codec::{frame, read};
use crate::amqp::connection::Connection;
use crate::amqp::events::selector;
use crate::clock::Ticks;
use crate::cloud::{Addresses, Caller, Cloud};
use crate::http;
use crate::hub::Hub;
use crate::hub::peer::Peer;
use crate::hub::query::{Groups, Query};
use crate::hub::record::{Record, RecordMode};
use crate::hub::registry::Registry;
use crate::hub::sas::{SasToken, sign};
use crate::hub::state::Now;
use crate::hub::twin::{Change, Mode, Twin};
use crate::limits::Limits;
use crate::line::Line;
use crate::mqtt::login::UserName;
use crate::mqtt::{self, bag, codec, topic};
use crate::provisioning::{Dps, ProvisioningOptions};
use crate::shell::Engine;

/// Decodes a frame, its performative and, as if it were one, a message; returns the bytes consumed.
///
/// # Panics
/// Panics if a frame's body is not within it.
#[must_use]
pub fn decode_frame(input: &[u8]) -> usize {
    let Ok(Some(frame)) = frame::split(input, 65_536) else {
        return 0;
    };
    assert!(frame.body.len() + frame::HEADER_LEN <= frame.len);
    black_box(Performative::decode(frame.body).is_ok());
    decode_message(frame.body);
    frame.len
}

/// Decodes a message as far as the hub ever does.
///
/// # Panics
/// Panics if it has more than there is.
pub fn decode_message(input: &[u8]) {
    if let Ok(sections) = Sections::decode(input) {
        black_box(sections.properties().is_ok());
        let body = sections.body().unwrap_or_default();
        assert!(body.len() <= input.len());
        let mut texts = 0;
        let read = sections.each_raw_application_property(|name, _, raw| {
            assert!(!raw.is_empty());
            texts += name.len() + raw.len();
        });
        assert!(texts <= input.len());
        black_box(read.is_ok());
    }
}

/// Splits values off until none is left, and what compound ones hold off them; returns the bytes
/// consumed.
///
/// # Panics
/// Panics if a value is not the bytes that it was split off with, or one that it holds is not in them.
#[must_use]
pub fn decode_values(input: &[u8]) -> usize {
    let (mut consumed, mut rest) = (0, input);
    while let Ok((value, raw, tail)) = read::split(rest) {
        assert_eq!([raw, tail].concat(), rest);
        assert!(!raw.is_empty());
        decode_held(value, raw);
        (consumed, rest) = (consumed + raw.len(), tail);
    }
    consumed
}

fn decode_held(value: Value<'_>, raw: &[u8]) {
    let mut held = match value {
        Value::List(fields) | Value::Map(fields) => fields,
        Value::Described(described) => {
            assert!(described.value.len() < raw.len());
            return;
        }
        Value::Binary(bytes) => return assert!(bytes.len() < raw.len()),
        Value::Str(text) | Value::Symbol(text) => return assert!(text.len() < raw.len()),
        _ => return,
    };
    let mut bytes = 0;
    while !held.is_empty() {
        let Ok((_, item)) = held.next_raw() else {
            break;
        };
        assert!(!item.is_empty());
        bytes += item.len();
    }
    assert!(bytes < raw.len());
}

/// Feeds an AMQP connection with bytes, in pieces of `piece`; returns the bytes that it answers.
#[must_use]
pub fn feed_connection(input: &[u8], piece: usize) -> usize {
    let caller = stranger();
    let peer = caller.hub.join();
    let mut connection = Connection::new(caller, Arc::clone(&peer), Now::read());
    feed(&mut connection, &peer, input, piece)
}

/// Feeds an MQTT connection with bytes, in pieces of `piece`, after a CONNECT of `dev1` if it is to be
/// `connected`; returns the bytes that it answers.
#[must_use]
pub fn feed_mqtt(input: &[u8], piece: usize, connected: bool) -> usize {
    let caller = stranger();
    let hub = Arc::clone(&caller.hub);
    let peer = hub.join();
    let mut connection = mqtt::connection::Connection::new(caller, Arc::clone(&peer), Now::read());
    let mut answered = 0;
    if connected {
        let key = hub.state().registry.add("dev1").keys().cloned();
        let key = key.unwrap_or_default();
        let token = sign("localhost/devices/dev1", key.primary(), u64::MAX, None);
        let mut connect = codec::Connect::new("dev1");
        connect.set_login("localhost/dev1/?api-version=2021-04-12", token);
        let mut bytes = BytesMut::new();
        codec::write(&codec::Packet::Connect(connect), &mut bytes);
        answered += feed(&mut connection, &peer, &bytes, bytes.len());
    }
    answered + feed(&mut connection, &peer, input, piece)
}

fn feed(engine: &mut impl Engine, peer: &Peer, input: &[u8], piece: usize) -> usize {
    let now = Now::read();
    let (mut buffer, mut answered) = (BytesMut::new(), 0);
    for part in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        engine.input(&mut buffer, now);
        for notice in peer.collect() {
            engine.notice(notice, now);
        }
        engine.end_turn();
        answered += engine.take_output().len();
    }
    answered
}

/// Feeds an HTTPS connection with bytes, in pieces of `piece`; returns what it answers.
#[must_use]
pub fn feed_http(input: &[u8], piece: usize) -> Vec<u8> {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without IO needs nothing");
    runtime.block_on(converse(stranger(), input, piece))
}

/// Says all of the input, and hears what is answered until nothing more comes: what waits for the
/// clock is given up.
async fn converse(caller: Caller, input: &[u8], piece: usize) -> Vec<u8> {
    /// Looks that nothing came of before it is given up.
    const PATIENCE: usize = 8;
    let (mut near, far) = duplex(input.len().max(64 * 1024));
    let mut serving = pin!(http::serve(Wire(far), caller));
    let mut parts = input.chunks(piece.max(1));
    let mut answered = Vec::new();
    let mut idle = 0;
    while idle < PATIENCE && poll!(serving.as_mut()).is_pending() {
        idle += 1;
        // There is room for all of it.
        if let Some(part) = parts.next()
            && let Some(Ok(())) = near.write_all(part).now_or_never()
        {
            idle = 0;
        }
        while let Some(Ok(1..)) = near.read_buf(&mut answered).now_or_never() {
            idle = 0;
        }
        yield_now().await;
    }
    while let Some(Ok(1..)) = near.read_buf(&mut answered).now_or_never() {}
    answered
}

/// A stream in memory, which nothing resets.
struct Wire(DuplexStream);

impl Line for Wire {
    fn reset_on_drop(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Somebody who calls on a hub named `localhost`, as that of tests is, which takes any token that it
/// can read: what tests have said, it understands.
fn stranger() -> Caller {
    let caller = caller_on("localhost");
    let mut state = caller.hub.state();
    state.registry.checks.signature = false;
    state.registry.checks.expiry = false;
    drop(state);
    caller
}

/// Somebody who calls on a hub of one device.
#[cfg(test)]
pub(crate) fn caller() -> Caller {
    caller_on("hub.test")
}

fn caller_on(host: &str) -> Caller {
    let mut registry = Registry::new(host, true);
    registry.add("dev1");
    let hub = Arc::new(Hub::new(
        registry,
        Limits::default(),
        Record::new(RecordMode::Full),
    ));
    let nowhere = ([127, 0, 0, 1], 0).into();
    let addresses = Addresses {
        amqps: nowhere,
        mqtts: nowhere,
        https: nowhere,
        control: None,
    };
    let dps = Dps::new(
        &ProvisioningOptions::default().with_id_scope("0ne00000001"),
        &hub.host,
        None,
        &[0; 32],
        Now::read(),
    );
    let cloud = Arc::new(Cloud::new(addresses, None, dps, hub));
    Caller::new(cloud, None, None)
}

/// Reads a text as everything that MQTT topics can be.
///
/// # Panics
/// Panics if a property bag means something else when it is written anew, or does not fit into a topic.
pub fn parse_mqtt_topic(text: &str) {
    for identity in ["dev1", "dev1/m1"] {
        black_box(topic::parse(text, identity).is_ok());
        black_box(topic::parse_filter(text, identity).is_ok());
    }
    black_box(UserName::parse(text, |host| host == "localhost").is_ok());
    if let Ok(properties) = bag::parse(text) {
        let pairs = properties
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()));
        let written = bag::write(pairs);
        assert!(!written.contains(['/', '#', '+', '\0']), "{written}");
        assert_eq!(bag::parse(&written), Ok(properties));
    }
}

/// Parses a reader's selector; tells whether it is one.
#[must_use]
pub fn parse_selector(text: &str) -> bool {
    selector::parse(text).is_some()
}

/// Splits a message into annotations and the rest, as for a reader of events; returns the size of
/// the rest.
#[must_use]
pub fn split_annotations(input: &[u8]) -> usize {
    annotated(input).others.iter().map(|part| part.len()).sum()
}

/// Parses a shared access signature; tells whether it is one.
#[must_use]
pub fn parse_sas(text: &str) -> bool {
    SasToken::parse(text).is_ok()
}

/// Parses a connection string and writes it out again; tells whether that is the same, none if it is
/// no connection string.
#[must_use]
pub fn connection_string_round_trip(text: &str) -> Option<bool> {
    let parsed = crate::ConnectionString::parse(text).ok()?;
    Some(crate::ConnectionString::parse(&parsed.to_string()).as_ref() == Ok(&parsed))
}

/// Asks a query of a document.
///
/// # Errors
/// Says what is not understood, and at which character.
pub fn ask_query(text: &str, document: &serde_json::Value) -> Result<(), String> {
    let query = Query::parse(text).map_err(|error| error.to_string())?;
    if query.matches(document) {
        let mut groups = Groups::default();
        groups.add(&query, document);
        black_box((groups.rows(&query), query.project(document)));
    }
    Ok(())
}

/// Is a twin after some writes.
#[derive(Debug)]
pub struct Written {
    /// The twin as its device sees it.
    pub device: serde_json::Value,
    /// Its properties as the service side sees them.
    pub service: serde_json::Value,
    /// Its tags.
    pub tags: serde_json::Value,
}

/// Writes documents to a twin one after the other, merging and replacing in turn.
///
/// # Panics
/// Panics if a write that is refused changes anything.
#[must_use]
pub fn write_twin(documents: &[serde_json::Value]) -> Written {
    let mut twin = Twin::new(Ticks::default());
    for (index, document) in documents.iter().enumerate() {
        let mode = if index % 3 == 2 {
            Mode::Replace
        } else {
            Mode::Merge
        };
        let before = twin.clone();
        let written = Change::of(document).and_then(|change| twin.write(change, mode, Ticks(1)));
        assert!(written.is_ok() || twin == before);
        let before = twin.clone();
        assert!(twin.report(document, Ticks(1)).is_ok() || twin == before);
    }
    Written {
        device: twin.device_view(),
        service: twin.properties(),
        tags: twin.tags().values().into(),
    }
}
