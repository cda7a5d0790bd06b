//! Random schedules of devices, faults and time, and what the hub must never see.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{
    Announcement, Backoff, CloudCallback, DeviceId, DeviceIdentity, ErrorKind, Settlement,
    TwinReply, TwinRequest, Uplink, Upstream, UpstreamError, UpstreamExplanation,
};
use proptest::prelude::*;
use support::{Harness, device, soon, uplink};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const CAPACITY: usize = 3;
const DEVICES: u8 = 8;
/// Settles every retry, back-off and idle time of a schedule.
const LONG: Duration = Duration::from_secs(600);

/// Watches that a device's attaches, sends and detaches come one at a time.
#[derive(Debug)]
struct Watch {
    hub: MemoryUpstream,
    busy: Arc<Mutex<HashMap<DeviceId, &'static str>>>,
    faults: Arc<Mutex<Vec<String>>>,
}

struct Turn<'a>(&'a Watch, DeviceId);

impl Watch {
    fn turn(&self, device: &DeviceId, what: &'static str) -> Turn<'_> {
        let before = self.busy.lock().unwrap().insert(device.clone(), what);
        if let Some(before) = before {
            let fault = format!("{device}: {what} during {before}");
            self.faults.lock().unwrap().push(fault);
        }
        Turn(self, device.clone())
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().unwrap().remove(&self.1);
    }
}

#[async_trait]
impl Upstream for Watch {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let _turn = self.turn(&identity.device, "attach");
        self.hub.attach(identity, callback).await
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        let _turn = self.turn(&uplink.device, "send");
        self.hub.send(uplink).await
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        let _turn = uplinks.first().map(|u| self.turn(&u.device, "send"));
        self.hub.send_batch(uplinks).await
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        self.hub.twin(device, request).await
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        let _turn = self.turn(device, "detach");
        self.hub.detach(device).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.hub.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.hub.close(grace).await
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A device sends and waits for its settlement, at most this many milliseconds.
    Send(u8, u64),
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

async fn run_schedule(steps: Vec<Step>) {
    let (busy, faults) = (Arc::default(), Arc::new(Mutex::new(Vec::new())));
    let run = Harness::build(
        |config| {
            config.sessions.capacity = CAPACITY;
            config.sessions.idle_ttl = Duration::from_secs(5);
            let short = Backoff::new(Duration::from_millis(50), Duration::from_millis(400));
            config.sessions.refusal = short.unwrap();
            config.retry.budget = Duration::from_secs(2);
        },
        |hub| Watch {
            hub,
            busy,
            faults: faults.clone(),
        },
        |builder| builder,
    );
    run.hub.set_latency(Duration::from_millis(100));
    let ingress = run.devices.ingress().await;
    let mut presences = HashMap::new();
    let mut sends = JoinSet::new();
    for (at, step) in steps.into_iter().enumerate() {
        match step {
            Step::Send(n, patience) => {
                let (ingress, message) = (ingress.clone(), uplink(&named(n), &at.to_string()));
                sends.spawn(async move {
                    let id = message.id.clone();
                    let deliver = ingress.reserve().await.deliver(message);
                    let settled = timeout(Duration::from_millis(patience), deliver).await;
                    (id, settled.ok())
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
    let accepted: Vec<_> = run.hub.accepted().into_iter().map(|u| u.id).collect();
    for (id, settlement) in settled {
        if settlement == Some(Settlement::Accepted) {
            assert!(accepted.contains(&id), "{id} was not accepted by the hub");
        }
    }
    drop(presences);
    sleep(LONG).await;
    assert_eq!(*faults.lock().unwrap(), Vec::<String>::new());
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
