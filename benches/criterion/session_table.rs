//! The session table, by the only door to it: uplinks before a hub that takes everything at once.

use std::time::Duration;

use anyhow::{Result, bail};
use benches::device_name;
use benches::embedded::{Embedded, OnlySpeaking};
use benches::takes_all::TakesAll;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gateway_core::credential::VouchedCredentials;
use gateway_core::{DeviceId, MessageId, Settlement, Uplink};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::Instant;

/// A step that walks over all devices evenly and out of order.
const STRIDE: usize = 7919;

/// A gateway whose session table has so many places, and messages of the devices that come to it.
struct Table {
    gateway: Embedded,
    uplinks: Vec<Uplink>,
    next: usize,
}

impl Table {
    fn new(places: usize, devices: usize) -> Result<Self> {
        let gateway = Embedded::over(TakesAll, VouchedCredentials, places, OnlySpeaking)?;
        let uplink = |number| {
            let device = DeviceId::new(device_name(number))?;
            anyhow::Ok(Uplink::new(device, MessageId::new("m")?, &b"x"[..]))
        };
        Ok(Self {
            gateway,
            uplinks: (0..devices).map(uplink).collect::<Result<_>>()?,
            next: 0,
        })
    }

    /// Delivers messages of so many devices, one after the other.
    async fn deliver(&mut self, times: u64) -> Result<()> {
        for _ in 0..times {
            self.deliver_one().await?;
            self.next = (self.next + STRIDE) % self.uplinks.len();
        }
        Ok(())
    }

    async fn deliver_one(&self) -> Result<()> {
        let (ingress, uplink) = (&self.gateway.ingress, &self.uplinks[self.next]);
        loop {
            match ingress.reserve().await.deliver(uplink.clone()).await {
                Settlement::Accepted => return Ok(()),
                // Devices leave more slowly than others come, which is measured, too.
                Settlement::RetryLater(_) => yield_now().await,
                other => bail!("told {other:?}"),
            }
        }
    }
}

/// A table that each of its devices has come to.
fn table(runtime: &Runtime, places: usize, devices: usize) -> Table {
    let _entered = runtime.enter();
    let mut table = Table::new(places, devices).expect("a gateway");
    let delivered = runtime.block_on(table.deliver(devices as u64));
    delivered.expect("accepted");
    table
}

fn session_table(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut group = criterion.benchmark_group("session_table");
    group.throughput(Throughput::Elements(1));
    // "known": every device has a place. "evicting": twice as many devices as places, so that each
    // message attaches its device and pushes another one out.
    for (what, places, devices) in [
        ("known", 1_000, 1_000),
        ("known", 100_000, 100_000),
        ("evicting", 1_000, 2_000),
        ("evicting", 50_000, 100_000),
    ] {
        let mut site = None;
        group.bench_function(BenchmarkId::new(what, places), |bencher| {
            let table = site.get_or_insert_with(|| table(&runtime, places, devices));
            bencher.iter_custom(|times| {
                let started = Instant::now();
                runtime.block_on(table.deliver(times)).expect("accepted");
                started.elapsed()
            });
        });
        if let Some(table) = site {
            runtime.block_on(table.gateway.stop()).expect("an end");
        }
    }
    let mut site = None;
    group.bench_function("explain", |bencher| {
        let table = site.get_or_insert_with(|| table(&runtime, 1_000, 1_000));
        bencher.iter(|| table.gateway.gateway.explain(&table.uplinks[0].device));
    });
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
}

criterion_group! { name = benches; config = settings(); targets = session_table }
criterion_main!(benches);
