//! Random schedules of devices, faults and time, and what the hub must never see.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use gateway_core::{Announcement, Backoff, DeviceId, ErrorKind, MessageId, Settlement};
use proptest::prelude::*;
use support::watch::{Seen, Watch};
use support::{Harness, device, soon, uplink};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const CAPACITY: usize = 3;
const DEVICES: u8 = 6;
const LARGEST_BATCH: usize = 5;
/// Settles every retry, back-off and idle time of a schedule.
const LONG: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
enum Step {
    /// A device sends and waits for its settlement, at most this many milliseconds.
    Send(u8, u64),
    /// A device sends what the hub will never take.
    SendPoison(u8),
    Online(u8),
    Offline(u8),
    Cut,
    SetDown(bool),
    RejectNext(ErrorKind),
    Refuse(u8, bool),
    EndSession(u8, ErrorKind),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..DEVICES;
    let kind = prop::sample::select(vec![
        ErrorKind::Disconnected,
        ErrorKind::Throttled,
        ErrorKind::Rejected,
        ErrorKind::UnknownDevice,
        ErrorKind::Other,
    ]);
    let end = prop::sample::select(vec![
        ErrorKind::Unauthorized,
        ErrorKind::UnknownDevice,
        ErrorKind::Rejected,
    ]);
    prop_oneof![
        8 => (name.clone(), prop_oneof![Just(100_000), 0_u64..500]).prop_map(|(n, w)| Step::Send(n, w)),
        2 => name.clone().prop_map(Step::SendPoison),
        3 => name.clone().prop_map(Step::Online),
        3 => name.clone().prop_map(Step::Offline),
        1 => Just(Step::Cut),
        1 => any::<bool>().prop_map(Step::SetDown),
        1 => kind.prop_map(Step::RejectNext),
        1 => (name.clone(), any::<bool>()).prop_map(|(n, on)| Step::Refuse(n, on)),
        1 => (name, end).prop_map(|(n, kind)| Step::EndSession(n, kind)),
        4 => (0_u64..3000).prop_map(Step::Wait),
    ]
}

fn named(number: u8) -> DeviceId {
    device(&format!("d{number}"))
}

/// Ids that sort as they are sent.
fn id(at: usize) -> String {
    format!("{at:04}")
}

async fn run_schedule(steps: Vec<Step>) {
    let seen = Seen::default();
    let run = Harness::build(
        |config| {
            config.sessions.capacity = CAPACITY;
            config.sessions.idle_ttl = Duration::from_secs(5);
            let short = Backoff::new(Duration::from_millis(50), Duration::from_millis(400));
            config.sessions.refusal = short.unwrap();
            config.retry.budget = Duration::from_secs(2);
            config.batches.max_messages = LARGEST_BATCH;
        },
        |hub| Watch {
            hub,
            seen: seen.clone(),
        },
        |builder| builder,
    );
    run.hub.set_latency(Duration::from_millis(100));
    let ingress = run.devices.ingress().await;
    let mut presences = HashMap::new();
    let mut sends = JoinSet::new();
    let mut poison = HashSet::new();
    for (at, step) in steps.into_iter().enumerate() {
        match step {
            Step::Send(n, patience) => {
                let (ingress, message) = (ingress.clone(), uplink(&named(n), &id(at)));
                sends.spawn(async move {
                    let id = message.id.clone();
                    let deliver = ingress.reserve().await.deliver(message);
                    let settled = timeout(Duration::from_millis(patience), deliver).await;
                    (id, settled.ok())
                });
            }
            Step::SendPoison(n) => {
                let (ingress, message) = (ingress.clone(), uplink(&named(n), &id(at)));
                run.hub.poison(message.id.clone(), ErrorKind::Rejected);
                poison.insert(message.id.clone());
                sends.spawn(async move {
                    let id = message.id.clone();
                    let settled = ingress.reserve().await.deliver(message).await;
                    (id, Some(settled))
                });
            }
            Step::Online(n) => {
                // The newer presence replaces the older one, as in a downstream.
                if let Ok(presence) = ingress.online(Announcement::new(named(n))).await {
                    presences.insert(n, presence);
                }
            }
            Step::Offline(n) => drop(presences.remove(&n)),
            Step::Cut => run.hub.cut(),
            Step::SetDown(down) => run.hub.set_down(down),
            Step::RejectNext(kind) => run.hub.reject_next(kind),
            Step::Refuse(n, on) => {
                run.hub
                    .refuse(&named(n), on.then_some(ErrorKind::Unauthorized));
            }
            Step::EndSession(n, kind) => run.hub.end_session(&named(n), kind).await,
            Step::Wait(time) => sleep(Duration::from_millis(time)).await,
        }
        let sessions = run.gateway.stats().sessions.sessions;
        assert!(sessions <= CAPACITY + 64, "{sessions} sessions");
    }
    run.hub.set_down(false);
    let settled = soon(sends.join_all()).await;
    let accepted = run.hub.accepted();
    let has = |id: &MessageId| accepted.iter().any(|uplink| uplink.id == *id);
    for (id, settlement) in settled {
        if settlement == Some(Settlement::Accepted) {
            assert!(has(&id), "{id} was not accepted by the hub");
        }
        assert!(!poison.contains(&id) || !has(&id), "{id} is poison");
    }
    for n in 0..DEVICES {
        let mut firsts = HashSet::new();
        let ids = accepted.iter().filter(|uplink| uplink.device == named(n));
        let ids = ids.map(|uplink| &uplink.id);
        let order: Vec<_> = ids.filter(|id| firsts.insert((*id).clone())).collect();
        assert!(order.is_sorted(), "{}: {order:?}", named(n));
    }
    let largest = seen.sends().into_iter().map(|ids| ids.len()).max();
    assert!(largest <= Some(LARGEST_BATCH), "{largest:?} in a batch");
    drop(presences);
    sleep(LONG).await;
    assert_eq!(seen.faults(), Vec::<String>::new());
    assert_eq!(
        run.hub.attached_devices(),
        0,
        "every device is detached in the end"
    );
    assert_eq!(run.gateway.stats().sessions.sessions, 0);
    assert_eq!(run.gateway.stats().in_flight, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_schedule_overlaps_loses_or_leaks_a_session(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run_schedule(steps));
    }
}
