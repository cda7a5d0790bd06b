//! Commands on their way from the hub to a device.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gateway_core::testkit::{Command, MemoryDevice};
use gateway_core::{
    Announcement, CloudCallback, CloudMessage, CorrelationId, Delivered, DesiredPatch, DeviceId,
    Disposition, Downlink, Downstream, DownstreamError, ErrorKind, GatewayBuilder, Interest,
    MethodCall, MethodName, MethodReply, ServeContext, SessionEnd, Settlement,
};
use support::{Harness, device, soon};
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

fn call(device: &DeviceId) -> MethodCall {
    MethodCall::new(
        device.clone(),
        CorrelationId::new("1").unwrap(),
        MethodName::new("reboot").unwrap(),
        "{}",
        Instant::now() + PATIENCE,
    )
}

fn message(device: &DeviceId) -> CloudMessage {
    CloudMessage::new(device.clone(), "hello", Instant::now() + PATIENCE)
}

async fn connect(run: &Harness, name: &str) -> MemoryDevice {
    let announcement = Announcement::new(device(name)).with_interest(Interest::ALL);
    run.devices.connect_as(announcement).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_device_answers_its_own_methods() {
    let run = Harness::start(|_| {});
    let (a, b) = (connect(&run, "a").await, connect(&run, "b").await);
    let answer = async |device: &MemoryDevice, status| {
        let command = device.next().await.unwrap();
        assert_eq!(command.downlink().device(), device.id());
        command.reply(MethodReply::new(status, "{}"));
    };
    let (call_a, call_b) = (call(a.id()), call(b.id()));
    let (reply_a, reply_b, (), ()) = tokio::join!(
        run.hub.call_method(call_a),
        run.hub.call_method(call_b),
        answer(&b, 202),
        answer(&a, 201),
    );
    assert_eq!(reply_a.unwrap().status, 201);
    assert_eq!(reply_b.unwrap().status, 202);
    assert_eq!(run.gateway.stats().methods_answered, 2);
}

/// Takes the next method that reaches a device.
async fn next_method(device: &MemoryDevice) -> (MethodCall, Command) {
    let command = device.next().await.unwrap();
    let Downlink::Method(call) = command.downlink().clone() else {
        panic!("not a method: {command:?}");
    };
    (call, command)
}

#[tokio::test(start_paused = true)]
async fn methods_of_one_device_each_get_their_own_answer_in_any_order() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    let called = |payload: &'static str| {
        let mut call = call(a.id());
        call.payload = payload.into();
        run.hub.call_method(call)
    };
    let answer = async {
        let (first, second) = (next_method(&a).await, next_method(&a).await);
        for (call, command) in [second, first] {
            command.reply(MethodReply::new(200, call.payload));
        }
    };
    let (one, two, ()) = tokio::join!(called("1"), called("2"), answer);
    assert_eq!(one, Some(MethodReply::new(200, "1")));
    assert_eq!(two, Some(MethodReply::new(200, "2")));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_known_and_not_connected_is_answered_at_once() {
    let run = Harness::start(|_| {});
    let a = device("a");
    assert_eq!(run.send("a", "1").await, Settlement::Accepted);
    let announcement = Announcement::new(a.clone());
    let _presence = run.online(announcement).await.unwrap();
    let started = Instant::now();
    let reply = run.hub.call_method(call(&a)).await.unwrap();
    assert_eq!((reply.status, started.elapsed()), (404, Duration::ZERO));
    let settled = run.hub.send_message(message(&a)).await;
    assert_eq!(settled, Some(Disposition::Abandon));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_leaves_before_it_answers_is_waited_for_no_longer() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    let (hub, call) = (run.hub.clone(), call(a.id()));
    let started = Instant::now();
    let leave = async {
        let asked = next_method(&a).await;
        drop(a);
        asked
    };
    let (reply, _unanswered) = tokio::join!(hub.call_method(call), leave);
    assert_eq!(reply.unwrap().status, 503);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_waited_for_as_long_as_the_request_says() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    for patience in [5, 300].map(Duration::from_secs) {
        let started = Instant::now();
        let mut call = call(a.id());
        call.deadline = started + patience;
        let reply = run.hub.call_method(call).await;
        assert_eq!(reply.unwrap().status, 504);
        // Timers have whole milliseconds.
        let waited = started.elapsed();
        assert!(waited >= patience && waited < patience + Duration::from_millis(5));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_after_the_deadline_is_dropped_and_counted() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    let reply = run.hub.call_method(call(a.id())).await;
    assert_eq!(reply.unwrap().status, 504);
    let (_, late) = next_method(&a).await;
    assert_eq!(run.gateway.stats().methods_late, 0);
    late.reply(MethodReply::new(200, "{}"));
    let stats = run.gateway.stats();
    assert_eq!((stats.methods_late, stats.methods_unanswered), (1, 1));
    assert_eq!(stats.methods_answered, 0);
}

#[tokio::test(start_paused = true)]
async fn every_failure_of_a_method_is_a_reply() {
    use ErrorKind::*;
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    for (kind, status) in [
        (UnknownDevice, 404),
        (TooLarge, 413),
        (Rejected, 403),
        (Unauthorized, 403),
        (Unsupported, 501),
        (Disconnected, 503),
        (Closed, 503),
        (Throttled, 503),
        (TimedOut, 504),
        (Other, 500),
    ] {
        let refuse = async { a.next().await.unwrap().refuse(kind) };
        let (reply, ()) = tokio::join!(run.hub.call_method(call(a.id())), refuse);
        let body = format!("{{\"error\":\"{kind}\"}}");
        assert_eq!(reply, Some(MethodReply::new(status, body)));
    }
    let take = async { a.next().await.unwrap().acknowledge() };
    let (reply, ()) = tokio::join!(run.hub.call_method(call(a.id())), take);
    assert_eq!(reply.unwrap().status, 202, "taken, and without an answer");
    assert_eq!(run.gateway.stats().methods_unanswered, 11);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_settled_by_what_became_of_it() {
    use ErrorKind::*;
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    for (kind, disposition) in [
        (Rejected, Disposition::Reject),
        (TooLarge, Disposition::Reject),
        (Unsupported, Disposition::Reject),
        (UnknownDevice, Disposition::Abandon),
        (Disconnected, Disposition::Abandon),
        (TimedOut, Disposition::Abandon),
        (Throttled, Disposition::Abandon),
        (Unauthorized, Disposition::Abandon),
        (Other, Disposition::Abandon),
    ] {
        let refuse = async { a.next().await.unwrap().refuse(kind) };
        let (settled, ()) = tokio::join!(run.hub.send_message(message(a.id())), refuse);
        assert_eq!(settled, Some(disposition), "{kind}");
    }
    let take = async { a.next().await.unwrap().acknowledge() };
    let (settled, ()) = tokio::join!(run.hub.send_message(message(a.id())), take);
    assert_eq!(settled, Some(Disposition::Complete));
    let stats = run.gateway.stats();
    assert_eq!(
        (
            stats.messages_completed,
            stats.messages_rejected,
            stats.messages_abandoned
        ),
        (1, 3, 6)
    );
}

/// Takes everything and never answers.
#[derive(Debug)]
struct Silent;

#[async_trait]
impl Downstream for Silent {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        context.shutdown.cancelled().await;
        Ok(())
    }

    async fn send(&self, _: Downlink) -> Result<Delivered, DownstreamError> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_past_its_deadline_for_a_silent_downstream() {
    let run = Harness::build(|_| {}, |hub| hub, |b| b.with_downstream("silent", Silent));
    let a = device("a");
    let ingress = run.gateway.ingress("silent").unwrap();
    let announcement = Announcement::new(a.clone()).with_interest(Interest::ALL);
    let _presence = ingress.online(announcement).await.unwrap();
    let started = Instant::now();
    let (reply, settled) = tokio::join!(
        run.hub.call_method(call(&a)),
        run.hub.send_message(message(&a))
    );
    assert_eq!(reply.unwrap().status, 504);
    assert_eq!(settled, Some(Disposition::Abandon));
    assert!(started.elapsed() < PATIENCE * 2);
    // These have no deadline of their own, and must not pile up either.
    soon(run.hub.patch_desired(&a, "{}")).await.unwrap();
    soon(run.hub.end_session(&a, ErrorKind::Unauthorized)).await;
}

/// Panics over every command.
#[derive(Debug)]
struct Panicking;

#[async_trait]
impl Downstream for Panicking {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        context.shutdown.cancelled().await;
        Ok(())
    }

    async fn send(&self, _: Downlink) -> Result<Delivered, DownstreamError> {
        tokio::task::yield_now().await;
        panic!("a fault of its own")
    }
}

#[tokio::test(start_paused = true)]
async fn a_downstream_that_panics_costs_the_command_and_no_more() {
    let with_it = |b| GatewayBuilder::with_downstream(b, "panicking", Panicking);
    let run = Harness::build(|_| {}, |hub| hub, with_it);
    let a = device("a");
    let ingress = run.gateway.ingress("panicking").unwrap();
    let announcement = Announcement::new(a.clone()).with_interest(Interest::ALL);
    let _presence = ingress.online(announcement).await.unwrap();
    for _ in 0..2 {
        let reply = run.hub.call_method(call(&a)).await;
        assert_eq!(reply.unwrap().status, 500);
        let settled = run.hub.send_message(message(&a)).await;
        assert_eq!(settled, Some(Disposition::Abandon));
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_goes_to_the_downstream_that_saw_the_device_last() {
    let run = Harness::build(|_| {}, |hub| hub, |b| b.with_downstream("silent", Silent));
    let a = device("a");
    let elsewhere = run.gateway.ingress("silent").unwrap();
    let _older = elsewhere
        .online(Announcement::new(a.clone()))
        .await
        .unwrap();
    let newer = connect(&run, "a").await;
    let take = async { newer.next().await.unwrap().acknowledge() };
    let (settled, ()) = tokio::join!(run.hub.send_message(message(&a)), take);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test(start_paused = true)]
async fn a_desired_patch_and_the_end_of_a_session_reach_the_device() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    let take = async {
        let command = a.next().await.unwrap();
        let Downlink::Desired(patch) = command.downlink().clone() else {
            panic!("not a patch: {command:?}");
        };
        command.acknowledge();
        patch
    };
    let (version, patch) = tokio::join!(run.hub.patch_desired(a.id(), r#"{"x":1}"#), take);
    assert_eq!(
        patch,
        DesiredPatch::new(a.id().clone(), version.unwrap(), r#"{"x":1}"#)
    );
    run.hub.end_session(a.id(), ErrorKind::Unauthorized).await;
    soon(a.ended()).await;
}

/// Tells the device of changes to these versions, one after the other, and gives those that reached
/// it.
async fn reached(run: &Harness, device: &MemoryDevice, sent: &[u64]) -> Vec<u64> {
    let changes = sent.iter();
    let changes = changes.map(|version| DesiredPatch::new(device.id().clone(), *version, "{}"));
    reached_of(run, device, changes.collect()).await
}

async fn reached_of(run: &Harness, device: &MemoryDevice, sent: Vec<DesiredPatch>) -> Vec<u64> {
    let mut reached = Vec::new();
    for patch in sent {
        let mut told = pin!(run.hub.send_desired(patch));
        let command = tokio::select! {
            biased;
            () = &mut told => continue,
            command = device.next() => command.unwrap(),
        };
        let Downlink::Desired(patch) = command.downlink() else {
            panic!("not a patch: {command:?}");
        };
        reached.push(patch.version);
        command.acknowledge();
        told.await;
    }
    reached
}

#[tokio::test(start_paused = true)]
async fn a_desired_change_reaches_a_device_only_if_it_is_newer_than_the_last() {
    let run = Harness::start(|_| {});
    let (a, b) = (connect(&run, "a").await, connect(&run, "b").await);
    assert_eq!(reached(&run, &a, &[3, 3, 2, 4, 1, 9, 4]).await, [3, 4, 9]);
    assert_eq!(
        reached(&run, &b, &[1]).await,
        [1],
        "each device has its own"
    );
    let stats = run.gateway.stats();
    assert_eq!((stats.desired_delivered, stats.desired_stale), (4, 4));
    assert_eq!(stats.desired_undelivered, 0);
}

#[tokio::test(start_paused = true)]
async fn all_desired_properties_at_once_reach_a_device_once_even_if_the_hub_counts_anew() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    let whole = |version| DesiredPatch::new(a.id().clone(), version, "{}").whole();
    assert_eq!(reached(&run, &a, &[8]).await, [8]);
    let sent = vec![whole(8), whole(9), whole(2), whole(2)];
    assert_eq!(reached_of(&run, &a, sent).await, [9, 2]);
    assert_eq!(reached(&run, &a, &[2, 3]).await, [3]);
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_does_not_count_versions_is_always_believed() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    assert_eq!(reached(&run, &a, &[0, 0]).await, [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_online_anew_may_be_told_again() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    assert_eq!(reached(&run, &a, &[5]).await, [5]);
    let again = connect(&run, "a").await;
    assert_eq!(reached(&run, &again, &[4, 5, 5]).await, [4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_desired_change_that_did_not_arrive_may_come_again() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    assert_eq!(reached(&run, &a, &[6]).await, [6]);
    let patch = || DesiredPatch::new(a.id().clone(), 7, "{}");
    let refuse = async { a.next().await.unwrap().refuse(ErrorKind::Disconnected) };
    tokio::join!(run.hub.send_desired(patch()), refuse);
    assert_eq!(run.gateway.stats().desired_undelivered, 1);
    // Given up halfway, as by an upstream whose connection is cut.
    let given_up = timeout(Duration::ZERO, run.hub.send_desired(patch())).await;
    assert!(given_up.is_err());
    drop(a.next().await);
    assert_eq!(reached(&run, &a, &[7, 6]).await, [7]);
}

/// Takes the next change that reaches a device.
async fn next_change(device: &MemoryDevice) -> (DesiredPatch, Command) {
    let command = soon(device.next()).await.unwrap();
    let Downlink::Desired(patch) = command.downlink().clone() else {
        panic!("not a change: {command:?}");
    };
    (patch, command)
}

#[tokio::test(start_paused = true)]
async fn a_device_that_missed_a_change_is_given_all_desired_properties_when_it_can_take_them() {
    let run = Harness::start(|_| {});
    let a = connect(&run, "a").await;
    let device = async {
        let (patch, command) = next_change(&a).await;
        assert!(!patch.is_whole);
        command.refuse(ErrorKind::Throttled);
        let (patch, unanswered) = next_change(&a).await;
        assert!(patch.is_whole);
        let (patch, command) = next_change(&a).await;
        command.acknowledge();
        drop(unanswered);
        patch
    };
    let (patched, patch) = tokio::join!(run.hub.patch_desired(a.id(), r#"{"x":1}"#), device);
    let all = DesiredPatch::new(a.id().clone(), patched.unwrap(), r#"{"$version":1,"x":1}"#);
    assert_eq!(patch, all.whole());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stats = run.gateway.stats();
    assert_eq!((stats.desired_delivered, stats.desired_undelivered), (1, 2));
    let (patched, ()) = tokio::join!(run.hub.patch_desired(a.id(), r#"{"y":1}"#), async {
        next_change(&a).await.1.refuse(ErrorKind::Rejected);
    });
    patched.unwrap();
    let more = timeout(PATIENCE, a.next()).await;
    assert!(more.is_err(), "it was refused for good: {more:?}");
}

/// Answers one method itself.
#[derive(Debug)]
struct Answer {
    status: i32,
    next: Arc<dyn CloudCallback>,
}

#[async_trait]
impl CloudCallback for Answer {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        match call.name.as_str() {
            "reboot" => MethodReply::new(self.status, ""),
            _ => self.next.on_method(call).await,
        }
    }

    async fn on_message(&self, message: CloudMessage) -> Disposition {
        self.next.on_message(message).await
    }

    async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
        self.next.on_desired(patch).await
    }

    async fn on_end(&self, end: SessionEnd) {
        self.next.on_end(end).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_callback_added_last_sees_a_call_first() {
    let answer = |status| move |next| Answer { status, next };
    let run = Harness::build(
        |_| {},
        |hub| hub,
        |builder| builder.with_callback(answer(1)).with_callback(answer(2)),
    );
    let a = connect(&run, "a").await;
    let reply = run.hub.call_method(call(a.id())).await;
    assert_eq!(reply.unwrap().status, 2);
    let take = async { a.next().await.unwrap().acknowledge() };
    let (settled, ()) = tokio::join!(run.hub.send_message(message(a.id())), take);
    assert_eq!(settled, Some(Disposition::Complete));
}
