use tokio::time::timeout;

use super::*;

/// Fifty attaches of one device at once are one at the hub.
pub async fn parallel_attaches_are_one(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().counts_attaches,
        "the hub does not count attaches"
    );
    let (upstream, identity) = (fixture.upstream(), fixture.device("crowd").await);
    let callback = RecordingCallback::new().shared();
    let attaches = (0..50).map(|_| upstream.attach(identity.clone(), callback.clone()));
    for result in join_in_order(attaches.collect()).await {
        result.expect("every one of them is attached");
    }
    let sent = upstream.send(&uplink(&identity.device, "crowd-1")).await;
    sent.expect("the device is attached");
    assert_eq!(fixture.attaches(&identity.device).await, 1);
    Outcome::Passed
}

/// A device that the hub refuses gets an error, and nobody else notices.
pub async fn a_refused_device_harms_nobody(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().judges_devices,
        "the hub knows no devices"
    );
    let (upstream, callback) = (fixture.upstream(), RecordingCallback::new());
    let good = attach_speaker(fixture, "good").await;
    for n in 0..10 {
        let bad = fixture.refused_device(&format!("bad-{n}")).await;
        let (device, message) = (bad.device.clone(), uplink(&good, n.to_string()));
        let attach = upstream.attach(bad, callback.shared());
        let (refused, sent) = tokio::join!(attach, upstream.send(&message));
        let refused = kind(refused);
        assert!(
            matches!(refused, ErrorKind::Unauthorized | ErrorKind::UnknownDevice),
            "refused as {refused}"
        );
        sent.expect("a refused device harms nobody");
        let sent = upstream.send(&uplink(&device, "smuggled")).await;
        assert_eq!(kind(sent), ErrorKind::UnknownDevice);
    }
    assert_eq!(fixture.accepted().await.len(), 10);
    assert_eq!(accepted_ids(fixture, &good).await.len(), 10);
    Outcome::Passed
}

/// A token that has expired is Unauthorized.
pub async fn an_expired_credential_is_unauthorized(fixture: &dyn UpstreamFixture) -> Outcome {
    let Some(expired) = fixture.device_with_token("expired", Duration::ZERO).await else {
        return Outcome::Skipped("the upstream takes no tokens");
    };
    let callback = RecordingCallback::new().shared();
    let result = fixture.upstream().attach(expired, callback).await;
    assert_eq!(kind(result), ErrorKind::Unauthorized);
    Outcome::Passed
}

/// A session ends with the device's token, says so, and begins again with a new one.
pub async fn a_session_ends_with_its_token(fixture: &dyn UpstreamFixture) -> Outcome {
    let upstream = fixture.upstream();
    let mut life = Duration::from_secs(3);
    // On a machine so slow that the token expires on the way, a longer one is tried.
    let (device, callback) = loop {
        let callback = RecordingCallback::new();
        let Some(brief) = fixture.device_with_token("brief", life).await else {
            return Outcome::Skipped("the upstream takes no tokens");
        };
        let device = brief.device.clone();
        if upstream.attach(brief, callback.shared()).await.is_ok()
            && upstream.send(&uplink(&device, "in time")).await.is_ok()
        {
            break (device, callback);
        }
        life *= 2;
    };
    let record = callback.wait_for(|record| !record.ends.is_empty()).await;
    assert_eq!(record.ends[0].device, device);
    assert_eq!(record.ends[0].reason, ErrorKind::Unauthorized);
    let late = kind(upstream.send(&uplink(&device, "too late")).await);
    assert!(
        matches!(late, ErrorKind::Unauthorized | ErrorKind::UnknownDevice),
        "sending without a session is {late}"
    );
    let fresh = fixture
        .device_with_token("brief", Duration::from_secs(3600))
        .await;
    let fresh = fresh.expect("the upstream takes tokens");
    let attached = upstream.attach(fresh, callback.shared()).await;
    attached.expect("a new token begins a new session");
    let sent = upstream.send(&uplink(&device, "again")).await;
    sent.expect("the session is there again");
    assert_eq!(accepted_ids(fixture, &device).await, ["in time", "again"]);
    Outcome::Passed
}

/// An attach that its caller drops at any time leaves a device that can be attached.
pub async fn a_dropped_attach_leaves_the_device_attachable(
    fixture: &dyn UpstreamFixture,
) -> Outcome {
    let (upstream, identity) = (fixture.upstream(), fixture.device("hasty").await);
    let callback = RecordingCallback::new().shared();
    for patience in [0, 1, 2, 5, 10, 20] {
        let attach = upstream.attach(identity.clone(), callback.clone());
        // Whether it is done by then makes no difference.
        drop(timeout(Duration::from_millis(patience), attach).await);
        sleep(Duration::from_millis(1)).await;
    }
    let attached = upstream.attach(identity.clone(), callback).await;
    attached.expect("the device can be attached");
    let sent = upstream.send(&uplink(&identity.device, "hasty-1")).await;
    sent.expect("the device is attached");
    Outcome::Passed
}

/// An attach that is dropped on its way changes nothing for the device, which heard nothing before.
pub async fn a_dropped_attach_is_undone(fixture: &dyn UpstreamFixture) -> Outcome {
    let upstream = fixture.upstream();
    let device = attach_speaker(fixture, "doubter").await;
    let listen = fixture.device("doubter").await;
    let listen = listen.with_interest(everything(fixture));
    let callback = RecordingCallback::new();
    for patience in [None, Some(1), Some(2), Some(5), Some(10), Some(20)] {
        let impatience = async {
            if let Some(patience) = patience {
                sleep(Duration::from_millis(patience)).await;
            }
        };
        let attached = tokio::select! {
            biased;
            attached = upstream.attach(listen.clone(), callback.shared()) => Some(attached),
            () = impatience => None,
        };
        if let Some(attached) = attached {
            attached.expect("the hub takes the device");
            attach_speaker(fixture, "doubter").await;
        }
        // What goes on by itself has time to do so.
        sleep(WATCH).await;
        fixture.wait_deaf(&device).await;
        let sent = upstream
            .send(&uplink(&device, patience.unwrap_or(0).to_string()))
            .await;
        sent.expect("the device has what it had");
    }
    Outcome::Passed
}

/// A credential that the hub refuses changes nothing for the device that has a good one, whether its
/// attach is waited for or dropped.
pub async fn a_refused_credential_changes_nothing(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(
        fixture.capabilities().judges_devices,
        "the hub knows no devices"
    );
    let (upstream, callback) = (fixture.upstream(), RecordingCallback::new());
    let device = attach(fixture, "victim", Interest::COMMANDS, &callback).await;
    let impostor = fixture.refused_device("victim").await;
    let attach = || upstream.attach(impostor.clone(), callback.shared());
    for patience in [0, 1, 2, 5, 10, 20] {
        let attached = timeout(Duration::from_millis(patience), attach()).await;
        assert!(!matches!(attached, Ok(Ok(()))), "it must not be taken");
        let sent = upstream.send(&uplink(&device, patience.to_string())).await;
        sent.expect("the device has what it had");
    }
    assert_eq!(kind(attach().await), ErrorKind::Unauthorized);
    drop(timeout(Duration::ZERO, attach()).await);
    fixture.cut().await;
    send_until_ok(&*upstream, &uplink(&device, "after")).await;
    fixture.wait_listening(&device, Interest::COMMANDS).await;
    assert!(callback.record().ends.is_empty(), "its session goes on");
    Outcome::Passed
}

/// A detached device is unknown, and a device without a session can be detached.
pub async fn detached_is_unknown_and_detaching_twice_is_ok(
    fixture: &dyn UpstreamFixture,
) -> Outcome {
    let upstream = fixture.upstream();
    let device = attach_speaker(fixture, "leaver").await;
    let other = attach_speaker(fixture, "stayer").await;
    for _ in 0..2 {
        upstream.detach(&device).await.expect("detaching is Ok");
        let sent = upstream.send(&uplink(&device, "gone")).await;
        assert_eq!(kind(sent), ErrorKind::UnknownDevice);
    }
    let sent = upstream.send(&uplink(&other, "here")).await;
    sent.expect("the other device stays");
    let device = attach_speaker(fixture, "leaver").await;
    let sent = upstream.send(&uplink(&device, "back")).await;
    sent.expect("the device is back");
    assert_eq!(accepted_ids(fixture, &device).await, ["back"]);
    Outcome::Passed
}
