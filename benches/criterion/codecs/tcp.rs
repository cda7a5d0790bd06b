//! Framing, and JSON lines from a device's frame to its acknowledgement.

use std::hint::black_box;

use benches::BODY;
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};
use gateway_core::{DeviceId, MessageId, Settlement};
use gateway_downstream_tcp::proto::json_lines::JsonLines;
use gateway_downstream_tcp::proto::{Actions, Endian, FrameCodec, Framing, Protocol, Request};

const MAX_FRAME: usize = 64 * 1024;
/// Frames in the buffer that is read.
const FRAMES: u64 = 100;

/// A message as a device writes it.
fn frame() -> String {
    let body = str::from_utf8(&BODY[2..]).expect("it is text");
    format!("{{\"type\":\"telemetry\",\"id\":\"m\",\"body\":\"{body}\"}}")
}

pub(crate) fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codecs_tcp");
    let prefixed = Framing::LengthPrefixed {
        bytes: 2,
        endian: Endian::Big,
        includes_header: false,
    };
    group.throughput(Throughput::Elements(FRAMES));
    for (name, framing) in [("line", Framing::Line), ("length", prefixed)] {
        let mut codec = FrameCodec::new(framing, MAX_FRAME);
        let mut bytes = BytesMut::new();
        for _ in 0..FRAMES {
            let written = codec.encode(&mut bytes, |out| out.extend_from_slice(frame().as_bytes()));
            written.expect("it fits");
        }
        group.bench_function(BenchmarkId::new("frames", name), |bencher| {
            bencher.iter(|| {
                let mut input = bytes.clone();
                let mut frames = 0;
                while let Ok(Some(frame)) = codec.decode(&mut input) {
                    black_box(frame);
                    frames += 1;
                }
                assert_eq!(frames, FRAMES);
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("json_lines", |bencher| {
        let device = DeviceId::new("device-0000001").expect("a valid id");
        let prefix = MessageId::new("prefix").expect("a valid id");
        let mut protocol = JsonLines::new(Framing::Line, MAX_FRAME, prefix);
        let mut actions = Actions::new();
        protocol.on_login(Ok(&device), &mut actions);
        let frame = Bytes::from(frame());
        bencher.iter(|| {
            actions.output().clear();
            protocol.on_frame(frame.clone(), &mut actions);
            for request in actions.take_requests() {
                if let Request::Uplink { token, uplink } = request {
                    black_box(uplink);
                    protocol.on_settled(token, Settlement::Accepted, &mut actions);
                }
            }
            assert!(!actions.output().is_empty());
        });
    });
    group.finish();
}
