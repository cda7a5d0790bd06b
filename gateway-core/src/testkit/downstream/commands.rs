use std::collections::HashMap;
use std::pin::pin;

use tokio::time::{Instant, timeout};

use super::*;
use crate::error::ErrorKind;
use crate::id::CorrelationId;
use crate::message::{CloudMessage, Delivered, Downlink, MethodCall};
use crate::testkit::join_in_order;
use crate::upstream::Interest;

/// Longer than any case.
const LONG: Duration = Duration::from_secs(120);

fn cloud_message(device: &DeviceId, text: &str) -> CloudMessage {
    CloudMessage::new(device.clone(), body(text), Instant::now() + LONG).with_id("c2d-1")
}

fn method_call(device: &DeviceId, number: usize, patience: Duration) -> MethodCall {
    MethodCall::new(
        device.clone(),
        CorrelationId::new(format!("call-{number}")).expect("a valid id"),
        MethodName::new("echo").expect("a valid name"),
        body(&number.to_string()),
        Instant::now() + patience,
    )
}

/// Connects a device and waits until the hub sees it listen.
async fn listen(
    fixture: &dyn DownstreamFixture,
    running: &Running,
    name: &DeviceId,
) -> Box<dyn DeviceClient> {
    let client = fixture.connect(name).await;
    running.hub.wait_listening(name, Interest::COMMANDS).await;
    client
}

async fn next_message(client: &mut dyn DeviceClient) -> (String, Bytes) {
    match client.next().await {
        DeviceEvent::Message { tag, body } => (tag, body),
        other => panic!("saw {other:?} instead of a message"),
    }
}

/// A message is completed when the device has confirmed it, and not before.
pub async fn an_acknowledged_message_completes(fixture: &dyn DownstreamFixture) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(capabilities.messages, "no messages reach a device");
    let running = Running::start(fixture).await;
    let name = device("taker");
    let mut client = listen(fixture, &running, &name).await;
    let hub = running.hub.clone();
    let mut sending = pin!(hub.send_message(cloud_message(&name, "hello")));
    let (tag, got) = tokio::select! {
        got = next_message(&mut *client) => got,
        settled = &mut sending, if capabilities.acknowledges_messages => {
            panic!("settled as {settled:?} before the device had it")
        }
    };
    assert_eq!(got, body("hello"));
    if capabilities.acknowledges_messages {
        let early = timeout(WATCH, &mut sending).await;
        assert!(
            early.is_err(),
            "settled as {early:?} before the device confirmed"
        );
        client.settle(&tag, Disposition::Complete).await;
    }
    assert_eq!(sending.await, Some(Disposition::Complete));
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// Settles one message by the device's verdict and gives the hub's.
async fn settled_as(fixture: &dyn DownstreamFixture, verdict: Disposition) -> Option<Disposition> {
    let running = Running::start(fixture).await;
    let name = device("judge");
    let mut client = listen(fixture, &running, &name).await;
    let judge = async {
        let (tag, _) = next_message(&mut *client).await;
        client.settle(&tag, verdict).await;
        client
    };
    let message = cloud_message(&name, "well?");
    let (settled, client) = tokio::join!(running.hub.send_message(message), judge);
    drop(client);
    running.end().await;
    settled
}

/// A message that the device refuses is rejected.
pub async fn a_refused_message_is_rejected(fixture: &dyn DownstreamFixture) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(capabilities.messages, "no messages reach a device");
    need!(
        capabilities.refuses_messages,
        "a device cannot refuse a message"
    );
    let settled = settled_as(fixture, Disposition::Reject).await;
    assert_eq!(settled, Some(Disposition::Reject));
    Outcome::Passed
}

/// A message that the device cannot take now is abandoned.
pub async fn a_message_that_could_not_be_taken_now_is_abandoned(
    fixture: &dyn DownstreamFixture,
) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(capabilities.messages, "no messages reach a device");
    need!(
        capabilities.refuses_messages,
        "a device cannot refuse a message"
    );
    let settled = settled_as(fixture, Disposition::Abandon).await;
    assert_eq!(settled, Some(Disposition::Abandon));
    Outcome::Passed
}

/// Methods called in parallel each get their own reply, in whatever order the device answers.
pub async fn parallel_methods_get_their_own_replies(fixture: &dyn DownstreamFixture) -> Outcome {
    const CALLS: usize = 4;
    need!(
        fixture.capabilities().methods,
        "a device answers no methods"
    );
    let running = Running::start(fixture).await;
    let name = device("callee");
    let mut client = listen(fixture, &running, &name).await;
    let calls = (0..CALLS).map(|n| running.hub.call_method(method_call(&name, n, LONG)));
    let calls = calls.map(|call| Box::pin(call) as _).collect();
    let answer = async {
        let mut asked = Vec::new();
        while asked.len() < CALLS {
            match client.next().await {
                DeviceEvent::Method { tag, name, payload } => {
                    assert_eq!(name.as_str(), "echo");
                    asked.push((tag, payload));
                }
                other => panic!("saw {other:?} instead of a method"),
            }
        }
        let mut status = HashMap::new();
        for (n, (tag, payload)) in asked.into_iter().enumerate().rev() {
            status.insert(payload.clone(), 200 + n as i32);
            client
                .reply(&tag, MethodReply::new(200 + n as i32, payload))
                .await;
        }
        (client, status)
    };
    let (replies, (client, status)) = tokio::join!(join_in_order(calls), answer);
    for (n, reply) in replies.into_iter().enumerate() {
        let argument = body(&n.to_string());
        let own = MethodReply::new(status[&argument], argument);
        assert_eq!(reply, Some(own));
    }
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// What is sent to a device that is gone fails as UnknownDevice.
pub async fn a_device_that_is_gone_is_unknown(fixture: &dyn DownstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().has_connections,
        "devices hold no connections"
    );
    let running = Running::start(fixture).await;
    let (name, stranger) = (device("gone"), device("stranger"));
    let client = listen(fixture, &running, &name).await;
    client.close().await;
    running.hub.wait_deaf(&name).await;
    for absent in [&name, &stranger] {
        let message = Downlink::Message(cloud_message(absent, "anybody?"));
        let error = running.downstream.send(message).await;
        let error = error.expect_err("nobody is there to take it");
        assert_eq!(error.kind(), ErrorKind::UnknownDevice);
    }
    assert_eq!(
        running.hub.send_message(cloud_message(&name, "x")).await,
        None
    );
    running.end().await;
    Outcome::Passed
}

/// A message whose device went away while the gateway waited is never acknowledged.
pub async fn a_connection_lost_while_waiting_is_never_acknowledged(
    fixture: &dyn DownstreamFixture,
) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(capabilities.messages, "no messages reach a device");
    need!(
        capabilities.acknowledges_messages && capabilities.has_connections,
        "a device confirms nothing over a connection"
    );
    let running = Running::start(fixture).await;
    let name = device("fleeting");
    let mut client = listen(fixture, &running, &name).await;
    let message = Downlink::Message(cloud_message(&name, "catch"));
    let leave = async {
        next_message(&mut *client).await;
        drop(client);
    };
    let (delivered, ()) = tokio::join!(running.downstream.send(message), leave);
    let lost = delivered.expect_err("the device never confirmed").kind();
    assert!(
        matches!(lost, ErrorKind::Disconnected | ErrorKind::UnknownDevice),
        "lost as {lost}"
    );
    running.end().await;
    Outcome::Passed
}

/// An answer that comes when nobody waits for it any more goes to nobody, and is counted.
pub async fn a_late_answer_is_dropped_and_counted(fixture: &dyn DownstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().methods,
        "a device answers no methods"
    );
    let running = Running::start(fixture).await;
    let name = device("late");
    let mut client = listen(fixture, &running, &name).await;
    let late = MethodReply::new(299, body("late"));
    let in_time = MethodReply::new(200, body("in time"));
    // On a slow machine a call's time may be up before the device has it.
    for patience in (0..).map(|doublings| Duration::from_secs(1 << doublings)) {
        let reply = running.hub.call_method(method_call(&name, 0, patience));
        assert_eq!(reply.await.map(|reply| reply.status), Some(504));
        let answer = async {
            let mut is_late = false;
            loop {
                match client.next().await {
                    DeviceEvent::Method { tag, payload, .. } if payload == body("0") => {
                        client.reply(&tag, late.clone()).await;
                        is_late = true;
                    }
                    DeviceEvent::Method { tag, .. } => {
                        client.reply(&tag, in_time.clone()).await;
                        return is_late;
                    }
                    other => panic!("saw {other:?} instead of a method"),
                }
            }
        };
        let call = running.hub.call_method(method_call(&name, 1, LONG));
        let (reply, is_late) = tokio::join!(call, answer);
        assert_eq!(reply.as_ref(), Some(&in_time));
        if is_late {
            break;
        }
    }
    assert_eq!(running.gateway.stats().methods_late, 1);
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// A method that the device does not answer ends with its deadline, and the device stays.
pub async fn a_silent_method_ends_with_its_deadline(fixture: &dyn DownstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().methods,
        "a device answers no methods"
    );
    let running = Running::start(fixture).await;
    let name = device("mute");
    let mut client = listen(fixture, &running, &name).await;
    let call = method_call(&name, 0, Duration::from_secs(1));
    let reply = running.hub.call_method(call).await;
    assert_eq!(reply.map(|reply| reply.status), Some(504));
    let call = Downlink::Method(method_call(&name, 1, LONG));
    let answer = async {
        loop {
            // A late answer to the first call must not be taken for one to the second.
            match client.next().await {
                DeviceEvent::Method { tag, payload, .. } if payload == body("1") => {
                    client.reply(&tag, MethodReply::new(200, payload)).await;
                    return client;
                }
                DeviceEvent::Method { tag, .. } => {
                    client.reply(&tag, MethodReply::new(299, "\"late\"")).await;
                }
                other => panic!("saw {other:?} instead of a method"),
            }
        }
    };
    let (delivered, client) = tokio::join!(running.downstream.send(call), answer);
    let reply = MethodReply::new(200, body("1"));
    assert_eq!(
        delivered.expect("the device answered"),
        Delivered::Answered(reply)
    );
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// A method whose device leaves before it has answered fails at once, not at its deadline.
pub async fn a_method_of_a_device_that_leaves_fails_at_once(
    fixture: &dyn DownstreamFixture,
) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(capabilities.methods, "a device answers no methods");
    need!(capabilities.has_connections, "devices hold no connections");
    let running = Running::start(fixture).await;
    let name = device("deserter");
    let mut client = listen(fixture, &running, &name).await;
    let leave = async {
        match client.next().await {
            DeviceEvent::Method { .. } => client.close().await,
            other => panic!("saw {other:?} instead of a method"),
        }
    };
    // Its time is longer than the case's.
    let call = running.hub.call_method(method_call(&name, 0, LONG));
    let (reply, ()) = tokio::join!(call, leave);
    let status = reply.map(|reply| reply.status);
    assert!(matches!(status, Some(404 | 503)), "{status:?}");
    running.end().await;
    Outcome::Passed
}
