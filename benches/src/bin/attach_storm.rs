//! Measures how long many devices take to attach, and to come back after every connection was cut.
//!
//! The hub runs in this process: what it costs is counted with the gateway's.

#![expect(
    clippy::print_stdout,
    reason = "a program that prints what it measured"
)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use benches::{HOST, cpu, device_name};
use clap::Parser;
use gateway_core::credential::SymmetricKey;
use gateway_core::{
    CloudCallback, CloudMessage, Credential, DesiredPatch, DeviceId, DeviceIdentity, Disposition,
    MethodCall, MethodReply, SessionEnd, Upstream,
};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream, BudgetConfig, HubTier};
use hub_simulator::{HubSimulator, Limits, RecordMode, Size, Tier};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Links are many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures an attach of many devices with keys of their own, then their way back after a cut.
#[derive(Debug, Parser)]
struct Options {
    /// Devices.
    #[arg(long, default_value_t = 20_000)]
    devices: usize,
    /// The way to the hub and back.
    #[arg(long, default_value_t = 50)]
    latency_ms: u64,
    /// Enforces the throttles of an S2 hub with so many units; 0 enforces none.
    #[arg(long, default_value_t = 0)]
    s2_units: u32,
    /// Prints one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// Hears nothing: these devices only speak.
#[derive(Debug)]
struct Deaf;

#[async_trait]
impl CloudCallback for Deaf {
    async fn on_method(&self, _: MethodCall) -> MethodReply {
        MethodReply::new(501, "{}")
    }

    async fn on_message(&self, _: CloudMessage) -> Disposition {
        Disposition::Reject
    }

    async fn on_desired(&self, _: DesiredPatch) {}

    async fn on_end(&self, _: SessionEnd) {}
}

/// What one round took: on the clock, of the CPU, and how many came late for a refusal.
struct Round {
    wall: Duration,
    cpu: Duration,
    refusals: usize,
}

async fn attach_all(
    hub: &HubSimulator,
    upstream: &Arc<AmqpUpstream>,
    devices: usize,
) -> Result<Round> {
    let callback = Arc::new(Deaf);
    let mut identities = Vec::with_capacity(devices);
    for n in 0..devices {
        let name = device_name(n);
        let keys = hub.add_device(&name);
        let key = SymmetricKey::from_base64(&keys.primary)?;
        let device = DeviceId::new(name)?;
        identities.push(DeviceIdentity::new(
            device,
            Credential::DeviceKey(key.into()),
        ));
    }
    let (cpu_before, started) = (cpu(), Instant::now());
    let mut attaching = JoinSet::new();
    for identity in identities {
        let (upstream, callback) = (upstream.clone(), callback.clone());
        attaching.spawn(async move {
            let mut refusals = 0;
            while let Err(error) = upstream.attach(identity.clone(), callback.clone()).await {
                if !error.is_retryable() {
                    return Err(error);
                }
                refusals += 1;
                sleep(error.retry_after().unwrap_or(Duration::from_secs(1))).await;
            }
            Ok(refusals)
        });
    }
    let mut refusals = 0;
    while let Some(attached) = attaching.join_next().await {
        refusals += attached??;
    }
    Ok(Round {
        wall: started.elapsed(),
        cpu: cpu() - cpu_before,
        refusals,
    })
}

/// Cuts every connection and waits until all devices are back.
async fn recover(
    hub: &HubSimulator,
    upstream: &Arc<AmqpUpstream>,
    devices: usize,
) -> Result<Round> {
    let (cpu_before, started) = (cpu(), Instant::now());
    hub.faults().cut_all();
    hub.wait_until(|stats| stats.attached_devices < devices)
        .await;
    hub.wait_until(|stats| stats.attached_devices == devices)
        .await;
    while upstream.stats().recovering > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    ensure!(upstream.stats().devices == devices, "devices were lost");
    Ok(Round {
        wall: started.elapsed(),
        cpu: cpu() - cpu_before,
        refusals: 0,
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let devices = options.devices;
    let size = (options.s2_units > 0).then(|| Size::new(Tier::S2, options.s2_units));
    let hub = HubSimulator::builder()
        .with_host(HOST)
        .with_record(RecordMode::Count)
        .with_limits(Limits::default().with_size(size))
        .start()
        .await?;
    hub.faults()
        .latency(Duration::from_millis(options.latency_ms));
    let address = hub.addr();
    let mut config = AmqpConfig::new(HOST)
        .with_address(address.ip().to_string(), address.port())
        .with_ca_pem(hub.ca_pem().context("the hub speaks TLS")?);
    if options.s2_units > 0 {
        config = config.with_budget(BudgetConfig::for_hub(HubTier::S2, options.s2_units));
    }
    let upstream = Arc::new(AmqpUpstream::new(config)?);
    let first = attach_all(&hub, &upstream, devices).await?;
    let second = recover(&hub, &upstream, devices).await?;
    let seconds = |time: Duration| time.as_secs_f64();
    if options.json {
        println!(
            "{}",
            json!({
                "devices": devices, "latency_ms": options.latency_ms, "s2_units": options.s2_units,
                "connections": upstream.stats().connections.len(),
                "attach_seconds": seconds(first.wall), "attach_cpu_seconds": seconds(first.cpu),
                "attach_refusals": first.refusals,
                "recover_seconds": seconds(second.wall),
                "recover_cpu_seconds": seconds(second.cpu),
            })
        );
    } else {
        println!(
            "{devices} devices, {} connections, {} ms away",
            upstream.stats().connections.len(),
            options.latency_ms
        );
        for (what, round) in [("attached", first), ("back after a cut", second)] {
            println!(
                "{what:<18} {:>8.2} s, {:>8.2} s of CPU, {} refusals",
                seconds(round.wall),
                seconds(round.cpu),
                round.refusals
            );
        }
    }
    upstream.close(Duration::from_secs(10)).await?;
    Ok(())
}
