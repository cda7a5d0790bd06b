//! Measures how long many devices take to attach, to come back after every connection was cut, and
//! to come back to a hub that was away; beside that the least that the hub's limits allow.
//!
//! The hub runs in a process of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use benches::device_name;
use benches::hub::{Command, Flood, HubProcess, HubSetup, be_the_hub_if_asked};
use benches::limits::{Allowance, Tier};
use benches::process::{Usage, metered, resident};
use benches::report::{Fields, Report};
use clap::Parser;
use gateway_core::{
    CloudCallback, CloudMessage, Credential, DesiredPatch, DeviceId, DeviceIdentity, Disposition,
    MethodCall, MethodReply, SessionEnd, Upstream,
};
use gateway_upstream_amqp::AmqpUpstream;
use hub_simulator::Fault;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Links are many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often a second every connection is reset while the hub is away: each is gone before it can be
/// used, and costs as much as one can.
const RESETS: u32 = 100;

/// Measures an attach of many devices with keys of their own, then their way back.
#[derive(Debug, Parser)]
struct Options {
    /// Devices.
    #[arg(long, default_value_t = 20_000)]
    devices: usize,
    /// The way to the hub and back.
    #[arg(long, default_value_t = 50)]
    latency_ms: u64,
    /// The hub's tier, whose throttles are enforced and the gateway told of.
    #[arg(long, value_enum, default_value_t = Tier::Off)]
    tier: Tier,
    /// Units of the tier.
    #[arg(long, default_value_t = 1)]
    units: u32,
    /// How long the hub then resets every connection as it comes.
    #[arg(long, value_parser = benches::duration, default_value = "5s")]
    away: Duration,
    /// Prints one JSON object instead of a table.
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

    async fn on_desired(&self, _: DesiredPatch) -> Disposition {
        Disposition::Complete
    }

    async fn on_end(&self, _: SessionEnd) {}
}

/// Attaches all and says how many times one was refused and came again.
async fn attach_all(
    upstream: &Arc<AmqpUpstream>,
    identities: Vec<DeviceIdentity>,
) -> Result<usize> {
    let callback = Arc::new(Deaf);
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
    Ok(refusals)
}

/// Waits until the hub has done what it is told, which all devices' return is part of, and the
/// upstream has noticed.
async fn recover(
    hub: &mut HubProcess,
    upstream: &AmqpUpstream,
    devices: usize,
    command: Command,
) -> Result<()> {
    hub.tell(&command).await?;
    while upstream.stats().recovering > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    ensure!(upstream.stats().devices == devices, "devices were lost");
    Ok(())
}

fn row(what: &'static str, usage: Usage, least: Option<Duration>, devices: usize) -> Fields {
    let least = least.filter(|least| !least.is_zero());
    let ratio = least.map(|least| usage.wall.as_secs_f64() / least.as_secs_f64());
    Fields::new()
        .with("what", what)
        .with("seconds", usage.wall.as_secs_f64())
        .with("limits_allow_seconds", least.map(|l| l.as_secs_f64()))
        .with("ratio_to_limits", ratio)
        .with("cpu_seconds", usage.cpu.as_secs_f64())
        .with("cpu_us_per_device", usage.cpu_us_each(devices as u64))
        .with("cpu_share", usage.share())
        .with("cpu_share_busiest_second", usage.peak)
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? {
        return Ok(());
    }
    let options = Options::parse();
    let (devices, tier, units) = (options.devices, options.tier, options.units);
    let setup = HubSetup {
        latency_ms: options.latency_ms,
        tier,
        units,
        ..HubSetup::default()
    };
    let mut hub = HubProcess::start(&setup).await?;
    let config = hub.access.amqp().with_budget(tier.budget(units));
    let upstream = Arc::new(AmqpUpstream::new(config)?);
    let group_key = hub.access.group_key()?;
    let identities = (0..devices).map(|n| {
        let device = DeviceId::new(device_name(n))?;
        let key = group_key.derive(&device);
        anyhow::Ok(DeviceIdentity::new(
            device,
            Credential::DeviceKey(key.into()),
        ))
    });
    let identities = identities.collect::<Result<_>>()?;

    let empty = resident()?;
    let mut allowance = Allowance::new(tier, units);
    let least = allowance.least(devices);
    let (refusals, usage) = metered(attach_all(&upstream, identities)).await;
    let refusals = refusals?;
    let attached = row("attached", usage, least, devices);
    let memory = resident()?.saturating_sub(empty);

    let least = allowance.least(devices);
    let command = Command::Cut { attached: devices };
    let (back, usage) = metered(recover(&mut hub, &upstream, devices, command)).await;
    back?;
    let after_cut = row("back after a cut", usage, least, devices);

    let resets = Command::Flood {
        of: Flood::Fault(Fault::Cut { connection: None }),
        per_second: RESETS,
    };
    hub.tell(&resets).await?;
    let ((), usage) = metered(sleep(options.away)).await;
    let away = row("the hub is away", usage, None, devices);
    let least = allowance.least(devices);
    hub.tell(&Command::Calm).await?;
    let command = Command::AwaitAttached(devices);
    let (back, usage) = metered(recover(&mut hub, &upstream, devices, command)).await;
    back?;
    let after_away = row("back after that", usage, least, devices);

    let tier_name: Value = serde_json::to_value(tier)?;
    let conditions = Fields::new()
        .with("devices", devices)
        .with("latency_ms", options.latency_ms)
        .with("tier", tier_name)
        .with("units", units)
        .with("keys", "device");
    let results = Fields::new()
        .with("connections", hub.counts().await?.connections)
        .with("attach_refusals", refusals)
        .with(
            "resident_kib_per_device",
            memory as f64 / 1024.0 / devices.max(1) as f64,
        );
    let rows = [attached, after_cut, away, after_away];
    rows.into_iter()
        .fold(
            Report::new(env!("CARGO_BIN_NAME"), conditions),
            Report::with_row,
        )
        .with_results(results)
        .print(options.json);
    upstream.close(Duration::from_secs(10)).await?;
    Ok(())
}
