//! Measures the time from the hub's send of a cloud-to-device message to the device's callback, by
//! how many devices are attached and listen.
//!
//! The hub runs in a process of its own and writes the machine's time into each message. One gateway
//! for each number of devices stands in this process; messages go to them in turn, so that whatever
//! else the machine does meets all.

use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use benches::device_name;
use benches::embedded::{Embedded, Keys};
use benches::hub::{Command, HubProcess, HubSetup, be_the_hub_if_asked};
use benches::latency::Latencies;
use benches::process::{machine_time, metered, resident, rest};
use benches::report::{Fields, Report};
use clap::Parser;
use gateway_core::governor::{BudgetConfig, Rate};
use gateway_core::{
    Announcement, Delivered, DeviceId, Downlink, Downstream, DownstreamError, ErrorKind, Interest,
    Presence, ServeContext,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Links are many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Between messages, so that each finds everything at rest.
const PAUSE: Duration = Duration::from_millis(2);
/// A message that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the idle gateways are watched.
const IDLE: Duration = Duration::from_secs(5);
/// A step that walks over all devices evenly and out of order.
const STRIDE: usize = 7919;

/// Measures how long a message takes to a device, by how many are attached.
#[derive(Debug, Parser)]
struct Options {
    /// Numbers of attached devices, a gateway for each.
    #[arg(long, value_delimiter = ',', default_value = "100,5000,20000")]
    devices: Vec<usize>,
    /// Messages to each gateway.
    #[arg(long, default_value_t = 2000)]
    messages: usize,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Devices that tell how long each message took.
#[derive(Debug)]
struct Listening {
    arrivals: mpsc::Sender<Duration>,
}

#[async_trait]
impl Downstream for Listening {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        context.shutdown.cancelled().await;
        Ok(())
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        let arrived = machine_time();
        let Downlink::Message(message) = downlink else {
            return Err(DownstreamError::new(ErrorKind::Unsupported, "send"));
        };
        let sent = std::str::from_utf8(&message.body).ok();
        if let Some(nanos) = sent.and_then(|text| text.parse().ok()) {
            let took = arrived.saturating_sub(Duration::from_nanos(nanos));
            let told = self.arrivals.send(took).await;
            told.map_err(|_| DownstreamError::new(ErrorKind::Closed, "send"))?;
        }
        Ok(Delivered::Acknowledged)
    }
}

/// A gateway, its devices, and what their messages took.
struct Side {
    first: usize,
    devices: usize,
    gateway: Embedded,
    arrivals: mpsc::Receiver<Duration>,
    latencies: Latencies,
    _online: Vec<Presence>,
}

impl Side {
    async fn start(hub: &mut HubProcess, first: usize, devices: usize) -> Result<Self> {
        let mut budget = BudgetConfig::default();
        // What is measured comes after all links are open.
        budget.command_links = Rate::Unlimited;
        let (sender, arrivals) = mpsc::channel(16);
        let gateway = Embedded::start(
            hub.access.amqp().with_budget(budget),
            Keys::Policy.credentials(&hub.access)?,
            devices,
            Listening { arrivals: sender },
        )?;
        let mut coming = JoinSet::new();
        for n in first..first + devices {
            let announcement = Announcement::new(DeviceId::new(device_name(n))?)
                .with_interest(Interest::NONE.with_messages(true));
            let ingress = gateway.ingress.clone();
            coming.spawn(async move { ingress.online(announcement).await });
        }
        let mut online = Vec::with_capacity(devices);
        while let Some(presence) = coming.join_next().await {
            online.push(presence??);
        }
        let listening = Command::AwaitListening {
            from: first,
            to: first + devices,
            listening: true,
            methods: false,
        };
        hub.tell(&listening).await?;
        Ok(Self {
            first,
            devices,
            gateway,
            arrivals,
            latencies: Latencies::default(),
            _online: online,
        })
    }

    /// Sends one of the devices a message and waits for it.
    async fn probe(&mut self, hub: &mut HubProcess, n: usize) -> Result<()> {
        let device = device_name(self.first + n * STRIDE % self.devices);
        hub.tell(&Command::Message { device }).await?;
        let arrived = timeout(PATIENCE, self.arrivals.recv()).await;
        let took = arrived.context("a message did not come")?;
        self.latencies.push(took.context("the gateway is gone")?);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? {
        return Ok(());
    }
    let options = Options::parse();
    let mut hub = HubProcess::start(&HubSetup::default()).await?;
    let mut sides = Vec::new();
    let mut first = 0;
    for devices in options.devices {
        sides.push(Side::start(&mut hub, first, devices).await?);
        first += devices;
    }
    rest().await;
    let ((), idle) = metered(sleep(IDLE)).await;
    for n in 0..options.messages {
        for side in &mut sides {
            sleep(PAUSE).await;
            side.probe(&mut hub, n).await?;
        }
    }
    let conditions = Fields::new()
        .with("messages_per_gateway", options.messages)
        .with("keys", Keys::Policy.name());
    let results = Fields::new()
        .with("connections", hub.counts().await?.connections)
        .with("idle_cpu_share", idle.share())
        .with("resident_mib", resident()? as f64 / f64::from(1 << 20));
    let mut report = Report::new(env!("CARGO_BIN_NAME"), conditions).with_results(results);
    let mut p50_first = None;
    for side in &mut sides {
        let p50 = side.latencies.quantile_us(0.5);
        let row = Fields::new()
            .with("devices", side.devices)
            .with("p50_us", p50)
            .with("p99_us", side.latencies.quantile_us(0.99))
            .with("max_us", side.latencies.quantile_us(1.0))
            .with("p50_to_the_first", p50 / *p50_first.get_or_insert(p50));
        report = report.with_row(row);
    }
    report.print(options.json);
    for side in sides {
        side.gateway.stop().await?;
    }
    Ok(())
}
