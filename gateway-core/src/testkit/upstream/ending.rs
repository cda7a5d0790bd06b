use std::pin::pin;

use tokio::time::sleep;

use super::*;
use crate::message::TwinRequest;

/// Close lets a send in flight settle; later calls are Closed.
pub async fn close_drains_then_refuses(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().can_hold,
        "the hub cannot hold messages"
    );
    let device = attach_speaker(fixture, "last").await;
    let (upstream, message) = (fixture.upstream(), uplink(&device, "last-1"));
    fixture.hold().await;
    let mut send = pin!(upstream.send(&message));
    tokio::select! {
        result = &mut send => panic!("settled as {result:?} while held"),
        () = fixture.wait_held(1) => {}
    }
    let mut close = pin!(upstream.close(Duration::from_secs(30)));
    tokio::select! {
        result = &mut send => panic!("settled as {result:?} while held"),
        result = &mut close => panic!("closed as {result:?} with a send in flight"),
        () = sleep(WATCH) => {}
    }
    let (sent, closed, ()) = tokio::join!(send, close, fixture.release());
    sent.expect("what was in flight settles");
    closed.expect("everything settled within the grace");
    assert_eq!(accepted_ids(fixture, &device).await, ["last-1"]);

    let late = upstream.send(&uplink(&device, "late")).await;
    assert_eq!(kind(late), ErrorKind::Closed);
    let identity = fixture.device("late").await;
    let late = upstream
        .attach(identity, RecordingCallback::new().shared())
        .await;
    assert_eq!(kind(late), ErrorKind::Closed);
    assert_eq!(kind(upstream.detach(&device).await), ErrorKind::Closed);
    Outcome::Passed
}

/// Close ends with its grace, and what was in flight is not Ok.
pub async fn close_ends_with_its_grace(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().can_hold,
        "the hub cannot hold messages"
    );
    let device = attach_speaker(fixture, "stuck").await;
    let (upstream, message) = (fixture.upstream(), uplink(&device, "stuck-1"));
    fixture.hold().await;
    let mut send = pin!(upstream.send(&message));
    tokio::select! {
        result = &mut send => panic!("settled as {result:?} while held"),
        () = fixture.wait_held(1) => {}
    }
    let (sent, closed) = tokio::join!(send, upstream.close(WATCH));
    let sent = kind(sent);
    assert!(
        matches!(sent, ErrorKind::Disconnected | ErrorKind::Closed),
        "cut off as {sent}"
    );
    assert_eq!(kind(closed), ErrorKind::TimedOut);
    Outcome::Passed
}

/// Close lets a batch in flight settle, and ends whatever else is waited for meanwhile: messages
/// behind it, of this device and of others, and a request about the twin. Only what the hub has is Ok.
pub async fn close_leaves_no_call_without_an_end(fixture: &dyn UpstreamFixture) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(capabilities.can_hold, "the hub cannot hold messages");
    let (device, other) = (
        attach_speaker(fixture, "last-batch").await,
        attach_speaker(fixture, "other").await,
    );
    let upstream = fixture.upstream();
    let batch = ["batch-1", "batch-2"].map(|id| uplink(&device, id));
    let waiting = [uplink(&device, "behind"), uplink(&other, "beside")];
    fixture.hold().await;
    let mut send = pin!(upstream.send_batch(&batch));
    tokio::select! {
        result = &mut send => panic!("settled as {result:?} while held"),
        () = fixture.wait_held(batch.len()) => {}
    }
    let waits = waiting.iter().map(|message| upstream.send(message));
    let waits = join_in_order(waits.collect());
    let twin = async {
        match capabilities.twins {
            true => upstream.twin(&device, TwinRequest::Get).await.map(drop),
            false => Ok(()),
        }
    };
    let close = async {
        let close = upstream.close(Duration::from_secs(30));
        let release = async {
            sleep(WATCH).await;
            fixture.release().await;
        };
        tokio::join!(close, release).0
    };
    let (sent, waited, asked, closed) = tokio::join!(send, waits, twin, close);
    sent.expect("what was in flight settles");
    closed.expect("everything settled within the grace");
    let accepted = fixture.accepted().await;
    for (message, result) in waiting.iter().zip(waited) {
        match result {
            Ok(()) => assert!(accepted.iter().any(|uplink| uplink.id == message.id)),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    if let Err(error) = asked {
        assert!(error.is_retryable(), "{error}");
    }
    let late = upstream.send_batch(&batch).await;
    assert_eq!(kind(late), ErrorKind::Closed);
    if capabilities.twins {
        let late = upstream.twin(&device, TwinRequest::Get).await;
        assert_eq!(kind(late), ErrorKind::Closed);
    }
    Outcome::Passed
}
