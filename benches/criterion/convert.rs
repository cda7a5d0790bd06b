//! Between the gateway's messages and AMQP's bytes, both ways.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gateway_core::{DeviceId, MessageId, Properties, SystemProperties, Uplink};
use gateway_upstream_amqp::internal::{encode_uplinks, read_message, read_method};
use tokio::time::Instant;

/// Messages in a batch.
const BATCH: usize = 100;

fn device() -> DeviceId {
    DeviceId::new("device-0000001").expect("a valid id")
}

/// A message with what a gateway of LoRaWAN devices sets.
fn uplink(body: usize) -> Uplink {
    let id = MessageId::new("device-0000001-42").expect("a valid id");
    let mut properties = Properties::new();
    properties.insert("port", "1");
    properties.insert("counter", "42");
    Uplink::new(device(), id, vec![b'x'; body])
        .with_properties(properties)
        .with_content("application/json", Some("utf-8"))
}

/// What the hub sends when it calls a method: its sections are an uplink's.
fn method() -> Vec<u8> {
    let mut properties = Properties::new();
    properties.insert("IoThub-methodname", "reboot");
    let mut system = SystemProperties::default();
    system.correlation_id = Some("a5a0fc5d-5a0e-4f2b-8d3f-0a8c6c8c8a11".to_owned());
    let call = uplink(100).with_properties(properties).with_system(system);
    encode_uplinks(&[call]).expect("it fits")
}

fn convert(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("convert");
    for body in [100, 1024] {
        let uplink = uplink(body);
        let encoded = encode_uplinks(std::slice::from_ref(&uplink)).expect("it fits");
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("uplink", body), |bencher| {
            bencher.iter(|| encode_uplinks(black_box(std::slice::from_ref(&uplink))));
        });
        group.bench_function(BenchmarkId::new("message", body), |bencher| {
            let deadline = Instant::now();
            bencher.iter(|| {
                let message = read_message(device(), black_box(&encoded), deadline);
                message.expect("it was encoded here")
            });
        });
    }
    group.bench_function("method", |bencher| {
        let (encoded, deadline) = (method(), Instant::now());
        bencher.iter(|| {
            read_method(device(), black_box(&encoded), deadline).expect("it was encoded here")
        });
    });
    let batch = vec![uplink(100); BATCH];
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(BenchmarkId::new("batch", BATCH), |bencher| {
        bencher.iter(|| encode_uplinks(black_box(&batch)).expect("it fits"));
    });
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = settings(); targets = convert }
criterion_main!(benches);
