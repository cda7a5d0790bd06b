use tokio::time::timeout;

use super::*;
use crate::message::{TwinReply, TwinRequest};

const MESSAGES: Interest = Interest::NONE.with_messages(true);
const METHODS: Interest = Interest::NONE.with_methods(true);
const DESIRED: Interest = Interest::NONE.with_desired(true);

fn method(name: &str) -> MethodName {
    MethodName::new(name).expect("a case's names are valid")
}

/// A message that the callback completes is completed at the hub, after one delivery.
pub async fn a_completed_message_is_completed_at_the_hub(fixture: &dyn UpstreamFixture) -> Outcome {
    let callback = RecordingCallback::new();
    let device = attach(fixture, "taker", MESSAGES, &callback).await;
    let body = Bytes::from_static(b"\x00\xffopen");
    let outcome = fixture.send_message(&device, body.clone()).await;
    assert_eq!(outcome, MessageOutcome::Completed { deliveries: 1 });
    let messages = callback.record().messages;
    assert_eq!(messages.len(), 1);
    assert_eq!((&messages[0].device, &messages[0].body), (&device, &body));
    Outcome::Passed
}

/// A message that the callback refuses is rejected at the hub.
pub async fn a_refused_message_is_rejected_at_the_hub(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().can_reject_messages,
        "the hub does not learn of a refusal"
    );
    let callback = RecordingCallback::new();
    let device = attach(fixture, "refuser", MESSAGES, &callback).await;
    callback.settle_next([Disposition::Reject]);
    let outcome = fixture
        .send_message(&device, Bytes::from_static(b"no"))
        .await;
    assert_eq!(outcome, MessageOutcome::Rejected);
    let outcome = fixture
        .send_message(&device, Bytes::from_static(b"yes"))
        .await;
    assert_eq!(outcome, MessageOutcome::Completed { deliveries: 1 });
    Outcome::Passed
}

/// A message that the callback abandons is delivered again.
pub async fn an_abandoned_message_comes_again(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().can_abandon_messages,
        "the hub does not redeliver"
    );
    let callback = RecordingCallback::new();
    let device = attach(fixture, "sleeper", MESSAGES, &callback).await;
    callback.settle_next([Disposition::Abandon]);
    let outcome = fixture
        .send_message(&device, Bytes::from_static(b"wake"))
        .await;
    assert_eq!(outcome, MessageOutcome::Completed { deliveries: 2 });
    let counts: Vec<_> = callback
        .record()
        .messages
        .iter()
        .map(|m| m.delivery_count)
        .collect();
    assert_eq!(counts, [0, 1]);
    Outcome::Passed
}

/// A method's reply reaches the hub with status and payload.
pub async fn a_method_reply_reaches_the_hub(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(fixture.capabilities().methods, "the hub calls no methods");
    let callback = RecordingCallback::new();
    let device = attach(fixture, "answerer", METHODS, &callback).await;
    for reply in [
        MethodReply::new(207, r#"{"done":"ü"}"#),
        MethodReply::new(404, "null"),
    ] {
        callback.reply_with(reply.clone());
        let argument = Bytes::from_static(br#"{"after":5}"#);
        let answer = fixture
            .call_method(&device, method("reboot"), argument)
            .await;
        assert_eq!(answer, Some(reply));
    }
    let calls = callback.record().methods;
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].device, device);
    assert_eq!(calls[0].name.as_str(), "reboot");
    assert_eq!(calls[0].payload, r#"{"after":5}"#);
    Outcome::Passed
}

/// Methods called in parallel each get their own reply.
pub async fn parallel_methods_get_their_own_replies(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(fixture.capabilities().methods, "the hub calls no methods");
    const CALLS: usize = 10;
    let callback = RecordingCallback::new();
    let mut devices = Vec::new();
    for name in ["caller-a", "caller-b"] {
        devices.push(attach(fixture, name, METHODS, &callback).await);
    }
    callback.hold();
    let payload = |n: usize| Bytes::from(format!("{{\"n\":{n}}}"));
    let calls =
        (0..CALLS).map(|n| fixture.call_method(&devices[n % 2], method("echo"), payload(n)));
    let release = async {
        callback
            .wait_for(|record| record.methods.len() == CALLS)
            .await;
        callback.release();
    };
    let (replies, ()) = tokio::join!(join_in_order(calls.collect()), release);
    for (n, reply) in replies.into_iter().enumerate() {
        assert_eq!(reply, Some(MethodReply::new(200, payload(n))));
    }
    Outcome::Passed
}

/// A callback that does not answer stalls neither uplinks nor another device's commands.
pub async fn a_slow_callback_stalls_nobody(fixture: &dyn UpstreamFixture) -> Outcome {
    let (slow, quick) = (RecordingCallback::new(), RecordingCallback::new());
    let stuck = attach(fixture, "stuck", MESSAGES, &slow).await;
    let lively = attach(fixture, "lively", MESSAGES, &quick).await;
    let upstream = fixture.upstream();
    slow.hold();
    let body = Bytes::from_static(b"x");
    let waiting = fixture.send_message(&stuck, body.clone());
    let others = async {
        slow.wait_for(|record| !record.messages.is_empty()).await;
        for n in 0..20 {
            for device in [&stuck, &lively] {
                let sent = upstream.send(&uplink(device, n.to_string())).await;
                sent.expect("uplinks go on");
            }
            let outcome = fixture.send_message(&lively, body.clone()).await;
            assert_eq!(outcome, MessageOutcome::Completed { deliveries: 1 });
        }
        slow.release();
    };
    let (outcome, ()) = tokio::join!(waiting, others);
    assert_eq!(outcome, MessageOutcome::Completed { deliveries: 1 });
    Outcome::Passed
}

/// A device attached anew without interest hears no commands, and still speaks.
pub async fn interest_off_ends_commands(fixture: &dyn UpstreamFixture) -> Outcome {
    let callback = RecordingCallback::new();
    let mut interest = MESSAGES;
    interest.methods = fixture.capabilities().methods;
    let device = attach(fixture, "listener", interest, &callback).await;
    attach(fixture, "listener", Interest::NONE, &callback).await;
    fixture.wait_deaf(&device).await;
    if interest.methods {
        let reply = fixture
            .call_method(&device, method("echo"), Bytes::new())
            .await;
        assert_eq!(
            reply, None,
            "a method reached a device that does not listen"
        );
    }
    let message = fixture.send_message(&device, Bytes::from_static(b"x"));
    let outcome = timeout(WATCH, message).await;
    assert!(
        outcome.is_err(),
        "a message reached a device that does not listen"
    );
    let sent = fixture.upstream().send(&uplink(&device, "still")).await;
    sent.expect("the device still speaks");
    let record = callback.record();
    assert!(record.messages.is_empty() && record.methods.is_empty());
    Outcome::Passed
}

/// After a cut a device hears commands again without a new attach.
pub async fn commands_come_again_after_a_cut(fixture: &dyn UpstreamFixture) -> Outcome {
    let callback = RecordingCallback::new();
    let device = attach(fixture, "survivor", MESSAGES, &callback).await;
    fixture.cut().await;
    let outcome = fixture
        .send_message(&device, Bytes::from_static(b"x"))
        .await;
    assert!(
        matches!(outcome, MessageOutcome::Completed { .. }),
        "{outcome:?}"
    );
    assert!(callback.record().ends.is_empty(), "a cut ends no session");
    Outcome::Passed
}

/// A twin is read, patched and read again.
pub async fn a_twin_is_read_and_patched(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(fixture.capabilities().twins, "the hub keeps no twins");
    let device = attach_speaker(fixture, "twin").await;
    let upstream = fixture.upstream();
    let patch = |text: &'static str| {
        upstream.twin(
            &device,
            TwinRequest::PatchReported(Bytes::from_static(text.as_bytes())),
        )
    };
    let read = async || -> serde_json::Value {
        let reply = upstream.twin(&device, TwinRequest::Get).await;
        let TwinReply { body, .. } = reply.expect("a twin can be read");
        serde_json::from_slice(&body).expect("a twin is JSON")
    };
    let first = patch(r#"{"firmware":"1.0","old":true}"#)
        .await
        .expect("patched");
    let second = patch(r#"{"old":null,"größe":5}"#).await.expect("patched");
    if let (Some(first), Some(second)) = (first.version, second.version) {
        assert!(first < second, "versions grow: {first}, {second}");
    }
    let twin = read().await;
    assert!(twin["desired"].is_object(), "{twin}");
    let reported = &twin["reported"];
    assert_eq!(reported["firmware"], "1.0");
    assert_eq!(reported["größe"], 5);
    assert!(reported.get("old").is_none(), "null deletes: {reported}");
    let unknown = fixture.device("twinless").await.device;
    let unknown = upstream.twin(&unknown, TwinRequest::Get).await;
    assert_eq!(kind(unknown), ErrorKind::UnknownDevice);
    Outcome::Passed
}

/// A change of the desired properties reaches a device that wants to hear of it, with its version.
pub async fn a_desired_patch_arrives(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(fixture.capabilities().twins, "the hub keeps no twins");
    let callback = RecordingCallback::new();
    let device = attach(fixture, "follower", DESIRED, &callback).await;
    fixture.patch_desired(&device, r#"{"interval":10}"#).await;
    fixture.patch_desired(&device, r#"{"interval":20}"#).await;
    let record = callback.wait_for(|record| record.patches.len() == 2).await;
    let [first, second] = &record.patches[..] else {
        panic!("two patches were waited for");
    };
    assert!(first.version < second.version);
    assert_eq!(second.device, device);
    let body: serde_json::Value = serde_json::from_slice(&second.body).expect("a patch is JSON");
    assert_eq!(body["interval"], 20);
    Outcome::Passed
}
