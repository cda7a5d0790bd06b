//! The downstream suite against downstreams with one fault each: a case that passes here proves
//! nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gateway_core::testkit::{
    DeviceClient, DeviceEvent, DownstreamCapabilities, DownstreamFixture, DownstreamSettings,
    downstream,
};
use gateway_core::{
    Delivered, DeviceId, Disposition, Downlink, Downstream, DownstreamError, ErrorKind, MessageId,
    MethodReply, ServeContext, Slot, Uplink,
};
use support::memory_devices::Memory;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    AcknowledgesWhatItWrote,
    TakesNobodyForDisconnected,
    IgnoresShutdown,
    EndsAtNoise,
    TellsAcceptedAtOnce,
    MixesUpReplies,
    NeverSettles,
    HearsNoFarewell,
    LosesLateAnswers,
    RepeatsDesired,
    ForgetsReports,
    IgnoresEnds,
    WaitsForTheGone,
    ReadsAhead,
}
use Fault::*;

#[derive(Debug)]
struct Faulty {
    inner: Memory,
    fault: Fault,
    noise: Arc<tokio::sync::Notify>,
    ahead: Ahead,
}

/// A credit taken before there is a message.
type Ahead = Arc<Mutex<Option<Slot>>>;

#[derive(Debug)]
struct FaultyDownstream {
    inner: Arc<dyn Downstream>,
    fault: Fault,
    noise: Arc<tokio::sync::Notify>,
    ahead: Ahead,
}

#[async_trait]
impl Downstream for FaultyDownstream {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        if self.fault == ReadsAhead {
            let slot = context.ingress.reserve().await;
            *self.ahead.lock().unwrap() = Some(slot);
        }
        tokio::select! {
            served = self.inner.serve(context) => served?,
            () = self.noise.notified() => return Err(DownstreamError::new(ErrorKind::Other, "serve")),
        }
        match self.fault {
            IgnoresShutdown => std::future::pending().await,
            _ => Ok(()),
        }
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        let is_message = matches!(downlink, Downlink::Message(_));
        let is_end = matches!(downlink, Downlink::End(_));
        let delivered = self.inner.send(downlink);
        match self.fault {
            AcknowledgesWhatItWrote if is_message => {
                drop(tokio::time::timeout(Duration::from_millis(10), delivered).await);
                Ok(Delivered::Acknowledged)
            }
            TakesNobodyForDisconnected => delivered
                .await
                .map_err(|_| DownstreamError::new(ErrorKind::Disconnected, "send")),
            IgnoresEnds if is_end => Ok(Delivered::Sent),
            WaitsForTheGone => match delivered.await {
                Err(_) => std::future::pending().await,
                delivered => delivered,
            },
            _ => delivered.await,
        }
    }
}

#[derive(Debug)]
struct FaultyClient {
    inner: Box<dyn DeviceClient>,
    fault: Fault,
    device: DeviceId,
    ahead: Ahead,
    background: JoinSet<()>,
    events: VecDeque<DeviceEvent>,
    last_reply: Option<MethodReply>,
}

#[async_trait]
impl DeviceClient for FaultyClient {
    async fn send(&mut self, id: MessageId, body: Bytes) -> bool {
        if self.fault == TellsAcceptedAtOnce {
            self.events.push_back(DeviceEvent::Accepted(id.clone()));
        }
        if self.fault == ReadsAhead
            && id.as_str() == "late"
            && let Some(slot) = self.ahead.lock().unwrap().take()
        {
            let uplink = Uplink::new(self.device.clone(), id, body);
            let deliver = async { _ = slot.deliver(uplink).await };
            self.background.spawn(deliver);
            return true;
        }
        self.inner.send(id, body).await
    }

    async fn next(&mut self) -> DeviceEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match (self.fault, self.inner.next().await) {
                (NeverSettles | TellsAcceptedAtOnce, DeviceEvent::Accepted(_)) => {}
                (RepeatsDesired, event @ DeviceEvent::Desired { .. }) => {
                    self.events.push_back(event.clone());
                    return event;
                }
                (HearsNoFarewell, DeviceEvent::Closed) => std::future::pending().await,
                (_, event) => return event,
            }
        }
    }

    async fn settle(&mut self, tag: &str, disposition: Disposition) {
        self.inner.settle(tag, disposition).await;
    }

    async fn reply(&mut self, tag: &str, reply: MethodReply) {
        if self.fault == LosesLateAnswers && reply.status == 299 {
            return;
        }
        let own = reply.clone();
        let reply = match (self.fault, self.last_reply.replace(own)) {
            (MixesUpReplies, Some(other)) => other,
            _ => reply,
        };
        self.inner.reply(tag, reply).await;
    }

    async fn ask_twin(&mut self) {
        self.inner.ask_twin().await;
    }

    async fn report(&mut self, patch: Bytes) {
        match self.fault {
            ForgetsReports => self.events.push_back(DeviceEvent::Reported),
            _ => self.inner.report(patch).await,
        }
    }

    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
}

#[async_trait]
impl DownstreamFixture for Faulty {
    fn capabilities(&self) -> DownstreamCapabilities {
        self.inner.capabilities()
    }

    async fn bind(&self, settings: DownstreamSettings) -> Arc<dyn Downstream> {
        Arc::new(FaultyDownstream {
            inner: self.inner.bind(settings).await,
            fault: self.fault,
            noise: self.noise.clone(),
            ahead: self.ahead.clone(),
        })
    }

    async fn connect(&self, device: &DeviceId) -> Box<dyn DeviceClient> {
        Box::new(FaultyClient {
            inner: self.inner.connect(device).await,
            fault: self.fault,
            device: device.clone(),
            ahead: self.ahead.clone(),
            background: JoinSet::new(),
            events: VecDeque::new(),
            last_reply: None,
        })
    }

    async fn intrude(&self, device: &DeviceId, id: MessageId) {
        self.inner.intrude(device, id).await;
    }

    async fn send_garbage(&self) {
        self.inner.send_garbage().await;
        if self.fault == EndsAtNoise {
            self.noise.notify_one();
        }
    }
}

/// Fails unless each case finds its fault, by a panic or by not coming to an end.
macro_rules! assert_caught {
    ($($fault:ident: $($case:ident),+;)+) => {{
        let mut cases = JoinSet::new();
        $($(cases.spawn(async {
            let fixture = Faulty {
                inner: Memory::default(),
                fault: $fault,
                noise: Arc::default(),
                ahead: Arc::default(),
            };
            let mut case = JoinSet::new();
            case.spawn(async move { downstream::$case(&fixture).await });
            let ended = tokio::time::timeout(Duration::from_secs(5), case.join_next()).await;
            let caught = !matches!(ended, Ok(Some(Ok(_))));
            (caught, concat!(stringify!($case), " with ", stringify!($fault)))
        });)+)+
        let missed: Vec<_> = cases.join_all().await.into_iter().filter(|(caught, _)| !caught).collect();
        assert!(missed.is_empty(), "{missed:#?}");
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_found_by_a_case() {
    assert_caught! {
        AcknowledgesWhatItWrote: an_acknowledged_message_completes, a_refused_message_is_rejected,
            a_message_that_could_not_be_taken_now_is_abandoned,
            a_connection_lost_while_waiting_is_never_acknowledged, a_device_that_is_gone_is_unknown;
        TakesNobodyForDisconnected: a_device_that_is_gone_is_unknown,
            a_refused_message_is_rejected, a_silent_method_ends_with_its_deadline;
        IgnoresShutdown: shutdown_finishes_what_is_in_flight;
        EndsAtNoise: garbage_never_ends_serve;
        TellsAcceptedAtOnce: a_device_is_told_accepted_only_after_the_hub_accepted,
            a_rejection_is_told, a_retry_is_told, a_device_that_the_hub_refuses_harms_nobody;
        MixesUpReplies: parallel_methods_get_their_own_replies;
        NeverSettles: a_device_is_told_accepted_only_after_the_hub_accepted,
            a_device_keeps_its_order;
        HearsNoFarewell: the_newest_connection_of_a_device_wins;
        LosesLateAnswers: a_late_answer_is_dropped_and_counted;
        RepeatsDesired: a_desired_change_reaches_a_device_once_and_in_order;
        ForgetsReports: a_device_reads_and_reports_its_twin;
        IgnoresEnds: the_end_of_a_session_closes_the_connection;
        WaitsForTheGone: a_method_of_a_device_that_leaves_fails_at_once;
        ReadsAhead: what_is_sent_after_the_shutdown_began_is_not_taken;
    }
}
