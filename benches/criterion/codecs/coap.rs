//! CoAP messages in datagrams.

use std::hint::black_box;

use benches::BODY;
use criterion::{Criterion, Throughput};
use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, Token};

/// Telemetry as a device posts it.
fn post() -> Datagram {
    const URI_QUERY: u16 = 15;
    const CONTENT_FORMAT: u16 = 12;
    const JSON: u32 = 50;
    let mut message = Message::new(Code::POST)
        .with_path("t")
        .with_uint(CONTENT_FORMAT, JSON)
        .with_option(URI_QUERY, "$.id=device-0000001")
        .with_payload(&BODY[..]);
    message.token = Token::new(&[1, 2, 3, 4]).expect("a token");
    Datagram {
        kind: Kind::Confirmable,
        id: 7,
        message,
    }
}

pub(crate) fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codecs_coap");
    group.throughput(Throughput::Elements(1));
    let (datagram, bytes) = (post(), post().encode());
    group.bench_function("decode", |bencher| {
        bencher.iter(|| Datagram::decode(black_box(&bytes)).expect("it was encoded here"));
    });
    group.bench_function("encode", |bencher| {
        bencher.iter(|| black_box(&datagram).encode());
    });
    group.finish();
}
