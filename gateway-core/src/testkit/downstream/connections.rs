use std::collections::HashSet;

use tokio::time::{Instant, timeout};

use super::*;
use crate::error::ErrorKind;
use crate::message::{CloudMessage, Downlink, Uplink};
use crate::upstream::Interest;

/// Fails unless a device can send a message and is told that it was accepted.
async fn assert_works(
    fixture: &dyn DownstreamFixture,
    running: &Running,
    client: &mut dyn DeviceClient,
    id: &str,
) {
    let text = body(id);
    let id = message_id(id);
    assert!(
        client.send(id.clone(), text).await,
        "the device was cut off"
    );
    if fixture.capabilities().settles_uplinks {
        assert_eq!(client.next().await, DeviceEvent::Accepted(id));
    } else {
        let is_other = |uplink: &Uplink| sent_as(fixture, uplink) != id.as_str();
        let mut accepted = running.hub.accepted();
        while accepted.iter().all(is_other) {
            accepted = running.hub.wait_accepted(accepted.len() + 1).await;
        }
    }
}

/// Whatever arrives, serving goes on, and the devices that are there do not notice.
pub async fn garbage_never_ends_serve(fixture: &dyn DownstreamFixture) -> Outcome {
    let mut running = Running::start(fixture).await;
    let mut bystander = fixture.connect(&device("bystander")).await;
    for n in 0..3 {
        fixture.send_garbage().await;
        assert_works(fixture, &running, &mut *bystander, &format!("during-{n}")).await;
        let newcomer = device(&format!("newcomer-{n}"));
        let mut newcomer = fixture.connect(&newcomer).await;
        assert_works(fixture, &running, &mut *newcomer, &format!("after-{n}")).await;
    }
    running.assert_serving();
    assert_eq!(running.hub.accepted().len(), 6, "garbage reached the hub");
    drop(bystander);
    running.end().await;
    Outcome::Passed
}

/// A peer that fell silent is dropped after the idle time-out, and its device is offline.
pub async fn a_silent_peer_ends_by_time_out(fixture: &dyn DownstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().ends_idle,
        "a silent device is not dropped"
    );
    let settings = DownstreamSettings {
        idle_timeout: Some(Duration::from_secs(1)),
    };
    let running = Running::start_with(fixture, settings, |_| {}).await;
    let name = device("silent");
    // Kept, but neither read from nor written to: a half-open peer looks just like it.
    let client = fixture.connect(&name).await;
    running.hub.wait_listening(&name, Interest::COMMANDS).await;
    running.hub.wait_deaf(&name).await;
    let deadline = Instant::now() + Duration::from_secs(120);
    let message = CloudMessage::new(name, body("x"), deadline);
    let error = running.downstream.send(Downlink::Message(message)).await;
    let error = error.expect_err("the device is gone");
    assert_eq!(error.kind(), ErrorKind::UnknownDevice);
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// A new connection of a device ends the older one and gets the device's commands.
pub async fn the_newest_connection_of_a_device_wins(fixture: &dyn DownstreamFixture) -> Outcome {
    let capabilities = fixture.capabilities();
    need!(capabilities.has_connections, "devices hold no connections");
    let running = Running::start(fixture).await;
    let name = device("twofold");
    let mut older = fixture.connect(&name).await;
    running.hub.wait_listening(&name, Interest::COMMANDS).await;
    let mut newer = fixture.connect(&name).await;
    assert_eq!(older.next().await, DeviceEvent::Closed);
    drop(older);
    assert_works(fixture, &running, &mut *newer, "from the newer").await;
    if capabilities.messages {
        running.hub.wait_listening(&name, Interest::COMMANDS).await;
        let deadline = Instant::now() + Duration::from_secs(120);
        let message = CloudMessage::new(name, body("x"), deadline);
        let take = async {
            match newer.next().await {
                DeviceEvent::Message { tag, .. } => newer.settle(&tag, Disposition::Complete).await,
                other => panic!("saw {other:?} instead of a message"),
            }
        };
        let (settled, ()) = tokio::join!(running.hub.send_message(message), take);
        assert_eq!(settled, Some(Disposition::Complete));
    }
    drop(newer);
    running.end().await;
    Outcome::Passed
}

/// A device that proves nothing is refused, and the hub never hears of it.
pub async fn an_unauthenticated_device_never_reaches_the_hub(
    fixture: &dyn DownstreamFixture,
) -> Outcome {
    need!(
        fixture.capabilities().authenticates,
        "devices prove nothing"
    );
    let running = Running::start(fixture).await;
    let (victim, unused) = (device("victim"), device("unused"));
    let mut client = fixture.connect(&victim).await;
    running.hub.wait_attached(&victim, true).await;
    for name in [&victim, &unused] {
        fixture.intrude(name, message_id("forged")).await;
    }
    assert_works(fixture, &running, &mut *client, "genuine").await;
    let accepted = running.hub.accepted();
    let accepted: Vec<_> = accepted.iter().map(|u| sent_as(fixture, u)).collect();
    assert_eq!(accepted, ["genuine"]);
    assert_eq!(running.hub.attach_requests(&unused), 0);
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// A device that the hub refuses is not told that its messages were accepted; others go on.
pub async fn a_device_that_the_hub_refuses_harms_nobody(
    fixture: &dyn DownstreamFixture,
) -> Outcome {
    let running = Running::start(fixture).await;
    let (good, bad) = (device("good"), device("bad"));
    let mut bystander = fixture.connect(&good).await;
    running.hub.refuse(&bad, ErrorKind::Unauthorized);
    let mut refused = fixture.connect(&bad).await;
    // Its connection may be closed before it can send.
    if refused.send(message_id("refused"), body("x")).await
        && fixture.capabilities().settles_uplinks
    {
        let seen = refused.next().await;
        assert!(
            !matches!(seen, DeviceEvent::Accepted(_)),
            "a refused device saw {seen:?}"
        );
    }
    assert_works(fixture, &running, &mut *bystander, "good").await;
    let devices: HashSet<_> = running
        .hub
        .accepted()
        .into_iter()
        .map(|u| u.device)
        .collect();
    assert_eq!(devices, HashSet::from([good]));
    drop((bystander, refused));
    running.end().await;
    Outcome::Passed
}

/// At shutdown the gateway reads no more, tells a device what became of what is in flight, and
/// ends.
pub async fn shutdown_finishes_what_is_in_flight(fixture: &dyn DownstreamFixture) -> Outcome {
    let running = Running::start(fixture).await;
    let hub = running.hub.clone();
    let mut client = fixture.connect(&device("last")).await;
    hub.hold();
    let id = message_id("last");
    assert!(client.send(id.clone(), body("x")).await);
    hub.wait_held(1).await;
    running.begin_shutdown();
    let told = async {
        if !fixture.capabilities().settles_uplinks {
            return;
        }
        assert_eq!(client.next().await, DeviceEvent::Accepted(id));
        if fixture.capabilities().has_connections {
            assert_eq!(client.next().await, DeviceEvent::Closed);
        }
    };
    let release = async {
        tokio::time::sleep(WATCH).await;
        hub.release();
    };
    let (report, (), ()) = tokio::join!(running.end(), told, release);
    assert!(!report.forced, "{report:?}");
    assert_eq!((report.settled, report.abandoned), (1, 0));
    assert_eq!(hub.accepted().len(), 1);
    Outcome::Passed
}

/// A device whose session the hub ends is cut off.
pub async fn the_end_of_a_session_closes_the_connection(
    fixture: &dyn DownstreamFixture,
) -> Outcome {
    need!(
        fixture.capabilities().has_connections,
        "devices hold no connections"
    );
    let running = Running::start(fixture).await;
    let name = device("banned");
    let mut client = fixture.connect(&name).await;
    let mut bystander = fixture.connect(&device("bystander")).await;
    running.hub.wait_listening(&name, Interest::COMMANDS).await;
    running
        .hub
        .end_session(&name, ErrorKind::Unauthorized)
        .await;
    assert_eq!(client.next().await, DeviceEvent::Closed);
    assert_works(fixture, &running, &mut *bystander, "stays").await;
    drop((client, bystander));
    running.end().await;
    Outcome::Passed
}

/// What a device sends when the gateway has begun to stop never reaches the hub, though something is
/// still in flight, and the device is not told that it did.
pub async fn what_is_sent_after_the_shutdown_began_is_not_taken(
    fixture: &dyn DownstreamFixture,
) -> Outcome {
    let running = Running::start(fixture).await;
    let hub = running.hub.clone();
    let mut client = fixture.connect(&device("tardy")).await;
    hub.hold();
    let (in_time, late) = (message_id("in-time"), message_id("late"));
    assert!(client.send(in_time, body("in-time")).await);
    hub.wait_held(1).await;
    running.begin_shutdown();
    running.wait_closing().await;
    // Whether the transport still takes it makes no difference.
    let sent = timeout(WATCH, client.send(late.clone(), body("late"))).await;
    let told = async {
        while sent.is_ok() && fixture.capabilities().settles_uplinks {
            match client.next().await {
                DeviceEvent::Closed => return,
                event => assert_ne!(event, DeviceEvent::Accepted(late.clone())),
            }
        }
    };
    let end = async {
        tokio::time::sleep(WATCH).await;
        hub.release();
        running.end().await
    };
    let report = tokio::select! {
        report = end => report,
        never = async { told.await; std::future::pending().await } => never,
    };
    assert!(!report.forced, "{report:?}");
    let accepted = hub.accepted();
    let ids: Vec<_> = accepted.iter().map(|u| sent_as(fixture, u)).collect();
    assert_eq!(ids, ["in-time"]);
    Outcome::Passed
}
