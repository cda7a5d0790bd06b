//! Pure entry points for fuzz targets; not part of the public API.

mod feed;

use std::hint::black_box;

use crate::amqp::codec::message::{Sections, annotated};
use crate::amqp::codec::performative::Performative;
use crate::amqp::codec::read::Value;
use crate::amqp::codec::{frame, read};
use crate::amqp::events::selector;
use crate::clock::Ticks;
use crate::hub::query::{Groups, Query};
use crate::hub::sas::SasToken;
use crate::hub::twin::{Change, Mode, Twin};
use crate::mqtt::login::UserName;
use crate::mqtt::{bag, topic};

#[cfg(test)]
pub(crate) use feed::caller;
pub use feed::{Between, feed_amqp, feed_http, feed_mqtt};

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
