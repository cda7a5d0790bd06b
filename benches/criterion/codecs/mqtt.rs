//! MQTT packets.

use benches::BODY;
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};
use gateway_upstream_mqtt::internal::{read_packets, write_publish};

const TOPIC: &str = "devices/device-0000001/messages/events/%24.mid=device-0000001-42&port=1";
/// Packets in the buffer that is read.
const PACKETS: u64 = 100;

pub(crate) fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codecs_mqtt");
    let body = Bytes::from_static(&BODY);
    for (version, is_version_5) in [("3.1.1", false), ("5", true)] {
        group.throughput(Throughput::Elements(1));
        let mut out = BytesMut::new();
        group.bench_function(BenchmarkId::new("write_publish", version), |bencher| {
            bencher.iter(|| {
                out.clear();
                assert!(write_publish(TOPIC, &body, is_version_5, &mut out));
            });
        });
        let mut packets = BytesMut::new();
        for _ in 0..PACKETS {
            assert!(write_publish(TOPIC, &body, is_version_5, &mut packets));
        }
        group.throughput(Throughput::Elements(PACKETS));
        group.bench_function(BenchmarkId::new("read_publish", version), |bencher| {
            bencher.iter(|| {
                let read = read_packets(&mut packets.clone(), is_version_5);
                assert_eq!(read as u64, PACKETS);
            });
        });
    }
    group.finish();
}
