//! Measures the CPU per settled message of the embedded path, beside the AMQP client alone.
//!
//! The hub runs in a process of its own. The two take turns on it in this one, round by round, so
//! that whatever else the machine does meets both.

#![expect(
    clippy::print_stdout,
    reason = "a program that prints what it measured"
)]

use std::time::Duration;

use anyhow::{Result, ensure};
use benches::hub::{HubProcess, be_the_hub_if_asked};
use benches::raw::Raw;
use benches::{cpu, embedded};
use clap::Parser;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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
    let hub = HubProcess::start(Duration::ZERO).await?;

    let raw = Raw::open(hub.address, &hub.ca_pem, &hub.policy, devices).await?;
    let (gateway, ingress) = embedded::gateway(hub.address, &hub.ca_pem, &hub.policy, devices)?;
    // The first message attaches the device.
    ensure!(embedded::send(&ingress, devices, 1, "attach").await? == devices as u64);
    ensure!(raw.send(1, "attach").await? == devices as u64);

    let total = (devices * messages) as u64;
    let (mut raw_cost, mut embedded_cost) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let round = format!("round-{round}");
        let (cpu_before, started) = (cpu(), Instant::now());
        ensure!(
            raw.send(messages, &round).await? == total,
            "the raw client lost messages"
        );
        raw_cost.push((cpu() - cpu_before, started.elapsed()));
        let (cpu_before, started) = (cpu(), Instant::now());
        let accepted = embedded::send(&ingress, devices, messages, &round).await?;
        embedded_cost.push((cpu() - cpu_before, started.elapsed()));
        ensure!(accepted == total, "the hub accepted {accepted} of {total}");
    }
    let (raw_us, raw_rate) = median(&mut raw_cost, total);
    let (embedded_us, embedded_rate) = median(&mut embedded_cost, total);
    let ratio = embedded_us / raw_us;
    if options.json {
        println!(
            "{}",
            json!({
                "devices": devices, "messages_per_round": total, "rounds": options.rounds,
                "raw_cpu_us_per_message": raw_us, "raw_messages_per_second": raw_rate,
                "embedded_cpu_us_per_message": embedded_us,
                "embedded_messages_per_second": embedded_rate, "ratio": ratio,
            })
        );
    } else {
        println!(
            "{devices} devices, {total} messages a round, median of {}",
            options.rounds
        );
        println!("                 CPU a message   messages a second");
        println!("raw client       {raw_us:>10.2} us   {raw_rate:>17.0}");
        println!("embedded         {embedded_us:>10.2} us   {embedded_rate:>17.0}");
        println!("ratio            {ratio:>10.2}");
    }
    drop(raw);
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    gateway.run(shutdown).await?;
    Ok(())
}

/// The median by CPU: microseconds a message, and messages a second.
fn median(rounds: &mut [(Duration, Duration)], messages: u64) -> (f64, f64) {
    rounds.sort();
    let (cpu, wall) = rounds[rounds.len() / 2];
    let messages = messages as f64;
    (
        cpu.as_secs_f64() * 1e6 / messages,
        messages / wall.as_secs_f64(),
    )
}
