//! Measures the CPU per settled message of the embedded path, beside the AMQP client alone.
//!
//! The hub runs in a process of its own. The two take turns on it in this one, round by round, so
//! that whatever else the machine does meets both.

use anyhow::{Result, ensure};
use benches::embedded::{Embedded, Keys, OnlySpeaking, send};
use benches::hub::{HubProcess, HubSetup, be_the_hub_if_asked};
use benches::process::{Usage, metered};
use benches::raw::{Raw, Writes};
use benches::report::{Fields, Report};
use clap::Parser;

/// A message is many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures CPU per settled message: raw client, embedded gateway, and their ratio.
#[derive(Debug, Parser)]
struct Options {
    /// Devices, each with one message in flight.
    #[arg(long, default_value_t = 1000)]
    devices: usize,
    /// Messages a device in each round.
    #[arg(long, default_value_t = 100)]
    messages: usize,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? {
        return Ok(());
    }
    let options = Options::parse();
    let (devices, messages) = (options.devices, options.messages);
    let hub = HubProcess::start(&HubSetup::default()).await?;

    let raw = Raw::open(&hub.access, 0..devices, Keys::Policy, Writes::Coalesced).await?;
    let credentials = Keys::Policy.credentials(&hub.access)?;
    let gateway = Embedded::start(hub.access.amqp(), credentials, devices, OnlySpeaking)?;
    let through_gateway = async |count: usize, round: &str| {
        send(&gateway.ingress, 0..devices, devices, count, round).await
    };
    // The first message attaches the device.
    through_gateway(1, "attach").await?;
    ensure!(raw.send(1, "attach").await? == devices as u64);

    let total = (devices * messages) as u64;
    let (mut raw_usage, mut embedded_usage) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let round = format!("round-{round}");
        let (accepted, usage) = metered(raw.send(messages, &round)).await;
        ensure!(accepted? == total, "the raw client lost messages");
        raw_usage.push(usage);
        let (again, usage) = metered(through_gateway(messages, &round)).await;
        ensure!(again? == 0, "the gateway gave messages back");
        embedded_usage.push(usage);
    }
    let conditions = Fields::new()
        .with("devices", devices)
        .with("messages_per_round", total)
        .with("rounds", options.rounds);
    let (raw_usage, embedded_usage) = (median(raw_usage), median(embedded_usage));
    let row = |path: &'static str, usage: Usage| {
        Fields::new()
            .with("path", path)
            .with("cpu_us_per_message", usage.cpu_us_each(total))
            .with(
                "messages_per_second",
                total as f64 / usage.wall.as_secs_f64(),
            )
    };
    let ratio = embedded_usage.cpu.as_secs_f64() / raw_usage.cpu.as_secs_f64();
    Report::new(env!("CARGO_BIN_NAME"), conditions)
        .with_row(row("raw client", raw_usage))
        .with_row(row("embedded gateway", embedded_usage))
        .with_results(Fields::new().with("ratio", ratio))
        .print(options.json);
    drop(raw);
    gateway.stop().await
}

/// The round that is the median by CPU.
fn median(mut rounds: Vec<Usage>) -> Usage {
    rounds.sort_by_key(|round| round.cpu);
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}
