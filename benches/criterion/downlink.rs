//! From the hub to a device and back: a message until the hub has its verdict, a method until the
//! hub has its answer. The hub is in this process; devices answer at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use benches::embedded::{Embedded, Keys};
use benches::hub::HubAccess;
use benches::{BODY, HOST, device_name};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gateway_core::governor::{BudgetConfig, Rate};
use gateway_core::{
    Announcement, Delivered, DeviceId, Downlink, Downstream, DownstreamError, MethodReply,
    Presence, ServeContext,
};
use hub_simulator::{C2d, C2dOutcome, HubSimulator};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Devices that listen, and commands at a time at most: one for each.
const DEVICES: usize = 100;
/// How long a method may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Devices that answer at once.
#[derive(Debug)]
struct Answering;

#[async_trait]
impl Downstream for Answering {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        context.shutdown.cancelled().await;
        Ok(())
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        Ok(match downlink {
            Downlink::Method(call) => Delivered::Answered(MethodReply::new(200, call.payload)),
            _ => Delivered::Acknowledged,
        })
    }
}

/// A hub, a gateway, and devices that listen.
struct Site {
    hub: HubSimulator,
    _gateway: Embedded,
    _online: Vec<Presence>,
}

impl Site {
    async fn start() -> Result<Self> {
        let builder = HubSimulator::builder().with_host(HOST);
        let hub = builder.with_auto_register(true).start().await?;
        let access = HubAccess::of(&hub)?;
        let mut budget = BudgetConfig::default();
        // What is measured comes after all links are open.
        budget.command_links = Rate::Unlimited;
        let gateway = Embedded::start(
            access.amqp().with_budget(budget),
            Keys::Policy.credentials(&access)?,
            DEVICES,
            Answering,
        )?;
        let mut online = Vec::new();
        for device in (0..DEVICES).map(device_name) {
            let announcement = Announcement::new(DeviceId::new(device.as_str())?);
            online.push(gateway.ingress.online(announcement).await?);
            hub.wait_messages(&device).await;
            hub.wait_methods(&device).await;
        }
        Ok(Self {
            hub,
            _gateway: gateway,
            _online: online,
        })
    }

    async fn message(&self, device: &str) -> Result<()> {
        let ticket = self.hub.send_c2d(device, C2d::new(BODY.to_vec()))?;
        let outcome = ticket.outcome().await;
        ensure!(
            outcome == C2dOutcome::Completed,
            "a message was {outcome:?}"
        );
        Ok(())
    }

    async fn method(&self, device: &str) -> Result<()> {
        let answer = self.hub.call_method(device, "measure", "{}", PATIENCE);
        let status = answer.await?.status;
        ensure!(status == 200, "a method was answered with {status}");
        Ok(())
    }
}

/// What the hub sends.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Message,
    Method,
}

/// Sends so many commands to each of so many devices, one of a device at a time.
async fn command(site: &Arc<Site>, kind: Kind, devices: usize, times: u64) -> Result<()> {
    let mut commanded = JoinSet::new();
    for device in (0..devices).map(device_name) {
        let site = site.clone();
        commanded.spawn(async move {
            for _ in 0..times {
                match kind {
                    Kind::Message => site.message(&device).await?,
                    Kind::Method => site.method(&device).await?,
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = commanded.join_next().await {
        done??;
    }
    Ok(())
}

fn downlink(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut site = None;
    let mut group = criterion.benchmark_group("downlink");
    for (name, kind) in [("message", Kind::Message), ("method", Kind::Method)] {
        for devices in [1, DEVICES] {
            group.throughput(Throughput::Elements(devices as u64));
            group.bench_function(BenchmarkId::new(name, devices), |bencher| {
                let site = site.get_or_insert_with(|| {
                    Arc::new(
                        runtime
                            .block_on(Site::start())
                            .expect("devices that listen"),
                    )
                });
                bencher.iter_custom(|times| {
                    let started = Instant::now();
                    let commanded = runtime.block_on(command(site, kind, devices, times));
                    commanded.expect("taken");
                    started.elapsed()
                });
            });
        }
    }
    group.finish();
}

fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
}

criterion_group! { name = benches; config = settings(); targets = downlink }
criterion_main!(benches);
