//! Measures what one bad device among 995 on a connection costs the others: the latency of their
//! messages with and without it.
//!
//! The hub runs in a process of its own. For each way of being bad, rounds with and without it take
//! turns in this one process over the same connection, so that whatever else the machine does meets
//! both; the rounds without it, among themselves, show how much that is.

mod bad;
mod neighbours;

use std::time::Duration;

use anyhow::{Result, ensure};
use benches::embedded::Embedded;
use benches::hub::{HubProcess, HubSetup, be_the_hub_if_asked};
use benches::paced::{Load, Round, histogram};
use benches::process::resident;
use benches::report::{Fields, Report};
use clap::{Parser, ValueEnum};

use bad::{Badness, Conduct, SlowDevices};
use hdrhistogram::Histogram;
use neighbours::Neighbours;

/// A message is many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the others' latency with and without one bad device on their connection.
#[derive(Debug, Parser)]
struct Options {
    /// Devices on the connection, the bad ones with them.
    #[arg(long, default_value_t = 995)]
    devices: usize,
    /// Messages a second of all the others together.
    #[arg(long, default_value_t = 2000)]
    per_second: u32,
    /// Rounds with, and as many without, for each way of being bad: many and short, since whatever
    /// else the machine does meets only some of them.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// How long a round lasts.
    #[arg(long, value_parser = benches::duration, default_value = "1s")]
    round: Duration,
    /// Commands a second that a flooded device gets.
    #[arg(long, default_value_t = 1000)]
    flood: u32,
    /// The ways of being bad; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    modes: Vec<Conduct>,
    /// The way to the hub and back. With none, whatever else the machine does is most of a latency.
    #[arg(long, default_value_t = 50)]
    latency_ms: u64,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// The rounds of one kind, each with its latencies.
struct Rounds {
    all: Histogram<u64>,
    p99_us: Vec<f64>,
    refused: u64,
    cpu: Duration,
}

impl Rounds {
    fn new() -> Result<Self> {
        Ok(Self {
            all: histogram()?,
            p99_us: Vec::new(),
            refused: 0,
            cpu: Duration::ZERO,
        })
    }

    fn add(&mut self, (round, cpu): (Round, Duration)) -> Result<()> {
        self.all.add(&round.latencies)?;
        self.p99_us.push(quantile_us(&round.latencies, 0.99));
        self.p99_us.sort_by(f64::total_cmp);
        self.refused += round.refused;
        self.cpu += cpu;
        Ok(())
    }

    fn quantile_us(&self, quantile: f64) -> f64 {
        quantile_us(&self.all, quantile)
    }

    /// The p99 that a quarter of the rounds keep within. What a round adds to another's is the
    /// machine's: a bad device is there in all of its rounds.
    fn lower_p99_us(&self) -> f64 {
        self.quartile(1)
    }

    /// The p99 that three quarters of them keep within: there a device shows that is bad only now
    /// and then, and so does the machine.
    fn upper_p99_us(&self) -> f64 {
        self.quartile(3)
    }

    fn quartile(&self, quarters: usize) -> f64 {
        self.p99_us[(self.p99_us.len() - 1) * quarters / 4]
    }

    fn cpu_us_per_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.all.len().max(1) as f64
    }
}

fn quantile_us(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}

fn row(conduct: Conduct, without: &Rounds, with: &Rounds, misdeeds: u64) -> Fields {
    let (lower_without, lower_with) = (without.lower_p99_us(), with.lower_p99_us());
    let (upper_without, upper_with) = (without.upper_p99_us(), with.upper_p99_us());
    Fields::new()
        .with("bad_device", conduct.name())
        .with("p50_us_without", without.quantile_us(0.5))
        .with("p50_us_with", with.quantile_us(0.5))
        .with("p99_us_without", lower_without)
        .with("p99_us_with", lower_with)
        .with("p99_ratio", lower_with / lower_without)
        .with("upper_p99_us_without", upper_without)
        .with("upper_p99_us_with", upper_with)
        .with("upper_p99_ratio", upper_with / upper_without)
        .with("p999_us_without", without.quantile_us(0.999))
        .with("p999_us_with", with.quantile_us(0.999))
        .with("cpu_us_without", without.cpu_us_per_message())
        .with("cpu_us_with", with.cpu_us_per_message())
        .with("misdeeds", misdeeds)
        .with("refused", without.refused + with.refused)
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? {
        return Ok(());
    }
    let mut options = Options::parse();
    if options.modes.is_empty() {
        options.modes = Conduct::value_variants().to_vec();
    }
    // Each way of being bad has a device of its own: what the gateway remembers of one does not
    // protect the others from the next.
    let others = options.devices.saturating_sub(options.modes.len());
    ensure!(
        others > 0 && options.rounds > 0 && options.per_second > 0,
        "there is nothing to measure"
    );
    let setup = HubSetup {
        latency_ms: options.latency_ms,
        ..HubSetup::default()
    };
    let mut hub = HubProcess::start(&setup).await?;
    let slow = SlowDevices::default();
    let gateway = Embedded::start(
        hub.access.amqp(),
        bad::credentials(&hub.access)?,
        options.devices,
        slow.clone(),
    )?;
    let load = Load {
        devices: others,
        per_second: f64::from(options.per_second),
        lasts: options.round,
    };
    let neighbours = Neighbours::attach(gateway.ingress.clone(), load).await?;

    let conditions = Fields::new()
        .with("devices", options.devices)
        .with("messages_per_second", options.per_second)
        .with("rounds", options.rounds)
        .with("round_seconds", options.round.as_secs_f64())
        .with("flood_per_second", options.flood)
        .with("latency_ms", options.latency_ms)
        .with("keys", "device");
    let mut report = Report::new(env!("CARGO_BIN_NAME"), conditions);
    for conduct in options.modes.iter().copied() {
        let mut bad = Badness::new(conduct, &gateway.ingress, options.flood, &slow)?;
        bad.attach().await?;
        // The first round warms up.
        neighbours.round().await?;
        let (mut without, mut with) = (Rounds::new()?, Rounds::new()?);
        for round in 0..options.rounds {
            for is_bad in [round % 2 == 1, round % 2 == 0] {
                match is_bad {
                    false => without.add(neighbours.round().await?)?,
                    true => {
                        bad.begin(&mut hub).await?;
                        with.add(neighbours.round().await?)?;
                        bad.end(&mut hub).await?;
                    }
                }
            }
        }
        report = report.with_row(row(conduct, &without, &with, bad.misdeeds()));
    }
    let counts = hub.counts().await?;
    let results = Fields::new()
        .with("connections", counts.connections)
        .with("connections_opened", counts.connections_opened)
        .with("attached", counts.attached)
        .with("resident_mib", resident()? as f64 / f64::from(1 << 20));
    report.with_results(results).print(options.json);
    gateway.stop().await
}
