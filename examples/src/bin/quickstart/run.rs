//! A whole run: brings everything up, lets the fleet work, compares, takes everything down.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use gateway_core::MessageId;
use hub_simulator::{Accepted, HubSimulator, Limits, RecordMode};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::args::{Args, Downstream, Upstream};
use crate::commands;
use crate::device::lorawan::Air;
use crate::fleet::Fleet;
use crate::gateway::Setup;
use crate::plan::{Plan, device_id};
use crate::process::{GatewayProcess, Meter};
use crate::progress::Progress;
use crate::report::{Report, rounded};
use crate::verdict::{compare, message_id};
use crate::view::View;

/// Runs once. The list names what is not as it should be: an empty one is success.
pub(crate) async fn run(args: &Args) -> anyhow::Result<(Report, Vec<String>)> {
    let limit = examples::raise_file_limit().context("the limit of open files cannot be raised")?;
    let plan = Plan::new(args, limit)?;
    if plan.takes_turns() {
        writeln!(
            io::stderr(),
            "{} of {} devices connect at a time and the others take turns: more would need more \
             open files or ports than this process may have (see `ulimit -Hn`).",
            plan.places,
            plan.devices
        )?;
    }
    let mut limits = Limits::default();
    if plan.cut {
        // A message that was on its way comes again when its lock lapses; the real minute is long.
        limits.c2d_lock = Duration::from_secs(5);
    }
    let hub = HubSimulator::builder()
        .with_limits(limits)
        .with_auto_register(true)
        .with_record(match plan.downstream {
            // Its messages have no names of the device's: what they say tells them apart.
            Downstream::Lorawan => RecordMode::Full,
            Downstream::Tcp | Downstream::Coap => RecordMode::Compact,
        })
        .start()
        .await
        .context("the hub simulator cannot start")?;
    let hub = Arc::new(hub);
    let secret = MessageId::random().as_str().to_owned();
    let setup = Setup {
        host: hub.host().to_owned(),
        upstream: args.upstream,
        downstream: args.downstream,
        hub: match args.upstream {
            Upstream::Amqp => hub.addr(),
            Upstream::Mqtt => hub.mqtts_addr(),
        },
        ca_pem: hub.ca_pem().unwrap_or_default().to_owned(),
        group_key: hub.group_key(),
        secret: secret.clone(),
        connections: plan.places as usize,
    };
    let mut gateway = GatewayProcess::start(&setup).await?;
    let progress = Arc::new(Progress::new(&plan)?);
    let mut concentrators = JoinSet::new();
    let air = match plan.downstream {
        Downstream::Lorawan => {
            Some(Air::open(plan.devices, gateway.address(), &mut concentrators).await?)
        }
        Downstream::Tcp | Downstream::Coap => None,
    };
    let fleet = Arc::new(Fleet::new(
        plan,
        gateway.address(),
        secret,
        progress.clone(),
        air,
    ));
    let devices = fleet.launch();

    let meter = gateway.meter()?;
    let mut view = View::new(&progress, &hub);
    let mut work = Work::default();
    let patience = args.timeout();
    let ended = tokio::select! {
        ended = timeout(patience, work.go_on(&fleet, &hub, meter)) => {
            ended.unwrap_or_else(|_| Err(anyhow!("the run was given up after {patience:?}")))
        }
        death = gateway.died() => Err(death),
        never = view.run() => match never {},
    };
    view.refresh();
    let mut faults = Vec::new();
    faults.extend(ended.err().map(|error| format!("{error:#}")));
    let connections = hub.connections().len();
    let rss_mib = meter.resident_mib().map(rounded);
    let told = devices.stop().await?;
    if let Err(error) = gateway.stop().await {
        faults.push(format!("{error:#}"));
    }

    let recorded = hub.record().take();
    let messages: Vec<_> = recorded
        .iter()
        .map(|message| (&*message.device_id, name(fleet.plan.downstream, message)))
        .collect();
    let messages = messages
        .iter()
        .map(|(device, name)| (*device, name.as_deref()));
    let verdict = compare(&told, fleet.plan.messages, messages);
    let cpu = work
        .cpu
        .map(|cpu| cpu.as_secs_f64() * 1e6 / progress.total() as f64);
    let report = Report {
        devices: fleet.plan.devices,
        connections,
        sent: progress.sent.get(),
        accepted: verdict.accepted,
        lost: verdict.lost,
        duplicated: verdict.duplicated,
        out_of_order: verdict.out_of_order,
        c2d_sent: progress.c2d_sent.get(),
        c2d_completed: progress.c2d_completed.get(),
        methods_called: progress.methods_called.get(),
        methods_answered: progress.methods_answered.get(),
        seconds: rounded(work.time().as_secs_f64()),
        gateway_cpu_us_per_message: cpu.map(rounded),
        p50_ms: progress.latency_ms(0.5),
        p99_ms: progress.latency_ms(0.99),
        rss_mib,
    };
    faults.extend(find_faults(
        &fleet.plan,
        &progress,
        &report,
        verdict.foreign,
    ));
    Ok((report, faults))
}

/// The name that a message's device knows it by.
fn name(downstream: Downstream, message: &Accepted) -> Option<Cow<'_, str>> {
    match downstream {
        Downstream::Tcp | Downstream::Coap => message.message_id.as_deref().map(Cow::from),
        Downstream::Lorawan => {
            let body: Value = serde_json::from_slice(&message.body).ok()?;
            let count = body["object"]["count"].as_u64()?.try_into().ok()?;
            Some(message_id(&message.device_id, count).into())
        }
    }
}

/// Is the part of a run that is measured.
#[derive(Debug, Default)]
struct Work {
    started: Option<Instant>,
    /// From the first message to the last acknowledgement.
    time: Option<Duration>,
    /// What the gateway's processor time was in between.
    cpu: Option<Duration>,
}

impl Work {
    async fn go_on(
        &mut self,
        fleet: &Fleet,
        hub: &Arc<HubSimulator>,
        gateway: Meter,
    ) -> anyhow::Result<()> {
        let (plan, progress) = (&fleet.plan, &fleet.progress);
        progress.all_welcomed(plan.places).await;
        let devices = plan.places as usize;
        if plan.greets() {
            hub.wait_until(|stats| stats.attached_devices >= devices)
                .await;
        }
        for target in plan.targets() {
            let device = device_id(*target);
            hub.wait_messages(&device).await;
            hub.wait_methods(&device).await;
        }

        let (started, cpu) = (Instant::now(), gateway.cpu());
        self.started = Some(started);
        fleet.start();
        let messages = async {
            progress.settled(progress.total()).await;
            self.time = Some(started.elapsed());
            self.cpu = gateway
                .cpu()
                .zip(cpu)
                .map(|(after, before)| after.saturating_sub(before));
        };
        let cut = async {
            if plan.cut {
                progress.settled(progress.total() / 2).await;
                hub.faults().cut_all();
            }
        };
        let ((), (), commands) =
            tokio::join!(messages, cut, commands::send_all(plan, hub, progress));
        commands
    }

    fn time(&self) -> Duration {
        let so_far = || self.started.map(|started| started.elapsed());
        self.time.or_else(so_far).unwrap_or_default()
    }
}

/// Names what is not as it should be, in words for people.
fn find_faults(plan: &Plan, progress: &Progress, report: &Report, foreign: u64) -> Vec<String> {
    let welcomed = *progress.welcomed.borrow();
    let unsettled = progress.total() - progress.acked.get() - progress.refused.get();
    let counted = [
        (
            u64::from(plan.devices) - welcomed,
            "devices were never let in",
        ),
        (unsettled, "messages were not acknowledged"),
        (progress.refused.get(), "messages were refused"),
        (
            report.lost,
            "messages were acknowledged, but the hub does not have them",
        ),
        (
            report.out_of_order,
            "messages reached the hub after a later one of the same device",
        ),
        (
            foreign,
            "messages at the hub were sent by no device of this fleet",
        ),
        (
            u64::from(plan.commands) - report.c2d_completed,
            "cloud-to-device messages were not completed",
        ),
        (
            u64::from(plan.commands) - report.methods_answered,
            "methods were not answered",
        ),
    ];
    let counted = counted.iter().filter(|(count, _)| *count > 0);
    let mut faults: Vec<String> = counted
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if let (false, Some(complaint)) = (faults.is_empty(), progress.complaint()) {
        faults.push(format!("the last trouble was: {complaint}"));
    }
    faults
}
