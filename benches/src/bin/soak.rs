//! Sends very many messages through a gateway whose connections are cut again and again, and
//! compares them with the hub's own books; watches memory and CPU meanwhile.
//!
//! The hub runs in a process of its own.

use std::time::Duration;

use anyhow::{Result, ensure};
use benches::embedded::{Embedded, Keys, OnlySpeaking, deliver};
use benches::hub::tally::Books;
use benches::hub::{Command, HubProcess, HubSetup, be_the_hub_if_asked};
use benches::process::{metered, resident};
use benches::report::{Fields, Report};
use benches::{BODY, device_name};
use clap::Parser;
use gateway_core::{DeviceId, Ingress, MessageId, Uplink};
use hub_simulator::Fault;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep_until};

/// A message is many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Measures a long run with reconnects: what is lost, what is sent twice, what memory does.
#[derive(Debug, Parser)]
struct Options {
    /// Messages in all.
    #[arg(long, default_value_t = 10_000_000)]
    messages: u64,
    /// Devices, each with one message in flight.
    #[arg(long, default_value_t = 1000)]
    devices: u64,
    /// How often every connection is cut.
    #[arg(long, value_parser = benches::duration, default_value = "60s")]
    reconnect_every: Duration,
    /// Messages a second, of all devices; 0 is as fast as they go. By default a run has five cuts.
    #[arg(long, default_value_t = 30_000)]
    per_second: u64,
    /// The way to the hub and back.
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// How devices prove who they are.
    #[arg(long, value_enum, default_value_t = Keys::Device)]
    keys: Keys,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Sends messages 0, 1, 2, .. of a device, each until the hub has it. Says how often one had to be
/// sent again.
async fn speak(
    ingress: Ingress,
    device: DeviceId,
    messages: u64,
    pause: Option<Duration>,
) -> Result<u64> {
    let mut again = 0;
    let mut due = Instant::now();
    for number in 0..messages {
        if let Some(pause) = pause {
            sleep_until(due).await;
            due += pause;
        }
        let id = MessageId::new(number.to_string())?;
        let uplink = Uplink::new(device.clone(), id, &BODY[..]);
        again += deliver(&ingress, &uplink).await?;
    }
    Ok(again)
}

/// What was seen during the run.
#[derive(Debug, Default)]
struct Seen {
    again: u64,
    cuts: u64,
    memory: Vec<u64>,
}

/// Runs until all devices are done, cutting connections and looking at memory.
async fn run(options: &Options, hub: &mut HubProcess, ingress: &Ingress) -> Result<Seen> {
    let (devices, messages) = (options.devices, options.messages);
    let pause = (options.per_second > 0)
        .then(|| Duration::from_secs_f64(devices as f64 / options.per_second as f64));
    let mut speaking = JoinSet::new();
    for n in 0..devices {
        let device = DeviceId::new(device_name(n as usize))?;
        let own = messages / devices + u64::from(n < messages % devices);
        speaking.spawn(speak(ingress.clone(), device, own, pause));
    }
    let every = |period| interval_at(Instant::now() + period, period);
    let (mut cuts, mut looks) = (every(options.reconnect_every), every(LOOK));
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            device = speaking.join_next() => match device {
                Some(again) => seen.again += again??,
                None => return Ok(seen),
            },
            _ = cuts.tick() => {
                hub.make(Fault::Cut { connection: None }).await?;
                seen.cuts += 1;
            }
            _ = looks.tick() => seen.memory.push(resident()?),
        }
    }
}

fn mean_mib(memory: &[u64]) -> Option<f64> {
    let sum: u64 = memory.iter().sum();
    (!memory.is_empty()).then(|| sum as f64 / memory.len() as f64 / f64::from(1 << 20))
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? {
        return Ok(());
    }
    let options = Options::parse();
    ensure!(options.devices > 0, "nobody sends");
    ensure!(!options.reconnect_every.is_zero(), "cut without end");
    let setup = HubSetup {
        latency_ms: options.latency_ms,
        tally: true,
        ..HubSetup::default()
    };
    let mut hub = HubProcess::start(&setup).await?;
    let gateway = Embedded::start(
        hub.access.amqp(),
        options.keys.credentials(&hub.access)?,
        options.devices as usize,
        OnlySpeaking,
    )?;
    let (seen, usage) = metered(run(&options, &mut hub, &gateway.ingress)).await;
    let seen = seen?;
    let books: Books = hub.ask(&Command::Tally).await?;
    let opened = hub.counts().await?.connections_opened;
    gateway.stop().await?;

    let lost = options.messages.saturating_sub(books.different);
    let quarter = seen.memory.len().div_ceil(4);
    let first = mean_mib(&seen.memory[..quarter]);
    let last = mean_mib(&seen.memory[seen.memory.len() - quarter..]);
    let conditions = Fields::new()
        .with("messages", options.messages)
        .with("devices", options.devices)
        .with(
            "reconnect_every_seconds",
            options.reconnect_every.as_secs_f64(),
        )
        .with("per_second", options.per_second)
        .with("latency_ms", options.latency_ms)
        .with("keys", options.keys.name());
    let results = Fields::new()
        .with("seconds", usage.wall.as_secs_f64())
        .with(
            "messages_per_second",
            options.messages as f64 / usage.wall.as_secs_f64(),
        )
        .with("cpu_us_per_message", usage.cpu_us_each(options.messages))
        .with("lost", lost)
        .with("duplicates", books.duplicates)
        .with("strange", books.strange)
        .with("sent_again_by_devices", seen.again)
        .with("cuts", seen.cuts)
        .with("connections_opened", opened)
        .with("resident_mib_first_quarter", first)
        .with("resident_mib_last_quarter", last)
        .with(
            "resident_ratio",
            first.zip(last).map(|(first, last)| last / first),
        );
    Report::new(env!("CARGO_BIN_NAME"), conditions)
        .with_results(results)
        .print(options.json);
    ensure!(
        lost == 0 && books.strange == 0,
        "{books:?} of {}",
        options.messages
    );
    Ok(())
}
