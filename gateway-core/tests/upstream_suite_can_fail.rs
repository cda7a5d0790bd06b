//! The upstream suite against upstreams with one fault each: a case that passes here proves
//! nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::testkit::{MemoryUpstream, upstream};
use gateway_core::{
    CloudCallback, CloudMessage, DesiredPatch, DeviceId, DeviceIdentity, Disposition, ErrorKind,
    Interest, MethodCall, MethodReply, Properties, SessionEnd, TwinReply, TwinRequest, Uplink,
    Upstream, UpstreamError, UpstreamExplanation,
};
use support::memory_hub::Memory;
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::task::JoinSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    SaysOkAtOnce,
    TakesALostConnectionForOk,
    TakesARefusalForALostConnection,
    SwapsMessages,
    DropsProperties,
    LosesASendSilently,
    InventsAMessage,
    ForgetsDevicesAtACut,
    AttachesAnewEachTime,
    IgnoresRefusals,
    EndsWithARefusal,
    IgnoresInterest,
    KeepsTheFirstCallback,
    GoesOnWithADroppedAttach,
    IgnoresDetach,
    CallsBackOneByOne,
    CompletesEverything,
    AnswersMethodsItself,
    HidesSessionEnds,
    DropsPatches,
    HearsOneChange,
    SkipsAChange,
    ForgetsMissedChanges,
    TakesPartOfABatch,
    ReversesBatches,
    SendsBatchesOneByOne,
    ClosesWithoutDraining,
    IgnoresClose,
    ForgetsTwinsAtClose,
}
use Fault::*;

#[derive(Debug)]
struct Faulty {
    hub: MemoryUpstream,
    fault: Fault,
    sent: AtomicU64,
    is_cut: AtomicBool,
    one_by_one: Arc<Mutex<()>>,
    first: std::sync::Mutex<HashMap<DeviceId, Arc<dyn CloudCallback>>>,
    background: std::sync::Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct FaultyCallback {
    next: Arc<dyn CloudCallback>,
    fault: Fault,
    changes: AtomicU64,
    one_by_one: Arc<Mutex<()>>,
}

impl FaultyCallback {
    async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.fault {
            CallsBackOneByOne => Some(self.one_by_one.lock().await),
            _ => None,
        }
    }
}

#[async_trait]
impl CloudCallback for FaultyCallback {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        let _turn = self.turn().await;
        let reply = self.next.on_method(call).await;
        match self.fault {
            AnswersMethodsItself => MethodReply::new(200, "{}"),
            _ => reply,
        }
    }

    async fn on_message(&self, message: CloudMessage) -> Disposition {
        let _turn = self.turn().await;
        let disposition = self.next.on_message(message).await;
        match self.fault {
            CompletesEverything => Disposition::Complete,
            _ => disposition,
        }
    }

    async fn on_desired(&self, mut patch: DesiredPatch) -> Disposition {
        let number = self.changes.fetch_add(1, Relaxed);
        match self.fault {
            DropsPatches => patch.version = 1,
            HearsOneChange if number > 0 => return Disposition::Complete,
            SkipsAChange if number == 1 => return Disposition::Complete,
            _ => {}
        }
        let _turn = self.turn().await;
        let disposition = self.next.on_desired(patch).await;
        match self.fault {
            ForgetsMissedChanges => Disposition::Complete,
            _ => disposition,
        }
    }

    async fn on_end(&self, mut end: SessionEnd) {
        if self.fault == HidesSessionEnds {
            end.reason = ErrorKind::Other;
        }
        self.next.on_end(end).await;
    }
}

#[async_trait]
impl Upstream for Faulty {
    async fn attach(
        &self,
        identity: DeviceIdentity,
        callback: Arc<dyn CloudCallback>,
    ) -> Result<(), UpstreamError> {
        let next = match self.fault {
            KeepsTheFirstCallback => {
                let mut first = self.first.lock().unwrap();
                let first = first.entry(identity.device.clone());
                first.or_insert(callback).clone()
            }
            _ => callback,
        };
        let callback = Arc::new(FaultyCallback {
            next,
            fault: self.fault,
            changes: AtomicU64::new(0),
            one_by_one: self.one_by_one.clone(),
        });
        let identity = match self.fault {
            AttachesAnewEachTime => {
                self.hub.attach(identity.clone(), callback.clone()).await?;
                self.hub.detach(&identity.device).await?;
                identity
            }
            IgnoresInterest if self.hub.is_attached(&identity.device) => {
                identity.with_interest(Interest::ALL)
            }
            _ => identity,
        };
        if self.fault == GoesOnWithADroppedAttach {
            let hub = self.hub.clone();
            let (told, verdict) = oneshot::channel();
            let attach = async move { drop(told.send(hub.attach(identity, callback).await)) };
            self.background.lock().unwrap().spawn(attach);
            return verdict.await.unwrap();
        }
        let device = identity.device.clone();
        match self.hub.attach(identity, callback).await {
            Err(_) if self.fault == IgnoresRefusals => Ok(()),
            Err(error) if self.fault == EndsWithARefusal => {
                self.hub.detach(&device).await?;
                Err(error)
            }
            result => result,
        }
    }

    async fn send(&self, uplink: &Uplink) -> Result<(), UpstreamError> {
        let number = self.sent.fetch_add(1, Relaxed);
        let mut uplink = uplink.clone();
        match self.fault {
            SaysOkAtOnce => {
                let hub = self.hub.clone();
                let send = async move { drop(hub.send(&uplink).await) };
                self.background.lock().unwrap().spawn(send);
                return Ok(());
            }
            SwapsMessages if number % 7 == 3 => tokio::time::sleep(Duration::from_millis(20)).await,
            DropsProperties => uplink.properties = Properties::new(),
            LosesASendSilently if number % 7 == 3 => return Ok(()),
            InventsAMessage if number % 7 == 3 => {
                uplink.id = gateway_core::MessageId::random();
                self.hub.send(&uplink).await?;
            }
            ForgetsDevicesAtACut if self.is_cut.load(Relaxed) => {
                return Err(UpstreamError::new(ErrorKind::UnknownDevice, "send"));
            }
            _ => {}
        }
        let result = self.hub.send(&uplink).await;
        match (self.fault, result.as_ref().map_err(UpstreamError::kind)) {
            (TakesALostConnectionForOk, Err(ErrorKind::Disconnected)) => Ok(()),
            (TakesARefusalForALostConnection, Err(_)) => {
                Err(UpstreamError::new(ErrorKind::Disconnected, "send"))
            }
            (ForgetsDevicesAtACut, Err(ErrorKind::Disconnected)) => {
                self.is_cut.store(true, Relaxed);
                result
            }
            _ => result,
        }
    }

    async fn send_batch(&self, uplinks: &[Uplink]) -> Result<(), UpstreamError> {
        let mut uplinks = uplinks.to_vec();
        match self.fault {
            SaysOkAtOnce => {
                let hub = self.hub.clone();
                let send = async move { drop(hub.send_batch(&uplinks).await) };
                self.background.lock().unwrap().spawn(send);
                return Ok(());
            }
            TakesPartOfABatch => uplinks.truncate(uplinks.len() / 2 + 1),
            ReversesBatches => uplinks.reverse(),
            SendsBatchesOneByOne => {
                let mut result = Ok(());
                for uplink in &uplinks {
                    result = result.and(self.hub.send(uplink).await);
                }
                return result;
            }
            _ => {}
        }
        match self.hub.send_batch(&uplinks).await {
            Err(_) if self.fault == TakesALostConnectionForOk => Ok(()),
            result => result,
        }
    }

    async fn twin(
        &self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        match (self.fault, request) {
            (DropsPatches, TwinRequest::PatchReported(_)) => Ok(TwinReply::new("", None)),
            (ForgetsTwinsAtClose, request) => match self.hub.twin(device, request).await {
                Err(error) if error.kind() == ErrorKind::Closed => std::future::pending().await,
                result => result,
            },
            (_, request) => self.hub.twin(device, request).await,
        }
    }

    async fn detach(&self, device: &DeviceId) -> Result<(), UpstreamError> {
        match self.fault {
            IgnoresDetach => Ok(()),
            _ => self.hub.detach(device).await,
        }
    }

    fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        self.hub.explain(device)
    }

    async fn close(&self, grace: Duration) -> Result<(), UpstreamError> {
        match self.fault {
            ClosesWithoutDraining => self.hub.close(Duration::ZERO).await,
            IgnoresClose => Ok(()),
            _ => self.hub.close(grace).await,
        }
    }
}

fn faulty(fault: Fault) -> Memory {
    Memory::new(|hub| Faulty {
        hub,
        fault,
        sent: AtomicU64::new(0),
        is_cut: AtomicBool::new(false),
        one_by_one: Arc::default(),
        first: std::sync::Mutex::default(),
        background: std::sync::Mutex::default(),
    })
}

/// Fails unless each case finds its fault, by a panic or by not coming to an end.
macro_rules! assert_caught {
    ($($fault:ident: $($case:ident),+;)+) => {{
        let mut cases = JoinSet::new();
        $($(cases.spawn(async {
            let fixture = faulty($fault);
            let mut case = JoinSet::new();
            case.spawn(async move { upstream::$case(&fixture).await });
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
        SaysOkAtOnce: ok_only_after_the_hub_accepted, a_lost_settlement_is_never_ok,
            a_rejected_message_is_rejected, close_drains_then_refuses,
            a_batch_is_ok_only_after_the_hub_accepted_all, a_refused_batch_is_refused_whole,
            a_dropped_send_leaves_the_link_usable_and_in_order, a_too_large_message_is_told;
        TakesALostConnectionForOk: a_lost_settlement_is_never_ok,
            a_cut_in_flight_is_disconnected_and_the_device_sends_again, close_ends_with_its_grace,
            a_batch_cut_in_flight_is_disconnected;
        TakesARefusalForALostConnection: a_rejected_message_is_rejected,
            a_too_large_message_is_told, sending_without_attach_is_unknown_device;
        SwapsMessages: many_devices_in_parallel_keep_their_order;
        DropsProperties: a_message_survives_whole;
        LosesASendSilently: nothing_is_lost_or_invented_over_reconnects,
            many_devices_in_parallel_keep_their_order;
        InventsAMessage: nothing_is_lost_or_invented_over_reconnects;
        ForgetsDevicesAtACut: a_cut_in_flight_is_disconnected_and_the_device_sends_again;
        AttachesAnewEachTime: parallel_attaches_are_one;
        IgnoresRefusals: a_refused_device_harms_nobody, an_expired_credential_is_unauthorized;
        EndsWithARefusal: a_refused_credential_changes_nothing;
        IgnoresInterest: interest_off_ends_commands;
        KeepsTheFirstCallback: the_newest_callback_hears_everything;
        GoesOnWithADroppedAttach: a_dropped_attach_is_undone;
        IgnoresDetach: detached_is_unknown_and_detaching_twice_is_ok;
        CallsBackOneByOne: a_slow_callback_stalls_nobody, a_slow_method_or_change_stalls_nobody;
        CompletesEverything: a_refused_message_is_rejected_at_the_hub,
            an_abandoned_message_comes_again;
        AnswersMethodsItself: a_method_reply_reaches_the_hub,
            parallel_methods_get_their_own_replies;
        HidesSessionEnds: a_session_ends_with_its_token;
        DropsPatches: a_twin_is_read_and_patched, a_desired_patch_arrives;
        HearsOneChange: desired_changes_come_again_after_a_cut;
        SkipsAChange: desired_changes_come_again_after_a_cut;
        ForgetsMissedChanges: an_abandoned_desired_change_comes_again_with_all;
        TakesPartOfABatch: a_batch_is_taken_whole_and_in_order,
            a_batch_is_ok_only_after_the_hub_accepted_all, a_too_large_batch_is_whole_or_told;
        ReversesBatches: a_batch_is_taken_whole_and_in_order;
        SendsBatchesOneByOne: a_refused_batch_is_refused_whole;
        ClosesWithoutDraining: close_drains_then_refuses, close_leaves_no_call_without_an_end;
        IgnoresClose: close_drains_then_refuses, close_ends_with_its_grace,
            close_leaves_no_call_without_an_end;
        ForgetsTwinsAtClose: close_leaves_no_call_without_an_end;
    }
}
