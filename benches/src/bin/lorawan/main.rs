//! Measures what a LoRaWAN uplink costs: by the embedding API, and from a concentrator's datagram
//! through the network server inside; how long that takes; and what a device costs in memory.
//!
//! The hub runs in a process of its own, the concentrators in a thread whose CPU is not counted.

mod air;
mod embedded;
mod memory;
mod server;
mod settled;

use anyhow::{Context, Result, ensure};
use benches::embedded::{Embedded, Keys, OnlySpeaking, send};
use benches::hub::{HubProcess, HubSetup, be_the_hub_if_asked};
use benches::lorawan_device as device;
use benches::process::{Usage, metered};
use benches::report::{Fields, Report};
use cap::Cap;
use clap::Parser;
use gateway_downstream_lorawan::embed::ListenPolicy;

use air::Round;
use embedded::Form;

/// The gateway program's own, counted.
#[global_allocator]
static ALLOCATOR: Cap<mimalloc::MiMalloc> = Cap::new(mimalloc::MiMalloc, usize::MAX);

/// Measures CPU a settled uplink, latency from the datagram on, and memory a device.
#[derive(Debug, Parser)]
struct Options {
    /// Devices.
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Uplinks a device in each round.
    #[arg(long, default_value_t = 100)]
    uplinks: usize,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Uplinks that are heard, and not settled yet, at most.
    #[arg(long, default_value_t = 8192)]
    in_flight: usize,
    /// Uplinks a second while latency is measured, and while devices are that speak rarely.
    #[arg(long, default_value_t = 1000)]
    per_second: u32,
    /// Devices that speak rarely: each listens to commands for its receive windows and then not.
    #[arg(long, default_value_t = 5000)]
    rare: usize,
    /// Devices that memory is measured with.
    #[arg(long, default_value_t = 20_000)]
    held: usize,
    /// Only the paths whose name has this in it, and no memory, as for a profiler.
    #[arg(long)]
    only: Option<String>,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

const CORE: &str = "core and AMQP alone";
const SERVER: &str = "server, JSON";

impl Options {
    fn wants(&self, path: &str) -> bool {
        self.only.as_ref().is_none_or(|only| path.contains(only))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? {
        return Ok(());
    }
    let options = Options::parse();
    let hub = HubProcess::start(&HubSetup::default()).await?;
    let conditions = Fields::new()
        .with("devices", options.devices)
        .with("uplinks_per_round", options.devices * options.uplinks)
        .with("rounds", options.rounds)
        .with("in_flight", options.in_flight)
        .with("per_second", options.per_second)
        .with("rare", options.rare)
        .with("held", options.held)
        .with("hold_ms", server::hold().as_millis() as u64)
        .with("payload", device::PAYLOAD.len());
    let mut report = Report::new(env!("CARGO_BIN_NAME"), conditions);
    let mut results = Fields::new();
    if options.wants(CORE) {
        report = report.with_row(core(&hub, &options).await?);
    }
    for form in [Form::Raw, Form::Json, Form::Cayenne, Form::JavaScript] {
        let name = format!("embedding, {}", form.name());
        if options.wants(&name) {
            report = report.with_row(embedding(&hub, &options, &name, form).await?);
        }
    }
    for (name, listen) in [
        ("rare, listens always", ListenPolicy::Always),
        ("rare, listens in windows", ListenPolicy::Window),
    ] {
        if options.wants(name) {
            report = report.with_row(rare(&hub, &options, name, listen).await?);
        }
    }
    if options.wants(SERVER) {
        let row;
        (row, results) = heard(&hub, &options).await?;
        report = report.with_row(row);
    }
    if options.only.is_none() {
        for (name, value) in memory::measure(&hub, options.held).await? {
            results = results.with(name, value);
        }
    }
    report.with_results(results).print(options.json);
    Ok(())
}

/// A row of what a path costs.
fn row(path: &str, mut rounds: Vec<Usage>, uplinks: usize) -> Result<Fields> {
    rounds.sort_by_key(|round| round.cpu);
    let round = rounds.get(rounds.len() / 2).context("no round")?;
    let cpu = round.cpu_us_each(uplinks as u64);
    Ok(Fields::new()
        .with("path", path)
        .with("cpu_us_an_uplink", cpu)
        .with("uplinks_a_second_a_core", 1e6 / cpu)
        .with(
            "uplinks_a_second",
            uplinks as f64 / round.wall.as_secs_f64(),
        ))
}

/// The same number of messages without anything of LoRaWAN.
async fn core(hub: &HubProcess, options: &Options) -> Result<Fields> {
    let &Options {
        devices, uplinks, ..
    } = options;
    let credentials = Keys::Policy.credentials(&hub.access)?;
    let gateway = Embedded::start(hub.access.amqp(), credentials, devices, OnlySpeaking)?;
    send(&gateway.ingress, 0..devices, devices, 1, "attach").await?;
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let round = format!("round-{round}");
        let sent = send(&gateway.ingress, 0..devices, devices, uplinks, &round);
        let (again, usage) = metered(sent).await;
        ensure!(again? == 0, "the gateway gave messages back");
        rounds.push(usage);
    }
    gateway.stop().await?;
    row(CORE, rounds, devices * uplinks)
}

async fn embedding(hub: &HubProcess, options: &Options, name: &str, form: Form) -> Result<Fields> {
    let &Options {
        devices, uplinks, ..
    } = options;
    let mut site = embedded::Site::start(&hub.access, devices, form, ListenPolicy::Window).await?;
    site.hand_in(1).await?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let (ended, usage) = metered(site.hand_in(uplinks)).await;
        ended?;
        rounds.push(usage);
    }
    site.stop().await?;
    row(name, rounds, devices * uplinks)
}

async fn rare(
    hub: &HubProcess,
    options: &Options,
    name: &str,
    listen: ListenPolicy,
) -> Result<Fields> {
    let mut site = embedded::Site::start(&hub.access, options.rare, Form::Json, listen).await?;
    // Attached, and listening if they listen always.
    site.hand_in_slowly(options.per_second, listen).await?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        let handed_in = site.hand_in_slowly(options.per_second, listen);
        let (ended, usage) = metered(handed_in).await;
        ended?;
        rounds.push(usage);
    }
    site.stop().await?;
    row(name, rounds, options.rare)
}

/// From a datagram to the hub's word.
async fn heard(hub: &HubProcess, options: &Options) -> Result<(Fields, Fields)> {
    let &Options {
        devices, uplinks, ..
    } = options;
    let folder = tempfile::tempdir()?;
    let config = server::config(devices, &folder.path().join("lorawan.redb"));
    let site = server::Site::start(&hub.access, config, options.in_flight).await?;
    let as_they_come = |uplinks| Round {
        uplinks,
        per_second: None,
    };
    site.hear(as_they_come(1)).await?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(site.hear(as_they_come(uplinks)).await?);
    }
    let mut latencies = site.latencies(5, options.per_second).await?;
    site.stop().await?;
    let results = Fields::new()
        .with(
            "datagram_to_settled_p50_ms",
            latencies.quantile_us(0.5) / 1e3,
        )
        .with(
            "datagram_to_settled_p99_ms",
            latencies.quantile_us(0.99) / 1e3,
        );
    Ok((row(SERVER, rounds, devices * uplinks)?, results))
}
