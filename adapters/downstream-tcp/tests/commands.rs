//! Methods and messages on their way to devices that answer late, too much, or not at all.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::pin::pin;
use std::time::Duration;

use gateway_core::{
    CloudMessage, CorrelationId, Delivered, Disposition, Downlink, Downstream as _, ErrorKind,
    Interest, MethodCall, MethodName, MethodReply,
};
use serde_json::{Value, json};
use support::{Device, Running, config, device};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(120);
/// Short, and on a loaded machine still enough to reach a device.
const BRIEF: Duration = Duration::from_secs(2);

fn message(name: &str, body: &'static str, patience: Duration) -> CloudMessage {
    CloudMessage::new(device(name), body, Instant::now() + patience)
}

fn call(name: &str, patience: Duration) -> MethodCall {
    MethodCall::new(
        device(name),
        CorrelationId::new("1").unwrap(),
        MethodName::new("reboot").unwrap(),
        "{}",
        Instant::now() + patience,
    )
}

impl Running {
    /// Connects a device that the hub sees listen.
    async fn listener(&self, name: &str) -> Device {
        let client = self.connect(name).await;
        let interest = Interest::COMMANDS;
        self.hub.wait_listening(&device(name), interest).await;
        client
    }

    async fn deliver(&self, downlink: Downlink) -> Result<Delivered, ErrorKind> {
        let delivered = self.tcp.send(downlink).await;
        delivered.map_err(|error| error.kind())
    }
}

impl Device {
    async fn answers(&mut self, method: &Value) {
        let id = &method["id"];
        self.say(json!({"type": "method_response", "id": id, "status": 200, "payload": {}}))
            .await;
    }

    async fn settles(&mut self, c2d: &Value) {
        let tag = &c2d["tag"];
        self.say(json!({"type": "c2d_ack", "tag": tag, "outcome": "complete"}))
            .await;
    }
}

#[tokio::test]
async fn a_method_has_the_time_that_its_caller_gave_it() {
    let mut config = config(&["dev1"]);
    config.timeouts.command = Duration::from_millis(1);
    let running = Running::start(config).await;
    let hub = running.hub.clone();
    let mut dev1 = running.listener("dev1").await;
    let mut calling = pin!(hub.call_method(call("dev1", LONG)));
    let method = tokio::select! {
        reply = &mut calling => panic!("answered as {reply:?}"),
        method = dev1.hear() => method,
    };
    assert!(method["timeout_ms"].as_u64().unwrap() > 60_000);
    // The time of all other commands is up.
    let lost = running
        .deliver(Downlink::Message(message("dev1", "1", LONG)))
        .await;
    assert_eq!(lost, Err(ErrorKind::TimedOut));
    dev1.answers(&method).await;
    assert_eq!(calling.await, Some(MethodReply::new(200, "{}")));
    running.end().await;
}

#[tokio::test]
async fn a_late_answer_is_counted_once_and_an_invented_one_never() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.listener("dev1").await;
    let mut method = Value::Null;
    // On a slow machine the call's time may be up before it is shown.
    while method.is_null() {
        let reply = running.hub.call_method(call("dev1", BRIEF)).await;
        assert_eq!(reply.unwrap().status, 504);
        dev1.say(json!({"type": "ping"})).await;
        loop {
            match dev1.hear().await {
                pong if pong["type"] == "pong" => break,
                shown => method = shown,
            }
        }
    }
    for _ in 0..3 {
        dev1.answers(&method).await;
        dev1.answers(&json!({"id": 77})).await;
    }
    dev1.works("the answers have been read").await;
    assert_eq!(running.gateway.stats().methods_late, 1);
    running.end().await;
}

#[tokio::test]
async fn an_answer_that_its_caller_gave_up_on_is_late() {
    let running = Running::start(config(&["dev1"])).await;
    let hub = running.hub.clone();
    let mut dev1 = running.listener("dev1").await;
    let method = {
        let calling = pin!(hub.call_method(call("dev1", LONG)));
        tokio::select! {
            reply = calling => panic!("answered as {reply:?}"),
            method = dev1.hear() => method,
        }
    };
    dev1.answers(&method).await;
    dev1.works("the answer has been read").await;
    assert_eq!(running.gateway.stats().methods_late, 1);
    running.end().await;
}

#[tokio::test]
async fn a_method_for_a_busy_device_is_refused_at_once() {
    let mut config = config(&["dev1"]);
    config.limits.max_commands = 1;
    let running = Running::start(config).await;
    let hub = running.hub.clone();
    let mut dev1 = running.listener("dev1").await;
    let mut first = pin!(hub.call_method(call("dev1", LONG)));
    let method = tokio::select! {
        reply = &mut first => panic!("answered as {reply:?}"),
        method = dev1.hear() => method,
    };
    let mut second = pin!(hub.call_method(call("dev1", LONG)));
    let third = tokio::select! {
        biased;
        reply = &mut second => panic!("answered as {reply:?}"),
        reply = running.hub.call_method(call("dev1", LONG)) => reply,
    };
    let busy = MethodReply::new(503, r#"{"error":"throttled"}"#);
    assert_eq!(third, Some(busy));
    dev1.answers(&method).await;
    assert_eq!(first.await.unwrap().status, 200);
    let answer = async {
        let method = dev1.hear().await;
        dev1.answers(&method).await;
    };
    let (second, ()) = tokio::join!(second, answer);
    assert_eq!(second.unwrap().status, 200);
    running.end().await;
}

#[tokio::test]
async fn commands_of_a_device_that_left_do_not_wait_for_its_uplinks() {
    let mut config = config(&["dev1"]);
    config.limits.max_commands = 1;
    let running = Running::start(config).await;
    let hub = running.hub.clone();
    let mut dev1 = running.listener("dev1").await;
    running.hub.hold();
    dev1.say(json!({"type": "telemetry", "id": "held", "body": 1}))
        .await;
    running.hub.wait_held(1).await;
    let mut begun = pin!(hub.call_method(call("dev1", LONG)));
    tokio::select! {
        reply = &mut begun => panic!("answered as {reply:?}"),
        method = dev1.hear() => assert_eq!(method["type"], "method"),
    }
    let mut waiting = pin!(hub.call_method(call("dev1", LONG)));
    let leave = async { dev1.finish().await };
    let (waiting, begun, ()) = tokio::join!(&mut waiting, begun, leave);
    assert_eq!((waiting.unwrap().status, begun.unwrap().status), (503, 503));
    running.hub.release();
    assert_eq!(dev1.hear().await, json!({"type": "ack", "id": "held"}));
    running.end().await;
}

#[tokio::test]
async fn a_message_that_is_not_confirmed_is_abandoned_at_its_deadline() {
    let running = Running::start(config(&["dev1"])).await;
    let _dev1 = running.listener("dev1").await;
    let message = message("dev1", "1", BRIEF);
    let deadline = message.deadline;
    let settled = running.hub.send_message(message).await;
    assert_eq!(settled, Some(Disposition::Abandon));
    // Long before the 30 s that a device has by default.
    assert!(deadline.elapsed() < Duration::from_secs(20));
    running.end().await;
}

#[tokio::test]
async fn a_message_whose_time_is_up_before_its_turn_is_never_shown() {
    let mut config = config(&["dev1"]);
    config.limits.max_commands = 1;
    let running = Running::start(config).await;
    let hub = running.hub.clone();
    let mut dev1 = running.listener("dev1").await;
    let mut first = pin!(hub.send_message(message("dev1", "1", LONG)));
    let shown = tokio::select! {
        settled = &mut first => panic!("settled as {settled:?}"),
        shown = dev1.hear() => shown,
    };
    let brief = Duration::from_millis(10);
    let second = running.hub.send_message(message("dev1", "2", brief)).await;
    assert_eq!(second, Some(Disposition::Abandon));
    let third = running.hub.send_message(message("dev1", "3", LONG));
    let answer = async {
        dev1.settles(&shown).await;
        let shown = dev1.hear().await;
        assert_eq!(shown["body"], 3);
        dev1.settles(&shown).await;
    };
    let (first, third, ()) = tokio::join!(first, third, answer);
    assert_eq!(
        (first, third),
        (Some(Disposition::Complete), Some(Disposition::Complete))
    );
    running.end().await;
}

#[tokio::test]
async fn a_device_that_confirms_nothing_costs_only_itself() {
    let running = Running::start(config(&["stuck", "dev1"])).await;
    let stuck = running.listener("stuck").await;
    let mut dev1 = running.listener("dev1").await;
    let mut flood = JoinSet::new();
    for _ in 0..100 {
        let hub = running.hub.clone();
        flood.spawn(async move { hub.send_message(message("stuck", "1", LONG)).await });
    }
    for _ in 0..20 {
        let sent = running.hub.send_message(message("dev1", "1", LONG));
        let called = running.hub.call_method(call("dev1", LONG));
        let answer = async {
            for _ in 0..2 {
                let command = dev1.hear().await;
                match command["type"].as_str() {
                    Some("c2d") => dev1.settles(&command).await,
                    _ => dev1.answers(&command).await,
                }
            }
        };
        let (settled, reply, ()) = tokio::join!(sent, called, answer);
        assert_eq!(settled, Some(Disposition::Complete));
        assert_eq!(reply.unwrap().status, 200);
    }
    drop(stuck);
    let settled = flood.join_all().await;
    let stays = |settled: &Option<Disposition>| *settled != Some(Disposition::Complete);
    assert!(settled.iter().all(stays), "{settled:?}");
    running.end().await;
}

#[tokio::test]
async fn a_flood_of_invented_answers_finds_nobody() {
    let running = Running::start(config(&["liar", "dev1"])).await;
    let hub = running.hub.clone();
    let mut liar = running.listener("liar").await;
    let mut dev1 = running.listener("dev1").await;
    let mut calling = pin!(hub.call_method(call("dev1", LONG)));
    let method = tokio::select! {
        reply = &mut calling => panic!("answered as {reply:?}"),
        method = dev1.hear() => method,
    };
    for tag in 0..5_000 {
        liar.answers(&json!({"id": tag})).await;
        liar.settles(&json!({"tag": tag})).await;
    }
    liar.works("the flood has been read").await;
    dev1.answers(&method).await;
    assert_eq!(calling.await.unwrap().status, 200);
    assert_eq!(running.gateway.stats().methods_late, 0);
    running.end().await;
}
