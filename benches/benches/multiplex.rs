//! Settled throughput of the embedded path, hub and gateway in one process.

#![allow(missing_docs, reason = "the macro's own items")]

use anyhow::Result;
use benches::embedded::{Embedded, Keys, OnlySpeaking, send};
use benches::hub::HubAccess;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hub_simulator::{HubSimulator, RecordMode};

const MESSAGES: usize = 10;

/// A hub and a gateway with so many devices attached.
async fn start(devices: usize) -> Result<(HubSimulator, Embedded)> {
    let builder = HubSimulator::builder()
        .with_host(benches::HOST)
        .with_auto_register(true);
    let hub = builder.with_record(RecordMode::Count).start().await?;
    let access = HubAccess::of(&hub)?;
    let credentials = Keys::Policy.credentials(&access)?;
    let gateway = Embedded::start(access.amqp(), credentials, devices, OnlySpeaking)?;
    send(&gateway.ingress, 0..devices, devices, 1, "attach").await?;
    Ok((hub, gateway))
}

fn multiplex(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("multiplex");
    group.sample_size(10);
    for devices in [1, 100, 995] {
        let (_hub, gateway) = runtime.block_on(start(devices)).expect("a gateway");
        group.throughput(Throughput::Elements((devices * MESSAGES) as u64));
        group.bench_function(BenchmarkId::new("devices", devices), |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let sent = send(&gateway.ingress, 0..devices, devices, MESSAGES, "bench").await;
                assert_eq!(sent.expect("accepted"), 0, "a message was given back");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, multiplex);
criterion_main!(benches);
