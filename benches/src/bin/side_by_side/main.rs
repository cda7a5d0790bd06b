//! Measures the gateway beside its peers: other clients that carry many devices to the hub.
//!
//! The hub and each contender have a process of their own. All that are compared have their
//! devices attached at once and send in turn, round by round, so that whatever else the machine
//! does meets them all; what each accepted message is said to be is checked in the hub's books.

mod client;
mod contender;
mod figures;
mod plot;
mod role;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::duration;
use benches::hub::{HubProcess, HubSetup, be_the_hub_if_asked};
use benches::process::raise_file_limit;
use benches::report::{Fields, Report};
use clap::Parser;
use client::{Client, Order};
use contender::Contender;
use figures::{Opened, Round, Row, rows_of};
use role::be_a_contender_if_asked;

/// The gateway program's own; the AMQP client alone is given it, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures throughput, CPU, memory and connections of the gateway beside its peers.
#[derive(Debug, Parser)]
struct Options {
    /// Numbers of devices.
    #[arg(long, value_delimiter = ',', default_value = "100,1000,5000,20000")]
    devices: Vec<usize>,
    /// Messages of each device in flight.
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    in_flight: Vec<usize>,
    /// Rounds of each contender; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each sends in a round.
    #[arg(long, value_parser = duration, default_value = "2s")]
    round: Duration,
    /// Who takes part; everybody unless it is given.
    #[arg(long, value_enum, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Folder in which the peers are installed.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/peers"))]
    peers: PathBuf,
    /// File that a plot is drawn to, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measures nothing and takes the figures that an earlier run printed with `--json`.
    #[arg(long, value_name = "FILE", requires = "plot")]
    from: Option<PathBuf>,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? || be_a_contender_if_asked().await? {
        return Ok(());
    }
    let mut options = Options::parse();
    if options.contenders.is_empty() {
        options.contenders = Contender::all();
    }
    if let (Some(report), Some(file)) = (&options.from, &options.plot) {
        return plot::draw(&rows_of(&std::fs::read_to_string(report)?)?, file);
    }
    raise_file_limit()?;
    let mut report = Report::new(env!("CARGO_BIN_NAME"), conditions(&options));
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for devices in &options.devices {
        let (more, failed) = compare(*devices, &options).await?;
        rows.extend(more);
        failures.extend(failed);
    }
    if let Some(file) = &options.plot {
        plot::draw(&rows, file)?;
    }
    for row in &rows {
        report = report.with_row(row.fields());
    }
    report
        .with_results(Fields::new().with("failures", failures))
        .print(options.json);
    Ok(())
}

fn conditions(options: &Options) -> Fields {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Fields::new()
        .with("devices", options.devices.clone())
        .with("in_flight", options.in_flight.clone())
        .with("rounds", options.rounds)
        .with("round_ms", options.round.as_millis() as u64)
        .with("body_bytes", benches::BODY.len())
        .with("load_before", load)
}

/// A contender with its devices attached, and what it did so far.
struct Standing {
    client: Client,
    opened: Opened,
    rounds: BTreeMap<usize, Vec<Round>>,
}

/// Compares all with so many devices: what was measured, and who failed and why.
async fn compare(devices: usize, options: &Options) -> Result<(Vec<Row>, Vec<String>)> {
    let mut hub = HubProcess::start(&HubSetup::default()).await?;
    let mut standing = BTreeMap::new();
    let mut failures = Vec::new();
    let mut failed = |contender: Contender, error: anyhow::Error| {
        failures.push(format!("{}, {devices}: {error:#}", contender.name()));
    };
    for (n, contender) in options.contenders.iter().copied().enumerate() {
        if devices > contender.most_devices() {
            continue;
        }
        match open(&mut hub, contender, n * devices..(n + 1) * devices, options).await {
            Ok(opened) => drop(standing.insert(contender, opened)),
            Err(error) => failed(contender, error),
        }
    }
    for in_flight in options.in_flight.iter().copied() {
        // The first round only warms up.
        for number in 0..=options.rounds {
            for contender in standing.keys().copied().collect::<Vec<_>>() {
                let Some(own) = standing.get_mut(&contender) else {
                    continue;
                };
                let order = Order::Round {
                    name: format!("{in_flight}-{number}"),
                    milliseconds: options.round.as_millis() as u64,
                    in_flight,
                };
                match round(&mut hub, &mut own.client, &order).await {
                    Ok(_) if number == 0 => {}
                    Ok(round) => own.rounds.entry(in_flight).or_default().push(round),
                    Err(error) => {
                        failed(contender, error);
                        standing.remove(&contender);
                    }
                }
            }
        }
    }
    let gateway = standing.get(&Contender::Gateway);
    let rows = options.in_flight.iter().flat_map(|in_flight| {
        standing.iter().map(move |(contender, own)| {
            let rounds_of = |who: &Standing| who.rounds.get(in_flight).cloned().unwrap_or_default();
            let beside = gateway.map(rounds_of);
            let with = (devices, *in_flight);
            Row::new(
                *contender,
                with,
                own.opened,
                &rounds_of(own),
                beside.as_deref(),
            )
        })
    });
    Ok((rows.collect(), failures))
}

async fn open(
    hub: &mut HubProcess,
    contender: Contender,
    devices: std::ops::Range<usize>,
    options: &Options,
) -> Result<Standing> {
    let mut client = Client::start(contender.command(&options.peers)?)?;
    let before = client.resident().await?;
    let connections_before = hub.counts().await?.connections_opened;
    let count = devices.len();
    let order = Order::Open {
        hub: hub.access.clone(),
        first: devices.start,
        devices: count,
        in_flight: options.in_flight.iter().copied().max().unwrap_or(1),
    };
    let opening = round(hub, &mut client, &order).await.context("opening")?;
    ensure!(opening.accepted == count as u64, "not every device spoke");
    let resident = client.resident().await?.saturating_sub(before);
    Ok(Standing {
        client,
        opened: Opened {
            connections: hub.counts().await?.connections_opened - connections_before,
            seconds: opening.usage.wall.as_secs_f64(),
            kib_a_device: resident as f64 / 1024.0 / count.max(1) as f64,
        },
        rounds: BTreeMap::new(),
    })
}

/// Gives an order, and checks in the hub's books what it is said to have come to.
async fn round(hub: &mut HubProcess, client: &mut Client, order: &Order) -> Result<Round> {
    let before = hub.counts().await?.messages;
    let (answer, usage) = client.metered(order).await?;
    let accepted = hub.counts().await?.messages - before;
    let said = answer.accepted;
    ensure!(accepted == said, "it says {said}, the hub {accepted}");
    Ok(Round { accepted, usage })
}
