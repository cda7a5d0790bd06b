//! Settled throughput of the embedded path, hub and gateway in one process.

#![allow(missing_docs, reason = "the macro's own items")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hub_simulator::{HubSimulator, RecordMode};

const MESSAGES: usize = 10;

fn multiplex(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("multiplex");
    group.sample_size(10);
    for devices in [1, 100, 995] {
        let (_hub, _gateway, ingress) = runtime.block_on(async {
            let builder = HubSimulator::builder()
                .with_host(benches::HOST)
                .with_auto_register(true);
            let hub = builder
                .with_record(RecordMode::Count)
                .start()
                .await
                .expect("a hub");
            let policy = hub
                .policy_connection_string("device")
                .parse()
                .expect("a policy");
            let ca = hub.ca_pem().unwrap_or_default().to_owned();
            let (gateway, ingress) =
                benches::embedded::gateway(hub.addr(), &ca, &policy, devices).expect("a gateway");
            benches::embedded::send(&ingress, devices, 1, "attach")
                .await
                .expect("attached");
            (hub, gateway, ingress)
        });
        group.throughput(Throughput::Elements((devices * MESSAGES) as u64));
        group.bench_function(BenchmarkId::new("devices", devices), |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let accepted = benches::embedded::send(&ingress, devices, MESSAGES, "bench").await;
                assert_eq!(accepted.expect("no panic"), (devices * MESSAGES) as u64);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, multiplex);
criterion_main!(benches);
