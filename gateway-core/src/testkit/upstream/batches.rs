use std::pin::pin;

use tokio::time::timeout;

use super::*;

/// A batch of messages named by a prefix and their place in it.
fn batch(device: &DeviceId, prefix: &str, count: usize) -> Vec<Uplink> {
    let names = (0..count).map(|n| format!("{prefix}-{n}"));
    names.map(|name| uplink(device, name)).collect()
}

fn ids(uplinks: &[Uplink]) -> Vec<String> {
    uplinks.iter().map(|uplink| uplink.id.to_string()).collect()
}

/// A batch is accepted as a whole, in its order, in its turn among other messages of the device.
pub async fn a_batch_is_taken_whole_and_in_order(fixture: &dyn UpstreamFixture) -> Outcome {
    let device = attach_speaker(fixture, "batch").await;
    let upstream = fixture.upstream();
    upstream.send_batch(&[]).await.expect("nothing is no fault");
    let messages = batch(&device, "whole", 100);
    let sent = upstream.send_batch(&messages).await;
    sent.expect("nothing is in the way");
    assert_eq!(accepted_ids(fixture, &device).await, ids(&messages));
    let turns = batch(&device, "turn", 12);
    let sends: Vec<BoxFuture<'_, _>> = vec![
        Box::pin(upstream.send(&turns[0])),
        Box::pin(upstream.send_batch(&turns[1..6])),
        Box::pin(upstream.send(&turns[6])),
        Box::pin(upstream.send_batch(&turns[7..9])),
        Box::pin(upstream.send_batch(&turns[9..])),
    ];
    for result in join_in_order(sends).await {
        result.expect("nothing is in the way");
    }
    let expected = [ids(&messages), ids(&turns)].concat();
    assert_eq!(accepted_ids(fixture, &device).await, expected);
    Outcome::Passed
}

/// A batch is Ok only after the hub has accepted all of it.
pub async fn a_batch_is_ok_only_after_the_hub_accepted_all(
    fixture: &dyn UpstreamFixture,
) -> Outcome {
    need!(
        fixture.capabilities().can_hold,
        "the hub cannot hold messages"
    );
    let device = attach_speaker(fixture, "held-batch").await;
    let (upstream, messages) = (fixture.upstream(), batch(&device, "held", 10));
    fixture.hold().await;
    let mut send = pin!(upstream.send_batch(&messages));
    tokio::select! {
        result = &mut send => panic!("settled as {result:?} while the hub held it"),
        () = fixture.wait_held(messages.len()) => {}
    }
    let early = timeout(WATCH, &mut send).await;
    assert!(early.is_err(), "settled as {early:?} while the hub held it");
    assert!(accepted_ids(fixture, &device).await.is_empty());
    fixture.release().await;
    send.await.expect("the hub accepted it");
    assert_eq!(accepted_ids(fixture, &device).await, ids(&messages));
    Outcome::Passed
}

/// A batch that the hub refuses is Rejected, nothing of it is accepted, and the next one goes on.
pub async fn a_refused_batch_is_refused_whole(fixture: &dyn UpstreamFixture) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(capabilities.can_reject, "the hub cannot refuse a message");
    let device = attach_speaker(fixture, "refused-batch").await;
    let (upstream, messages) = (fixture.upstream(), batch(&device, "bad", 5));
    fixture.reject_next().await;
    let refused = upstream.send_batch(&messages).await;
    assert_eq!(kind(refused), ErrorKind::Rejected);
    if capabilities.batches {
        let accepted = accepted_ids(fixture, &device).await;
        assert!(accepted.is_empty(), "{accepted:?} of a refused batch");
    }
    let next = batch(&device, "good", 5);
    let sent = upstream.send_batch(&next).await;
    sent.expect("a refused batch harms only itself");
    let accepted = accepted_ids(fixture, &device).await;
    assert!(accepted.ends_with(&ids(&next)), "{accepted:?}");
    Outcome::Passed
}

/// A batch in flight at a cut fails as Disconnected, and the device sends again without an attach.
pub async fn a_batch_cut_in_flight_is_disconnected(fixture: &dyn UpstreamFixture) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(capabilities.can_hold, "the hub cannot hold messages");
    let device = attach_speaker(fixture, "cut-batch").await;
    let (upstream, messages) = (fixture.upstream(), batch(&device, "cut", 5));
    fixture.hold().await;
    let fault = async {
        fixture.wait_held(messages.len()).await;
        fixture.cut().await;
        if capabilities.retries {
            fixture.release().await;
        }
    };
    let (result, ()) = tokio::join!(upstream.send_batch(&messages), fault);
    match result {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Disconnected),
        Ok(()) => {
            assert!(capabilities.retries, "Ok without a settlement");
            let accepted = accepted_ids(fixture, &device).await;
            assert!(accepted.ends_with(&ids(&messages)), "{accepted:?}");
        }
    }
    fixture.release().await;
    let after = batch(&device, "after", 3);
    while let Err(error) = upstream.send_batch(&after).await {
        assert!(error.is_retryable(), "{error}");
        // A pace for an upstream that fails at once while it connects.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let accepted = accepted_ids(fixture, &device).await;
    assert!(accepted.ends_with(&ids(&after)), "{accepted:?}");
    Outcome::Passed
}

/// A batch larger than the hub takes goes all the same, or is TooLarge and nothing of it accepted.
pub async fn a_too_large_batch_is_whole_or_told(fixture: &dyn UpstreamFixture) -> Outcome {
    let device = attach_speaker(fixture, "large-batch").await;
    let (upstream, mut messages) = (fixture.upstream(), batch(&device, "large", 3));
    for message in &mut messages {
        message.body = vec![b'x'; 100 * 1024].into();
    }
    let expected = match upstream.send_batch(&messages).await {
        Ok(()) => ids(&messages),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            Vec::new()
        }
    };
    assert_eq!(accepted_ids(fixture, &device).await, expected);
    let smaller = upstream.send_batch(&messages[..2]).await;
    smaller.expect("a large batch harms only itself");
    Outcome::Passed
}
