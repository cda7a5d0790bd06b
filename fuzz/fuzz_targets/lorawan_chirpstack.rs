//! ChirpStack's events: what is read is about one device, whose commands go nowhere else. And their
//! topics: what is read of one leads back to it.
//!
//! The input is a byte of the kind of event and its format, and the event; or two lines, a template of
//! topics and a topic.
#![no_main]

use gateway_downstream_lorawan::chirpstack::{EventKind, Format, decode};
use gateway_downstream_lorawan::cloud::Route;
use gateway_downstream_lorawan::event::{Event, Uplink};
use gateway_downstream_lorawan::fuzzing::read_topic;
use libfuzzer_sys::fuzz_target;

const KINDS: [&str; 7] = ["up", "join", "ack", "txack", "log", "status", "location"];

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    if let Some((template, topic)) = std::str::from_utf8(body).ok().and_then(|text| text.split_once('\n')) {
        read_topic(template, topic);
    }
    let format = match kind & 0x80 {
        0 => Format::Json,
        _ => Format::Protobuf,
    };
    let kind = KINDS[usize::from(kind & 0x7f) % KINDS.len()];
    let kind: EventKind = kind.parse().expect("it is known");
    let Ok(told) = decode(kind, format, body) else {
        return;
    };
    assert_eq!(told.route.device, told.dev_eui.to_string());
    let route = Route::new(&told.route.application, &told.route.device);
    assert_eq!(route.expect("it was checked"), told.route);
    for event in told.events {
        assert_eq!(event.dev_eui(), told.dev_eui);
        if let Event::Uplink(uplink) = event {
            assert!(uplink.payload.len() <= body.len());
            assert!(uplink.receptions.len() <= Uplink::MAX_RECEPTIONS);
        }
    }
});
