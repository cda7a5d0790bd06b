//! Measures what a settled message costs over MQTT: this project's client beside `rumqttc`'s, in the
//! same run, against a broker that only acknowledges and against Mosquitto where it is installed.

#[path = "../../../../adapters/upstream-mqtt/tests/common/broker.rs"]
mod broker;
mod sink;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use benches::process::{Usage, metered, rest};
use benches::report::{Fields, Report};
use broker::Mosquitto;
use bytes::Bytes;
use cap::Cap;
use clap::Parser;
use gateway_upstream_mqtt::internal::MqttClient;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use sink::{Sink, be_the_sink_if_asked};
use tokio::task::JoinSet;

/// The gateway program's own, counted.
#[global_allocator]
static ALLOCATOR: Cap<mimalloc::MiMalloc> = Cap::new(mimalloc::MiMalloc, usize::MAX);

const TOPIC: &str = "devices/device-0000001/telemetry";
/// 64 bytes: with the topic, less than 128, as the sink likes it.
const BODY: [u8; 64] = [b'x'; 64];

/// Measures settled messages a second, CPU a message and memory a connection: ours and `rumqttc`.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Connections.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Messages in flight on each; each has a task that waits for its verdict.
    #[arg(long, default_value_t = 100)]
    window: u16,
    /// Messages of each connection in a round.
    #[arg(long, default_value_t = 50_000)]
    messages: usize,
    /// Rounds, in which the clients take turns; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections that memory is measured with.
    #[arg(long, default_value_t = 400)]
    idle: usize,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_sink_if_asked().await? {
        return Ok(());
    }
    let options = Options::parse();
    let conditions = Fields::new()
        .with("connections", options.connections)
        .with("window", options.window)
        .with("messages", options.messages)
        .with("rounds", options.rounds)
        .with("idle", options.idle)
        .with("body", BODY.len());
    let mut report = Report::new("mqtt_publish", conditions);
    let sink = Sink::start().await?;
    let mosquitto = Mosquitto::start().await;
    let brokers = [
        ("sink", Some(sink.port)),
        ("mosquitto", mosquitto.as_ref().map(Mosquitto::port)),
    ];
    let mut ratio = None;
    for (broker, port) in brokers {
        let Some(port) = port else { continue };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            ours.push(publish(port, &options).await?);
            theirs.push(publish_with_rumqttc(port, &options).await?);
        }
        let total = (options.connections * options.messages) as u64;
        let (ours, theirs) = (median(ours), median(theirs));
        for (client, usage) in [("ours", ours), ("rumqttc", theirs)] {
            report = report.with_row(
                Fields::new()
                    .with("broker", broker)
                    .with("client", client)
                    .with("cpu_us_a_message", usage.cpu_us_each(total))
                    .with("messages_a_second", total as f64 / usage.wall.as_secs_f64()),
            );
        }
        ratio.get_or_insert(theirs.cpu_us_each(total) / ours.cpu_us_each(total));
    }
    let (ours, theirs) = memory(sink.port, options.idle).await?;
    let results = Fields::new()
        .with(
            "rumqttc_cpu_to_ours",
            ratio.context("nothing was measured")?,
        )
        .with("bytes_a_connection", ours)
        .with("bytes_a_connection_rumqttc", theirs);
    report.with_results(results).print(options.json);
    Ok(())
}

/// The round in the middle, by CPU.
fn median(mut rounds: Vec<Usage>) -> Usage {
    rounds.sort_by_key(|usage| usage.cpu);
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

async fn publish(port: u16, options: &Options) -> Result<Usage> {
    let mut clients = Vec::new();
    for number in 0..options.connections {
        let id = format!("ours-{number}");
        clients.push(MqttClient::connect(port, &id, options.window).await?);
    }
    let window = usize::from(options.window);
    let work = async {
        let mut tasks = JoinSet::new();
        for client in &clients {
            for worker in 0..window {
                let client = client.clone();
                let share = (options.messages + window - 1 - worker) / window;
                tasks.spawn(async move {
                    for _ in 0..share {
                        client.publish(TOPIC, Bytes::from_static(&BODY)).await?;
                    }
                    Ok::<_, anyhow::Error>(share)
                });
            }
        }
        let mut settled = 0;
        while let Some(task) = tasks.join_next().await {
            settled += task??;
        }
        Ok::<_, anyhow::Error>(settled)
    };
    let (settled, usage) = metered(work).await;
    ensure!(settled? == options.connections * options.messages);
    Ok(usage)
}

fn rumqttc(port: u16, id: String, window: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id, "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(60));
    options.set_inflight(window);
    AsyncClient::new(options, usize::from(window))
}

/// Polls until the broker has let it in.
async fn opened(events: &mut EventLoop) -> Result<()> {
    loop {
        if let Event::Incoming(Packet::ConnAck(_)) = events.poll().await? {
            return Ok(());
        }
    }
}

/// Polls until so many messages are acknowledged.
async fn acknowledged(events: &mut EventLoop, messages: usize) -> Result<()> {
    let mut left = messages;
    while left > 0 {
        if let Event::Incoming(Packet::PubAck(_)) = events.poll().await? {
            left -= 1;
        }
    }
    Ok(())
}

/// Counts acknowledgements; whose they are, it does not tell.
async fn publish_with_rumqttc(port: u16, options: &Options) -> Result<Usage> {
    let mut clients = Vec::new();
    for number in 0..options.connections {
        let (client, mut events) = rumqttc(port, format!("theirs-{number}"), options.window);
        opened(&mut events).await?;
        clients.push((client, events));
    }
    let messages = options.messages;
    let work = async {
        let mut tasks = JoinSet::new();
        for (client, mut events) in clients {
            tasks.spawn(async move { acknowledged(&mut events, messages).await });
            tasks.spawn(async move {
                for _ in 0..messages {
                    client
                        .publish_bytes(TOPIC, QoS::AtLeastOnce, false, Bytes::from_static(&BODY))
                        .await?;
                }
                Ok(())
            });
        }
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok::<_, anyhow::Error>(())
    };
    let (settled, usage) = metered(work).await;
    settled?;
    Ok(usage)
}

/// Bytes asked of the allocator for each connection that has sent one message and is at rest.
async fn memory(port: u16, connections: usize) -> Result<(usize, usize)> {
    rest().await;
    let before = ALLOCATOR.allocated();
    let mut ours = Vec::with_capacity(connections);
    for number in 0..connections {
        let client = MqttClient::connect(port, &format!("idle-{number}"), 100).await?;
        client.publish(TOPIC, Bytes::from_static(&BODY)).await?;
        ours.push(client);
    }
    let each = ALLOCATOR.allocated().saturating_sub(before) / connections.max(1);
    drop(ours);
    rest().await;

    let before = ALLOCATOR.allocated();
    let mut theirs = JoinSet::new();
    for number in 0..connections {
        let (client, mut events) = rumqttc(port, format!("idle-{number}"), 100);
        opened(&mut events).await?;
        let payload = Bytes::from_static(&BODY);
        client
            .publish_bytes(TOPIC, QoS::AtLeastOnce, false, payload)
            .await?;
        acknowledged(&mut events, 1).await?;
        theirs.spawn(async move {
            // It ends with its task only.
            let _client = client;
            loop {
                if let Err(error) = events.poll().await {
                    return error;
                }
            }
        });
    }
    if let Some(ended) = theirs.try_join_next() {
        bail!("a connection was lost: {}", ended?);
    }
    let each_of_theirs = ALLOCATOR.allocated().saturating_sub(before) / connections.max(1);
    Ok((each, each_of_theirs))
}
