use std::pin::pin;

use tokio::time::sleep;

use super::*;

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
