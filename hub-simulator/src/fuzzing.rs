//! Pure entry points for fuzz targets; not part of the public API.

use std::hint::black_box;
use std::sync::Arc;

use bytes::BytesMut;

use crate::amqp::codec::message::Sections;
use crate::amqp::codec::performative::Performative;
use crate::amqp::codec::{frame, read};
use crate::amqp::connection::Connection;
use crate::clock::Ticks;
use crate::cloud::{Addresses, Caller, Cloud};
use crate::hub::Hub;
use crate::hub::query::{Groups, Query};
use crate::hub::record::{Record, RecordMode};
use crate::hub::registry::Registry;
use crate::hub::sas::SasToken;
use crate::hub::state::Now;
use crate::hub::twin::{Change, Mode, Twin};
use crate::limits::Limits;
use crate::provisioning::{Dps, ProvisioningOptions};

/// Decodes a frame, its performative and, as if it were one, a message; returns the bytes consumed.
#[must_use]
pub fn decode_frame(input: &[u8]) -> usize {
    let Ok(Some(frame)) = frame::split(input, 65_536) else {
        return 0;
    };
    black_box(Performative::decode(frame.body).is_ok());
    decode_message(frame.body);
    frame.len
}

/// Decodes a message as far as the hub ever does.
pub fn decode_message(input: &[u8]) {
    if let Ok(sections) = Sections::decode(input) {
        black_box(sections.properties().is_ok());
        black_box(sections.body().is_ok());
        black_box(sections.each_application_property(|_, _| {}).is_ok());
    }
}

/// Splits values off until none is left; returns the bytes consumed.
#[must_use]
pub fn decode_values(input: &[u8]) -> usize {
    let mut rest = input;
    while let Ok((_, _, tail)) = read::split(rest) {
        rest = tail;
    }
    input.len() - rest.len()
}

/// Feeds a connection with bytes, in pieces of `piece`; returns the bytes that it answers.
#[must_use]
pub fn feed_connection(input: &[u8], piece: usize) -> usize {
    let mut registry = Registry::new("hub.test", true);
    registry.add("dev1");
    let hub = Arc::new(Hub::new(
        registry,
        Limits::default(),
        Record::new(RecordMode::Full),
    ));
    let now = Now::read();
    let peer = hub.join();
    let nowhere = ([127, 0, 0, 1], 0).into();
    let addresses = Addresses {
        amqps: nowhere,
        mqtts: nowhere,
        https: nowhere,
    };
    let dps = Dps::new(
        &ProvisioningOptions::default(),
        &hub.host,
        None,
        &[0; 32],
        Now::read(),
    );
    let cloud = Arc::new(Cloud::new(addresses, None, dps, hub));
    let caller = Caller::new(cloud, None, None);
    let mut connection = Connection::new(caller, Arc::clone(&peer), now);
    let (mut buffer, mut answered) = (BytesMut::new(), 0);
    for part in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(part);
        connection.input(&mut buffer, now);
        for notice in peer.collect() {
            connection.notice(notice, now);
        }
        connection.end_turn();
        answered += connection.take_output().len();
    }
    answered
}

/// Parses a shared access signature; tells whether it is one.
#[must_use]
pub fn parse_sas(text: &str) -> bool {
    SasToken::parse(text).is_ok()
}

/// Parses a connection string and writes it out again.
#[must_use]
pub fn connection_string_round_trip(text: &str) -> bool {
    crate::ConnectionString::parse(text).is_ok_and(|parsed| {
        crate::ConnectionString::parse(&parsed.to_string()).as_ref() == Ok(&parsed)
    })
}

/// Asks a query of a document; tells whether it is understood.
#[must_use]
pub fn ask_query(text: &str, document: &serde_json::Value) -> bool {
    let Ok(query) = Query::parse(text) else {
        return false;
    };
    if query.matches(document) {
        let mut groups = Groups::default();
        groups.add(&query, document);
        black_box((groups.rows(&query), query.project(document)));
    }
    true
}

/// Writes documents to a twin one after the other, merging and replacing in turn; returns it as its
/// device and as the service side see it, and its bytes of properties and tags are within bounds.
#[must_use]
pub fn write_twin(documents: &[serde_json::Value]) -> [serde_json::Value; 2] {
    let mut twin = Twin::new(Ticks::default());
    for (index, document) in documents.iter().enumerate() {
        let mode = if index % 3 == 2 {
            Mode::Replace
        } else {
            Mode::Merge
        };
        let written = Change::of(document).and_then(|change| twin.write(change, mode, Ticks(1)));
        black_box((written.is_ok(), twin.report(document, Ticks(1)).is_ok()));
    }
    [twin.device_view(), twin.properties()]
}
