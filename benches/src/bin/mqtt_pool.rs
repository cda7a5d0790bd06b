//! Measures what a settled message costs when thousands of devices share few MQTT connections: the
//! pooled upstream beside `rumqttc` alone, which knows no devices, in the same run; against a broker
//! that only acknowledges and against Mosquitto where it is installed.

#[path = "../../../adapters/upstream-mqtt/tests/common/broker.rs"]
mod broker;
#[path = "mqtt_publish/sink.rs"]
mod sink;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use benches::process::{Usage, metered, resident, rest};
use benches::report::{Fields, Report};
use benches::{BODY, device_name};
use broker::Mosquitto;
use bytes::Bytes;
use cap::Cap;
use clap::Parser;
use gateway_core::{
    CloudCallback, CloudMessage, Credential, DesiredPatch, DeviceId, DeviceIdentity, Disposition,
    MessageId, MethodCall, MethodReply, SessionEnd, Uplink, Upstream,
};
use gateway_upstream_mqtt::{MqttEncoding, MqttPoolConfig, MqttPoolUpstream, MqttVersion};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use sink::{Sink, be_the_sink_if_asked};
use tokio::task::JoinSet;

/// The gateway program's own, counted.
#[global_allocator]
static ALLOCATOR: Cap<mimalloc::MiMalloc> = Cap::new(mimalloc::MiMalloc, usize::MAX);

/// Measures CPU a settled message and memory a device, beside `rumqttc` alone.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// Devices.
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// Connections that they share.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Messages of each device in a round, one in flight at a time.
    #[arg(long, default_value_t = 20)]
    messages: usize,
    /// Rounds, in which the two take turns; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages in flight on each connection.
    #[arg(long, default_value_t = 1000)]
    window: u16,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn total(&self) -> u64 {
        (self.devices * self.messages) as u64
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_sink_if_asked().await? {
        return Ok(());
    }
    let options = Options::parse();
    let conditions = Fields::new()
        .with("devices", options.devices)
        .with("connections", options.connections)
        .with("messages", options.messages)
        .with("rounds", options.rounds)
        .with("window", options.window)
        .with("body", BODY.len());
    let mut report = Report::new("mqtt_pool", conditions);
    let sink = Sink::start().await?;
    let mosquitto = Mosquitto::start().await;
    let brokers = [
        ("sink", Some(sink.port)),
        ("mosquitto", mosquitto.as_ref().map(Mosquitto::port)),
    ];
    let (mut ratio, mut memory, mut their_memory) = (None, None, None);
    for (broker, port) in brokers {
        let Some(port) = port else { continue };
        rest().await;
        let (allocated, before) = (ALLOCATOR.allocated(), resident()?);
        let fleet = Fleet::attach(port, &options).await?;
        rest().await;
        let attached = ALLOCATOR.allocated().saturating_sub(allocated);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            ours.push(fleet.send(&options).await?);
            let (usage, bytes) = send_with_rumqttc(port, &options).await?;
            theirs.push(usage);
            their_memory.get_or_insert(bytes);
        }
        rest().await;
        let used = ALLOCATOR.allocated().saturating_sub(allocated);
        let grown = resident()?.saturating_sub(before);
        memory.get_or_insert((attached, used, grown));
        let total = options.total();
        let (ours, theirs) = (median(ours), median(theirs));
        for (client, usage) in [("pool", ours), ("rumqttc", theirs)] {
            report = report.with_row(
                Fields::new()
                    .with("broker", broker)
                    .with("client", client)
                    .with("cpu_us_a_message", usage.cpu_us_each(total))
                    .with("messages_a_second", total as f64 / usage.wall.as_secs_f64()),
            );
        }
        ratio.get_or_insert(ours.cpu_us_each(total) / theirs.cpu_us_each(total));
        fleet.close().await?;
    }
    let (attached, used, grown) = memory.context("nothing was measured")?;
    let (connected, loaded) = their_memory.context("nothing was measured")?;
    let each = |bytes: usize| bytes / options.devices.max(1);
    let results = Fields::new()
        .with(
            "pool_cpu_to_rumqttc",
            ratio.context("nothing was measured")?,
        )
        .with("bytes_a_device_attached", each(attached))
        .with("bytes_a_device_after_traffic", each(used))
        .with("pool_bytes_attached", attached)
        .with("pool_bytes_after_traffic", used)
        .with("rumqttc_bytes_connected", connected)
        .with("rumqttc_bytes_after_traffic", loaded)
        .with("resident_growth_bytes", grown);
    report.with_results(results).print(options.json);
    Ok(())
}

/// The round in the middle, by CPU.
fn median(mut rounds: Vec<Usage>) -> Usage {
    rounds.sort_by_key(|usage| usage.cpu);
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

/// Devices that only speak.
#[derive(Debug)]
struct Deaf;

#[async_trait]
impl CloudCallback for Deaf {
    async fn on_method(&self, _: MethodCall) -> MethodReply {
        MethodReply::new(404, "")
    }
    async fn on_message(&self, _: CloudMessage) -> Disposition {
        Disposition::Abandon
    }
    async fn on_desired(&self, _: DesiredPatch) -> Disposition {
        Disposition::Complete
    }
    async fn on_end(&self, _: SessionEnd) {}
}

/// Devices attached to a pool.
struct Fleet {
    upstream: Arc<MqttPoolUpstream>,
    devices: Vec<DeviceId>,
}

impl Fleet {
    async fn attach(port: u16, options: &Options) -> Result<Self> {
        // The same packets as the other client's: the body, and nothing about it.
        let mut config = MqttPoolConfig::new("localhost", "bench")
            .with_address("127.0.0.1", port)
            .with_tls(false)
            .with_version(MqttVersion::V3_1_1)
            .with_encoding(MqttEncoding::Topic)
            .with_connections(options.connections);
        config.wire.in_flight = options.window;
        config.wire.session_expiry = Duration::ZERO;
        config.topics.messages = String::new();
        config.topics.methods = String::new();
        config.topics.responses = String::new();
        config.topics.status = String::new();
        let upstream = Arc::new(MqttPoolUpstream::new(config)?);
        let callback: Arc<dyn CloudCallback> = Arc::new(Deaf);
        let mut devices = Vec::with_capacity(options.devices);
        for n in 0..options.devices {
            let device = DeviceId::new(device_name(n))?;
            let credential = Credential::Vouched;
            let identity = DeviceIdentity::new(device.clone(), credential);
            upstream.attach(identity, callback.clone()).await?;
            devices.push(device);
        }
        Ok(Self { upstream, devices })
    }

    async fn send(&self, options: &Options) -> Result<Usage> {
        let work = async {
            let mut tasks = JoinSet::new();
            for device in &self.devices {
                let (upstream, device) = (self.upstream.clone(), device.clone());
                let messages = options.messages;
                tasks.spawn(async move {
                    for n in 0..messages {
                        let id = MessageId::new(n.to_string())?;
                        let uplink = Uplink::new(device.clone(), id, Bytes::from_static(&BODY));
                        upstream.send(&uplink).await?;
                    }
                    Ok::<_, anyhow::Error>(messages)
                });
            }
            let mut settled = 0;
            while let Some(task) = tasks.join_next().await {
                settled += task??;
            }
            Ok::<_, anyhow::Error>(settled)
        };
        let (settled, usage) = metered(work).await;
        ensure!(settled? as u64 == options.total());
        Ok(usage)
    }

    async fn close(self) -> Result<()> {
        Ok(self.upstream.close(Duration::from_secs(10)).await?)
    }
}

/// Polls until so many messages are acknowledged.
async fn acknowledged(mut events: EventLoop, messages: usize) -> Result<EventLoop> {
    let mut left = messages;
    while left > 0 {
        if let Event::Incoming(Packet::PubAck(_)) = events.poll().await? {
            left -= 1;
        }
    }
    Ok(events)
}

/// Sends as many to the same topics, and tells what its connections hold before and after. It counts
/// acknowledgements; whose they are, it does not tell.
async fn send_with_rumqttc(port: u16, options: &Options) -> Result<(Usage, (usize, usize))> {
    let before = ALLOCATOR.allocated();
    let held = || ALLOCATOR.allocated().saturating_sub(before);
    let mut clients = Vec::new();
    for number in 0..options.connections {
        let mut settings = MqttOptions::new(format!("theirs-{number}"), "127.0.0.1", port);
        settings.set_keep_alive(Duration::from_secs(60));
        settings.set_inflight(options.window);
        let (client, mut events) = AsyncClient::new(settings, usize::from(options.window));
        while !matches!(events.poll().await?, Event::Incoming(Packet::ConnAck(_))) {}
        clients.push((number, client, events));
    }
    let connected = held();
    let (devices, connections) = (options.devices, options.connections);
    let messages = options.messages;
    let work = async {
        let (mut reading, mut writing) = (JoinSet::new(), JoinSet::new());
        for (number, client, events) in clients {
            let here = (number..devices).step_by(connections);
            reading.spawn(acknowledged(events, here.len() * messages));
            writing.spawn(async move {
                for _ in 0..messages {
                    for n in here.clone() {
                        let topic = format!("devices/{}/telemetry", device_name(n));
                        let body = Bytes::from_static(&BODY);
                        client
                            .publish_bytes(topic, QoS::AtLeastOnce, false, body)
                            .await?;
                    }
                }
                Ok::<_, anyhow::Error>(client)
            });
        }
        let (mut clients, mut loops) = (Vec::new(), Vec::new());
        while let Some(client) = writing.join_next().await {
            clients.push(client??);
        }
        while let Some(events) = reading.join_next().await {
            loops.push(events??);
        }
        Ok::<_, anyhow::Error>((clients, loops))
    };
    let (settled, usage) = metered(work).await;
    let _kept = settled?;
    Ok((usage, (connected, held())))
}
