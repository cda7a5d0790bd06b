//! Faults by seeded schedules, and what must hold whatever happens.
//!
//! `SCHEDULES=10000 cargo test -p gateway-upstream-amqp --test schedules` runs as many; `SEED=17`
//! runs that one alone. A failing schedule prints its seed.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use common::{config, device_id, uplink, upstream, wire, with_key, with_policy, with_token};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{Backoff, DeviceId, DeviceIdentity, Disposition, ErrorKind, Interest, Upstream};
use gateway_upstream_amqp::AmqpUpstream;
use hub_simulator::{C2d, C2dOutcome, C2dTicket, HubSimulator, Limits, LinkKind};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const DEVICES: usize = 20;
/// Messages of each device.
const MESSAGES: usize = 30;
/// Messages to each device that listens.
const COMMANDS: usize = 4;
/// How long a send may take before its device asks again, as the core's own layer has it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the rest may take once the hub is well.
const AFTERMATH: Duration = Duration::from_secs(60);
/// Schedules at a time: each mostly waits.
const SIDE_BY_SIDE: usize = 24;

/// Numbers that follow from a seed (SplitMix64, Steele and others, 2014).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least))
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }

    fn device(&mut self) -> String {
        name(self.below(DEVICES as u64) as usize)
    }
}

fn name(n: usize) -> String {
    format!("device-{n:02}")
}

/// What a device is given anew each time it has to attach.
fn identity(hub: &HubSimulator, n: usize, token_life: Duration) -> DeviceIdentity {
    let name = name(n);
    let identity = match n % 5 {
        3 => with_policy(hub, &name),
        4 => with_token(hub, &name, token_life),
        _ => with_key(hub, &name),
    };
    match n % 2 {
        0 => identity.with_interest(Interest::COMMANDS),
        _ => identity,
    }
}

/// What one device was told.
#[derive(Debug)]
struct Told {
    device: DeviceId,
    callback: RecordingCallback,
    accepted: Vec<String>,
}

struct Run {
    hub: HubSimulator,
    upstream: Arc<AmqpUpstream>,
    token_life: Duration,
    /// Whether the faults are over.
    is_well: AtomicBool,
    over: AtomicBool,
}

impl Run {
    async fn begin(dice: &mut Dice) -> Self {
        let limits = Limits::default()
            .with_c2d_lock(Duration::from_secs(3))
            .with_max_delivery_count(1000);
        let builder = HubSimulator::builder().with_tls(false).with_limits(limits);
        let hub = builder.start().await.expect("a hub");
        let mut config = config(&hub).with_wire(wire(|wire| {
            wire.connect_timeout = Duration::from_secs(2);
            wire.answer_timeout = Duration::from_secs(1);
            wire.idle_timeout = Duration::from_secs(11);
        }));
        // Tokens are valid to the second.
        config.tokens.ttl = Duration::from_secs(2 + dice.below(4) * 20);
        config.tokens.per_second = 1000.0;
        config.pool.devices_per_connection = 5 + dice.below(10) as usize;
        config.pool.lanes = 1 + dice.below(3) as usize;
        config.commands.lock = Duration::from_millis(2500);
        // Well within what the rest may take, also where a machine is so slow that tokens lapse on
        // their way.
        config.breaker.open = Backoff::new(Duration::from_millis(200), Duration::from_secs(5))
            .expect("a range of times");
        Self {
            upstream: upstream(config),
            hub,
            token_life: Duration::from_secs(2 + dice.below(2) * 100),
            is_well: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    /// Attaches a device until the hub takes it.
    async fn attach(&self, n: usize, callback: &RecordingCallback) {
        loop {
            // On a slow machine a short token lapses before the device has done with it.
            let token_life = match self.is_well.load(Relaxed) {
                true => AFTERMATH,
                false => self.token_life,
            };
            let identity = identity(&self.hub, n, token_life);
            let attach = self.upstream.attach(identity, callback.shared());
            match timeout(PATIENCE, attach).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => assert_ne!(error.kind(), ErrorKind::Closed, "{error}"),
                Err(_) => {}
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Sends all messages of a device, each until the hub has said yes or no.
    async fn device(self: Arc<Self>, n: usize, pause: Duration) -> Told {
        let callback = RecordingCallback::new();
        callback.settle_next([Disposition::Abandon]);
        let mut told = Told {
            device: device_id(&name(n)),
            callback: callback.clone(),
            accepted: Vec::new(),
        };
        self.attach(n, &callback).await;
        for m in 0..MESSAGES {
            let message = uplink(&told.device, format!("m-{m:02}-of-{}", told.device));
            loop {
                match timeout(PATIENCE, self.upstream.send(&message)).await {
                    Ok(Ok(())) => {
                        told.accepted.push(message.id.as_str().to_owned());
                        break;
                    }
                    Ok(Err(error)) => match error.kind() {
                        ErrorKind::Rejected => break,
                        ErrorKind::UnknownDevice | ErrorKind::Unauthorized => {
                            self.attach(n, &callback).await;
                        }
                        _ => assert!(error.is_retryable(), "{error:?}"),
                    },
                    Err(_) => {}
                }
                sleep(Duration::from_millis(1)).await;
            }
            sleep(pause).await;
        }
        // One that listens does so until all is over, as one that is online: each end that it was
        // told of may be that of its last session.
        let mut ends = 0;
        while n.is_multiple_of(2) && !self.over.load(Relaxed) {
            let ended = callback.wait_for(|record| record.ends.len() > ends);
            if let Ok(record) = timeout(Duration::from_millis(50), ended).await {
                ends = record.ends.len();
                self.attach(n, &callback).await;
            }
        }
        told
    }

    /// One fault, and its end if it has one.
    async fn fault(&self, dice: &mut Dice) -> String {
        let (hub, faults) = (&self.hub, self.hub.faults());
        let device = dice.device();
        let passing = [
            "amqp:link:detach-forced",
            "amqp:internal-error",
            "com.microsoft:timeout",
        ];
        match dice.below(18) {
            0 | 1 => {
                faults.cut_all();
                "cut all".to_owned()
            }
            2 => {
                let connections = hub.connections();
                let at = dice.next() as usize;
                if let Some(some) = connections.get(at % connections.len().max(1)) {
                    faults.cut(some.id);
                }
                "cut one".to_owned()
            }
            3 => {
                faults.close_all("amqp:connection:forced");
                "close all".to_owned()
            }
            4 => {
                let time = dice.millis(10, 1500);
                faults.freeze_all();
                sleep(time).await;
                faults.thaw();
                format!("freeze for {time:?}")
            }
            5 => {
                faults.reject_next(Some(&device), 1, "com.microsoft:argument-error");
                format!("reject one of {device}")
            }
            6 => {
                let count = 1 + dice.below(10);
                faults.throttle(None, count);
                format!("throttle {count}")
            }
            7 | 8 => {
                let kinds = [LinkKind::Telemetry, LinkKind::C2d, LinkKind::All];
                let kind = kinds[dice.below(3) as usize];
                let condition = dice.pick(&passing);
                faults.detach(&device, kind, condition);
                format!("detach {kind:?} of {device}: {condition}")
            }
            9 => {
                faults.detach_all(LinkKind::Telemetry, "amqp:link:detach-forced");
                "detach all".to_owned()
            }
            10 => {
                let of = (dice.below(2) == 0).then_some(device.as_str());
                faults.end_sessions(of, "amqp:session:window-violation");
                format!("end sessions of {of:?}")
            }
            11 => {
                faults.steal(&device);
                format!("steal {device}")
            }
            12 => {
                let time = dice.millis(1, 300);
                faults.delay_settlements(time);
                sleep(dice.millis(10, 200)).await;
                faults.delay_settlements(Duration::ZERO);
                format!("delay {time:?}")
            }
            13 => {
                let time = dice.millis(10, 500);
                let held = faults.hold_settlements();
                sleep(time).await;
                held.release();
                format!("hold for {time:?}")
            }
            14 => {
                let condition = dice.pick(&passing);
                faults.refuse_attach(&device, condition);
                faults.detach(&device, LinkKind::All, condition);
                sleep(dice.millis(10, 400)).await;
                faults.allow_attach(&device);
                format!("refuse links of {device}: {condition}")
            }
            15 => {
                let status = [401, 429, 500][dice.below(3) as usize];
                faults.refuse_token(&device, status, "no");
                faults.cut_all();
                sleep(dice.millis(10, 400)).await;
                faults.allow_token(&device);
                format!("refuse the token of {device}: {status}, and cut all")
            }
            16 => {
                faults.withhold_attach(&device);
                faults.detach(&device, LinkKind::All, "amqp:link:detach-forced");
                sleep(dice.millis(10, 1300)).await;
                faults.allow_attach(&device);
                format!("withhold links of {device}")
            }
            _ => {
                hub.set_enabled(&device, false);
                sleep(dice.millis(10, 200)).await;
                hub.set_enabled(&device, true);
                format!("disable {device}")
            }
        }
    }

    fn command(&self, device: &str, number: usize) -> C2dTicket {
        let id = format!("c-{number}");
        let message = C2d::new(id.clone()).with_message_id(id);
        self.hub.send_c2d(device, message).expect("queued")
    }
}

/// Runs the schedule of a seed. What went wrong, with the faults before it.
async fn schedule(seed: u64) -> Result<(), String> {
    let mut dice = Dice(seed);
    let run = Arc::new(Run::begin(&mut dice).await);
    let mut devices = JoinSet::new();
    for n in 0..DEVICES {
        let pause = dice.millis(0, 40);
        devices.spawn(run.clone().device(n, pause));
    }
    let mut tickets = HashMap::new();
    let mut faults = Vec::new();
    sleep(dice.millis(0, 300)).await;
    for number in 0..6 + dice.below(8) as usize {
        faults.push(run.fault(&mut dice).await);
        if number < COMMANDS {
            for n in (0..DEVICES).step_by(2) {
                let name = name(n);
                run.hub.add_device(&name);
                let ticket = run.command(&name, number);
                tickets.insert((name, format!("c-{number}")), ticket);
            }
        }
        sleep(dice.millis(0, 150)).await;
    }
    let failed = |what: String| format!("{what}\nfaults: {faults:#?}");

    // The hub is well: everything comes to an end.
    run.hub.faults().stop_rejecting();
    run.is_well.store(true, Relaxed);
    let completed = async {
        for ticket in tickets.values() {
            ticket.outcome().await;
        }
    };
    if timeout(AFTERMATH, completed).await.is_err() {
        let open: Vec<_> = tickets
            .iter()
            .filter(|(_, ticket)| ticket.outcome_now().is_none())
            .map(|(key, ticket)| (key, ticket.delivery_count()))
            .collect();
        let stats = run.upstream.stats();
        return Err(failed(format!("never completed: {open:?}, {stats:?}")));
    }
    run.over.store(true, Relaxed);
    let mut told = Vec::new();
    while let Ok(Some(device)) = timeout(AFTERMATH, devices.join_next()).await {
        told.push(device.map_err(|error| failed(format!("a device failed: {error}")))?);
    }
    if told.len() < DEVICES {
        let is_done = |device: &DeviceId| told.iter().any(|told| told.device == *device);
        let pending: Vec<_> = (0..DEVICES)
            .map(|n| device_id(&name(n)))
            .filter(|device| !is_done(device))
            .map(|device| (run.upstream.explain(&device), device))
            .collect();
        let stats = run.upstream.stats();
        return Err(failed(format!("pending: {pending:#?}, {stats:?}")));
    }
    check(&run, &told, &tickets).map_err(failed)?;
    leave(&run, &told).await.map_err(failed)
}

fn check(
    run: &Run,
    told: &[Told],
    tickets: &HashMap<(String, String), C2dTicket>,
) -> Result<(), String> {
    let mut hub: HashMap<String, Vec<String>> = HashMap::new();
    for message in run.hub.record().accepted() {
        let ids = hub.entry(message.device_id.to_string()).or_default();
        let id = message.message_id.expect("each has an id");
        // At least once: a repetition may come late, over a line that was given up.
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    for told in told {
        let device = told.device.as_str();
        let ids = hub.remove(device).unwrap_or_default();
        let missing: Vec<_> = told
            .accepted
            .iter()
            .filter(|id| !ids.contains(id))
            .collect();
        if !missing.is_empty() {
            return Err(format!(
                "{device}: acknowledged, not at the hub: {missing:?}"
            ));
        }
        let foreign: Vec<_> = ids.iter().filter(|id| !id.ends_with(device)).collect();
        if !foreign.is_empty() {
            return Err(format!(
                "{device}: taken for another's messages: {foreign:?}"
            ));
        }
        if !ids.is_sorted() {
            let accepted = run.hub.record().accepted().into_iter();
            let came: Vec<_> = accepted
                .filter(|message| message.device_id == device)
                .map(|message| (message.message_id, message.connection, message.enqueued))
                .collect();
            let told = &told.accepted;
            return Err(format!("{device}: out of order: {came:?}, told: {told:?}"));
        }
        let mut seen: HashMap<String, u32> = HashMap::new();
        for message in told.callback.record().messages {
            *seen.entry(message.id.expect("each has an id")).or_default() += 1;
        }
        for ((_, id), ticket) in tickets.iter().filter(|((name, _), _)| name == device) {
            let (times, outcome) = (seen.get(id).copied().unwrap_or(0), ticket.outcome_now());
            if outcome != Some(C2dOutcome::Completed) || times == 0 {
                return Err(format!("{device}: {id} is {outcome:?}, seen {times} times"));
            }
            if times > ticket.delivery_count() {
                let given = ticket.delivery_count();
                return Err(format!("{device}: {id} seen {times} times, given {given}"));
            }
        }
    }
    Ok(())
}

/// Detaches everything: nothing may be left, here or at the hub.
async fn leave(run: &Run, told: &[Told]) -> Result<(), String> {
    for told in told {
        if let Err(error) = run.upstream.detach(&told.device).await {
            return Err(format!("{}: {error}", told.device));
        }
    }
    let empty = run.hub.wait_until(|stats| stats.connections.is_empty());
    if timeout(AFTERMATH, empty).await.is_err() {
        return Err(format!("left at the hub: {:?}", run.hub.stats()));
    }
    let stats = run.upstream.stats();
    let left = [
        stats.devices,
        stats.in_flight,
        stats.connections.len(),
        stats.recovering,
        stats.waiting,
    ];
    if left != [0; 5] {
        return Err(format!("left here: {stats:?}"));
    }
    let closed = run.upstream.close(Duration::from_secs(5)).await;
    closed.map_err(|error| format!("close: {error}"))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_hub_does_nothing_acknowledged_is_lost_and_nothing_hangs_or_leaks() {
    let mut seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SCHEDULES").unwrap_or(500),
    };
    let mut running = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        while running.len() < SIDE_BY_SIDE
            && let Some(seed) = seeds.next()
        {
            running.spawn(async move { (seed, schedule(seed).await) });
        }
        match running.join_next().await {
            Some(Ok((_, Ok(())))) => {}
            Some(Ok((seed, Err(failure)))) => {
                eprintln!("SEED={seed}: {failure}");
                failures.push(seed);
            }
            Some(Err(error)) => panic!("a schedule failed: {error}"),
            None => break,
        }
    }
    assert!(failures.is_empty(), "schedules failed: {failures:?}");
}
