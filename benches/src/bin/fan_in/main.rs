//! Measures how long messages take that come at a set rate, whatever became of those before them:
//! through the embedded gateway, and by the AMQP client alone.
//!
//! The hub runs in a process of its own. A message's time begins when it was due, not when it could
//! be sent, so that nothing is left out that a slow moment held up. Rounds of the two take turns at
//! the same rate: by default half of what the slower of the two can do.

mod path;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use benches::device_name;
use benches::embedded::{Embedded, Keys, OnlySpeaking};
use benches::hub::{HubProcess, HubSetup, be_the_hub_if_asked};
use benches::paced::{Load, Round, histogram};
use benches::process::metered;
use benches::raw::{Raw, Writes};
use benches::report::{Fields, Report};
use clap::Parser;
use gateway_core::DeviceId;
use hdrhistogram::Histogram;

use path::Path;

/// A message is many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures latency at a set rate: bare client, embedded gateway, and what the gateway adds.
#[derive(Debug, Parser)]
struct Options {
    /// Devices, which take turns.
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Messages a second of all devices; a share of what the slower path can do without it.
    #[arg(long)]
    per_second: Option<f64>,
    /// That share.
    #[arg(long, default_value_t = 0.5)]
    load: f64,
    /// The way to the hub and back.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Rounds of each path.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a round lasts.
    #[arg(long, value_parser = benches::duration, default_value = "4s")]
    round: Duration,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Messages of each device that show what a path can do.
const TRIAL: usize = 100;

/// A path and what was measured of it.
struct Side {
    name: &'static str,
    path: Arc<Path>,
    /// Messages a second, where each device sends as soon as its last message is settled.
    capacity: f64,
    rounds: Vec<Round>,
    cpu: Duration,
}

impl Side {
    async fn new(name: &'static str, path: Path, devices: usize) -> Result<Self> {
        // The first messages attach devices.
        path.send_all(devices, 1).await?;
        let (sent, usage) = metered(path.send_all(devices, TRIAL)).await;
        sent?;
        Ok(Self {
            name,
            path: Arc::new(path),
            capacity: (devices * TRIAL) as f64 / usage.wall.as_secs_f64(),
            rounds: Vec::new(),
            cpu: Duration::ZERO,
        })
    }

    async fn round(&mut self, load: Load) -> Result<()> {
        let path = self.path.clone();
        let send = move |device, number| {
            let path = path.clone();
            async move { path.send(device, number).await }
        };
        let (round, usage) = metered(load.run(send)).await;
        self.rounds.push(round?);
        self.cpu += usage.cpu;
        Ok(())
    }

    /// The latencies of all rounds.
    fn latencies(&self) -> Result<Histogram<u64>> {
        let mut all = histogram()?;
        for round in &self.rounds {
            all.add(&round.latencies)?;
        }
        Ok(all)
    }

    fn row(&self) -> Result<Fields> {
        let all = self.latencies()?;
        let us = |nanos: u64| nanos as f64 / 1e3;
        let refused: u64 = self.rounds.iter().map(|round| round.refused).sum();
        Ok(Fields::new()
            .with("path", self.name)
            .with("messages", all.len())
            .with("refused", refused)
            .with("p50_us", us(all.value_at_quantile(0.5)))
            .with("p90_us", us(all.value_at_quantile(0.9)))
            .with("p99_us", us(all.value_at_quantile(0.99)))
            .with("p999_us", us(all.value_at_quantile(0.999)))
            .with("max_us", us(all.max()))
            .with(
                "cpu_us_per_message",
                self.cpu.as_secs_f64() * 1e6 / all.len().max(1) as f64,
            )
            .with("capacity_per_second", self.capacity))
    }
}

/// What the gateway adds at a quantile: the median over pairs of rounds, in milliseconds.
fn added_ms(bare: &Side, gateway: &Side, quantile: f64) -> f64 {
    let at = |round: &Round| round.latencies.value_at_quantile(quantile) as f64 / 1e6;
    let pairs = bare.rounds.iter().zip(&gateway.rounds);
    let mut added: Vec<f64> = pairs.map(|(bare, own)| at(own) - at(bare)).collect();
    added.sort_by(f64::total_cmp);
    added.get(added.len() / 2).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? {
        return Ok(());
    }
    let options = Options::parse();
    let devices = options.devices;
    ensure!(devices > 0, "nobody sends");
    let setup = HubSetup {
        latency_ms: options.latency_ms,
        ..HubSetup::default()
    };
    let hub = HubProcess::start(&setup).await?;
    let raw = Raw::open(&hub.access, 0..devices, Keys::Policy, Writes::Coalesced).await?;
    let credentials = Keys::Policy.credentials(&hub.access)?;
    let embedded = Embedded::start(hub.access.amqp(), credentials, devices, OnlySpeaking)?;
    let mut bare = Side::new("bare client", Path::Bare(raw), devices).await?;
    let ids: Result<_, _> = (0..devices)
        .map(|n| DeviceId::new(device_name(n)))
        .collect();
    let path = Path::Gateway(embedded, ids?);
    let mut gateway = Side::new("embedded gateway", path, devices).await?;

    let slower = bare.capacity.min(gateway.capacity);
    let per_second = options.per_second.unwrap_or(slower * options.load);
    ensure!(per_second > 0.0, "nothing is sent");
    let load = Load {
        devices,
        per_second,
        lasts: options.round,
    };
    for _ in 0..options.rounds {
        bare.round(load).await?;
        gateway.round(load).await?;
    }
    let conditions = Fields::new()
        .with("devices", devices)
        .with("latency_ms", options.latency_ms)
        .with("rounds", options.rounds)
        .with("round_seconds", options.round.as_secs_f64());
    let results = Fields::new()
        .with("per_second", per_second)
        .with("added_p50_ms", added_ms(&bare, &gateway, 0.5))
        .with("added_p99_ms", added_ms(&bare, &gateway, 0.99));
    Report::new(env!("CARGO_BIN_NAME"), conditions)
        .with_row(bare.row()?)
        .with_row(gateway.row()?)
        .with_results(results)
        .print(options.json);
    Ok(())
}
