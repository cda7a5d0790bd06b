use tokio::time::timeout;

use super::*;

const MESSAGES: Interest = Interest::NONE.with_messages(true);
const METHODS: Interest = Interest::NONE.with_methods(true);

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

/// A device whose method and whose change of desired properties are not answered yet stalls nobody,
/// itself included.
pub async fn a_slow_method_or_change_stalls_nobody(fixture: &dyn UpstreamFixture) -> Outcome {
    let interest = everything(fixture);
    need!(
        interest.methods || interest.desired,
        "the hub has messages only"
    );
    let (slow, quick) = (RecordingCallback::new(), RecordingCallback::new());
    let stuck = attach(fixture, "stuck-caller", interest, &slow).await;
    let lively = attach(fixture, "lively-caller", interest, &quick).await;
    let upstream = fixture.upstream();
    slow.hold();
    let called = async {
        if interest.methods {
            let call = fixture.call_method(&stuck, method("echo"), Bytes::from_static(b"1"));
            assert_eq!(call.await, Some(MethodReply::new(200, "1")));
        }
    };
    let changed = async {
        if interest.desired {
            fixture.patch_desired(&stuck, r#"{"interval":10}"#).await;
        }
    };
    let others = async {
        slow.wait_for(|record| {
            (!record.methods.is_empty() || !interest.methods)
                && (!record.patches.is_empty() || !interest.desired)
        })
        .await;
        for n in 0..10 {
            for device in [&stuck, &lively] {
                let sent = upstream.send(&uplink(device, n.to_string())).await;
                sent.expect("uplinks go on");
            }
            if interest.methods {
                let payload = Bytes::from(n.to_string());
                let answer = fixture.call_method(&lively, method("echo"), payload.clone());
                assert_eq!(answer.await, Some(MethodReply::new(200, payload)));
            }
            if interest.desired {
                fixture
                    .patch_desired(&lively, &format!("{{\"n\":{n}}}"))
                    .await;
                quick.wait_for(|record| record.patches.len() > n).await;
            }
        }
        slow.release();
    };
    tokio::join!(called, changed, others);
    Outcome::Passed
}

/// A device attached anew without interest hears no commands and no changes, and still speaks.
pub async fn interest_off_ends_commands(fixture: &dyn UpstreamFixture) -> Outcome {
    let callback = RecordingCallback::new();
    let interest = everything(fixture);
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
    if interest.desired {
        fixture.patch_desired(&device, r#"{"interval":10}"#).await;
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
    assert!(record.patches.is_empty(), "{:?}", record.patches);
    Outcome::Passed
}

/// A device that is attached again with another callback hears everything there: messages, methods,
/// changes of its desired properties, and the end of its session.
pub async fn the_newest_callback_hears_everything(fixture: &dyn UpstreamFixture) -> Outcome {
    let (older, newer) = (RecordingCallback::new(), RecordingCallback::new());
    let interest = everything(fixture);
    let device = attach(fixture, "heir", interest, &older).await;
    attach(fixture, "heir", interest, &newer).await;
    let outcome = fixture
        .send_message(&device, Bytes::from_static(b"x"))
        .await;
    assert!(
        matches!(outcome, MessageOutcome::Completed { .. }),
        "{outcome:?}"
    );
    if interest.methods {
        let reply = MethodReply::new(201, "1");
        newer.reply_with(reply.clone());
        let answer = fixture
            .call_method(&device, method("echo"), Bytes::new())
            .await;
        assert_eq!(answer, Some(reply));
    }
    if interest.desired {
        fixture.patch_desired(&device, r#"{"interval":10}"#).await;
        newer.wait_for(|record| !record.patches.is_empty()).await;
    }
    assert!(!newer.record().messages.is_empty());
    assert_eq!(older.record(), Default::default());
    let mut life = Duration::from_secs(3);
    // On a machine so slow that the token expires on the way, a longer one is tried.
    let (older, newer) = loop {
        let Some(brief) = fixture.device_with_token("brief-heir", life).await else {
            return Outcome::Passed;
        };
        let (older, newer) = (RecordingCallback::new(), RecordingCallback::new());
        let upstream = fixture.upstream();
        if upstream.attach(brief.clone(), older.shared()).await.is_ok()
            && upstream.attach(brief, newer.shared()).await.is_ok()
        {
            break (older, newer);
        }
        life *= 2;
    };
    newer.wait_for(|record| !record.ends.is_empty()).await;
    assert!(older.record().ends.is_empty(), "it was told of the end");
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
