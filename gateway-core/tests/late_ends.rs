//! Ends of sessions that arrive late: after the device was attached anew.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::testkit::{MemoryUpstream, RecordingCallback};
use gateway_core::{
    CloudCallback, CloudMessage, DesiredPatch, DeviceId, DeviceIdentity, Disposition, ErrorKind,
    MethodCall, MethodReply, SessionEnd, Settlement, TwinReply, TwinRequest, Uplink, Upstream,
    UpstreamError, UpstreamExplanation,
};
use support::{Harness, device, soon};
use tokio::time::sleep;

type Ends = Arc<Mutex<Vec<(Arc<dyn CloudCallback>, SessionEnd)>>>;

/// Keeps ends back until a test lets them go.
#[derive(Debug)]
struct Late {
    hub: MemoryUpstream,
    ends: Ends,
}

#[derive(Debug)]
struct LateCallback {
    next: Arc<dyn CloudCallback>,
    ends: Ends,
}

#[async_trait]
impl CloudCallback for LateCallback {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        self.next.on_method(call).await
    }

    async fn on_message(&self, message: CloudMessage) -> Disposition {
        self.next.on_message(message).await
    }

    async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
        self.next.on_desired(patch).await
    }

    async fn on_end(&self, end: SessionEnd) {
        self.ends.lock().unwrap().push((self.next.clone(), end));
    }
}

#[async_trait]
impl Upstream for Late {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let (next, ends) = (callback, self.ends.clone());
        let callback = Arc::new(LateCallback { next, ends });
        self.hub.attach(identity, callback).await
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        self.hub.send(uplink).await
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
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
        self.hub.detach(device).await
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.hub.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        self.hub.close(grace).await
    }
}

struct Run {
    harness: Harness,
    ends: Ends,
    /// What an integrator's callback hears.
    heard: RecordingCallback,
}

impl Run {
    fn start() -> Self {
        let (ends, heard) = (Ends::default(), RecordingCallback::new());
        let (late, hears) = (ends.clone(), heard.clone());
        let harness = Harness::build(
            |config| config.sessions.idle_ttl = Duration::from_secs(80),
            |hub| Late { hub, ends: late },
            |builder| builder.with_callback(|_| hears),
        );
        Self {
            harness,
            ends,
            heard,
        }
    }

    /// Lets the ends kept back arrive, and says how many there were.
    async fn arrive(&self) -> usize {
        let ends = std::mem::take(&mut *self.ends.lock().unwrap());
        let count = ends.len();
        for (callback, end) in ends {
            soon(callback.on_end(end)).await;
        }
        count
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_that_arrives_after_a_new_attach_ends_nothing() {
    let run = Run::start();
    let (hub, a) = (&run.harness.hub, device("a"));
    assert_eq!(run.harness.send("a", "1").await, Settlement::Accepted);
    hub.end_session(&a, ErrorKind::Unauthorized).await;
    // The hub does not know the device, so it is attached anew.
    assert_eq!(run.harness.send("a", "2").await, Settlement::Accepted);
    assert_eq!(hub.attaches(&a), 2);
    assert_eq!(run.arrive().await, 1);
    assert_eq!(run.harness.send("a", "3").await, Settlement::Accepted);
    assert_eq!(hub.attaches(&a), 2);
    assert!(run.heard.record().ends.is_empty());
    // The newer session's own end is believed.
    hub.end_session(&a, ErrorKind::Unauthorized).await;
    assert_eq!(run.arrive().await, 1);
    let refused = Settlement::Rejected(ErrorKind::Unauthorized);
    assert_eq!(run.harness.send("a", "4").await, refused);
    assert_eq!(run.heard.record().ends.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_outlives_its_session_ends_no_later_one() {
    let run = Run::start();
    let (hub, a) = (&run.harness.hub, device("a"));
    for n in 0..5 {
        hub.detach(&a).await.unwrap();
        let sent = run.harness.send("a", &n.to_string()).await;
        assert_eq!(sent, Settlement::Accepted);
    }
    hub.end_session(&a, ErrorKind::Unauthorized).await;
    while run.harness.gateway.stats().sessions.sessions > 0 {
        sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(run.harness.send("a", "new").await, Settlement::Accepted);
    assert_eq!(run.arrive().await, 1);
    assert_eq!(run.harness.send("a", "newer").await, Settlement::Accepted);
    assert_eq!(hub.attaches(&a), 6);
}
