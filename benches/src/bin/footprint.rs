//! Measures what a device costs in memory: attached, listening, known but detached; and whether
//! many devices that come and go leave something behind.
//!
//! The hub runs in a process of its own. Two figures stand side by side. *Allocated* is what was
//! asked of the allocator and not given back, which is the same in every run. *Resident* is what the
//! system counts: it has what the allocator keeps for later, and what it rounds up.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use benches::device_name;
use benches::embedded::{Embedded, Keys, OnlySpeaking, send};
use benches::hub::{Command, HubProcess, HubSetup, be_the_hub_if_asked};
use benches::process::{metered, raise_file_limit, resident, rest};
use benches::report::{Fields, Report};
use cap::Cap;
use clap::Parser;
use gateway_core::governor::{BudgetConfig, Rate};
use gateway_core::{Announcement, DeviceId, Ingress, Presence};
use mimalloc::MiMalloc;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The gateway program's own allocator, counted.
#[global_allocator]
static ALLOCATOR: Cap<MiMalloc> = Cap::new(MiMalloc, usize::MAX);

/// Measures memory per device.
#[derive(Debug, Parser)]
struct Options {
    /// Devices, which is also the room in the session table.
    #[arg(long, default_value_t = 20_000)]
    devices: usize,
    /// Messages a device.
    #[arg(long, default_value_t = 10)]
    messages: usize,
    /// Devices that come, send one message and make room for the next.
    #[arg(long, default_value_t = 1_000_000)]
    churn: usize,
    /// Devices that speak at a time. The session table gives back what comes while 64 are on their
    /// way out.
    #[arg(long, default_value_t = 32)]
    workers: usize,
    /// How devices prove who they are.
    #[arg(long, value_enum, default_value_t = Keys::Device)]
    keys: Keys,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What the process holds at a moment of rest, and what the hub sees then.
#[derive(Debug, Clone, Copy)]
struct Level {
    allocated: i64,
    resident: i64,
    attached: usize,
    connections: usize,
    hub_resident: u64,
}

impl Level {
    async fn at_rest(hub: &mut HubProcess) -> Result<Self> {
        rest().await;
        let counts = hub.counts().await?;
        Ok(Self {
            allocated: ALLOCATOR.allocated() as i64,
            resident: resident()? as i64,
            attached: counts.attached,
            connections: counts.connections,
            hub_resident: counts.resident,
        })
    }

    /// A row: this level, and what of it above another is each device's.
    fn row(self, what: &'static str, above: Self, devices: usize) -> Fields {
        let mib = |bytes: i64| bytes as f64 / f64::from(1 << 20);
        let each = |bytes: i64| (devices > 0).then(|| bytes as f64 / devices as f64);
        Fields::new()
            .with("level", what)
            .with("attached", self.attached)
            .with("connections", self.connections)
            .with("allocated_mib", mib(self.allocated))
            .with("resident_mib", mib(self.resident))
            .with("hub_resident_mib", mib(self.hub_resident as i64))
            .with(
                "allocated_bytes_each",
                each(self.allocated - above.allocated),
            )
            .with("resident_bytes_each", each(self.resident - above.resident))
    }
}

/// Brings devices online, so many at a time.
async fn listen(ingress: &Ingress, devices: Range<usize>, workers: usize) -> Result<Vec<Presence>> {
    let turns = Arc::new(Semaphore::new(workers));
    let mut coming = JoinSet::new();
    let mut online = Vec::with_capacity(devices.len());
    for n in devices {
        let turn = turns.clone().acquire_owned().await?;
        let (ingress, device) = (ingress.clone(), DeviceId::new(device_name(n))?);
        coming.spawn(async move {
            let _turn = turn;
            ingress.online(Announcement::new(device)).await
        });
        while let Some(presence) = coming.try_join_next() {
            online.push(presence??);
        }
    }
    while let Some(presence) = coming.join_next().await {
        online.push(presence??);
    }
    Ok(online)
}

#[tokio::main]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? {
        return Ok(());
    }
    let options = Options::parse();
    let (devices, workers) = (options.devices, options.workers);
    // A connection for every 995 devices, on both sides.
    raise_file_limit()?;
    let mut hub = HubProcess::start(&HubSetup::default()).await?;
    let mut budget = BudgetConfig::default();
    // What links cost is measured here, not how they are paced.
    budget.command_links = Rate::Unlimited;
    let gateway = Embedded::start(
        hub.access.amqp().with_budget(budget),
        options.keys.credentials(&hub.access)?,
        devices,
        OnlySpeaking,
    )?;
    let speak = async |from: usize, count: usize, messages: usize| {
        let ingress = &gateway.ingress;
        send(ingress, from..from + count, workers, messages, "m").await
    };
    let listening = |listening| Command::AwaitListening {
        from: devices,
        to: 2 * devices,
        listening,
        methods: true,
    };

    let empty = Level::at_rest(&mut hub).await?;
    let mut again = speak(0, devices, options.messages).await?;
    let attached = Level::at_rest(&mut hub).await?;
    // As many again push the first ones out.
    again += speak(devices, devices, options.messages).await?;
    let known = Level::at_rest(&mut hub).await?;
    let online = self::listen(&gateway.ingress, devices..2 * devices, workers).await?;
    hub.tell(&listening(true)).await?;
    let commands = Level::at_rest(&mut hub).await?;
    drop(online);
    hub.tell(&listening(false)).await?;
    let silent = Level::at_rest(&mut hub).await?;
    again += speak(2 * devices, options.churn, 1).await?;
    let churned = Level::at_rest(&mut hub).await?;
    let (stopped, closing) = metered(gateway.stop()).await;
    stopped?;

    let conditions = Fields::new()
        .with("devices", devices)
        .with("messages_per_device", options.messages)
        .with("churn", options.churn)
        .with("workers", workers)
        .with("keys", options.keys.name())
        .with("allocator", "mimalloc");
    let growth = |after: i64, before: i64| after as f64 / before as f64;
    let results = Fields::new()
        .with(
            "allocated_ratio_after_churn",
            growth(churned.allocated, known.allocated),
        )
        .with(
            "resident_ratio_after_churn",
            growth(churned.resident, known.resident),
        )
        .with("sent_again_by_devices", again)
        .with("seconds_to_close", closing.wall.as_secs_f64());
    Report::new(env!("CARGO_BIN_NAME"), conditions)
        .with_row(empty.row("empty", empty, 0))
        .with_row(attached.row("attached, after traffic", empty, devices))
        .with_row(known.row("as many known, detached", attached, devices))
        .with_row(commands.row("listening besides", known, devices))
        .with_row(silent.row("listening no more", known, devices))
        .with_row(churned.row("after churn", known, options.churn))
        .with_results(results)
        .print(options.json);
    Ok(())
}
