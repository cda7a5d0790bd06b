use super::*;
use crate::message::DesiredPatch;
use crate::twin::Twin;
use crate::upstream::Interest;

/// Connects a device and waits until the hub sees it listen for desired changes.
async fn follow(
    fixture: &dyn DownstreamFixture,
    running: &Running,
    name: &DeviceId,
) -> Box<dyn DeviceClient> {
    let client = fixture.connect(name).await;
    let desired = Interest::NONE.with_desired(true);
    running.hub.wait_listening(name, desired).await;
    client
}

/// A device reads what is desired of it, and what it has reported comes back.
pub async fn a_device_reads_and_reports_its_twin(fixture: &dyn DownstreamFixture) -> Outcome {
    need!(fixture.capabilities().twins, "a device has no twin");
    let running = Running::start(fixture).await;
    let name = device("twin");
    let patch = r#"{"interval":60}"#;
    let desired = running.hub.patch_desired(&name, patch).await;
    let desired = desired.expect("a patch is an object");
    let mut client = follow(fixture, &running, &name).await;
    for patch in [
        r#"{"firmware":"1.0","old":true}"#,
        r#"{"old":null,"firmware":"1.1"}"#,
    ] {
        client.report(patch.into()).await;
        assert_eq!(client.next().await, DeviceEvent::Reported);
    }
    client.ask_twin().await;
    let twin = match client.next().await {
        DeviceEvent::Twin(body) => Twin::parse(&body).expect("it is a twin"),
        other => panic!("saw {other:?} instead of a twin"),
    };
    assert_eq!(twin.desired.get("interval"), Some("60"));
    assert_eq!(twin.desired.version(), desired);
    let reported: Vec<_> = twin.reported.iter().collect();
    assert_eq!(reported, [("firmware", r#""1.1""#)]);
    drop(client);
    running.end().await;
    Outcome::Passed
}

/// Desired changes reach a device in order of their versions, and each once, though the hub
/// repeats itself.
pub async fn a_desired_change_reaches_a_device_once_and_in_order(
    fixture: &dyn DownstreamFixture,
) -> Outcome {
    need!(fixture.capabilities().twins, "a device has no twin");
    let running = Running::start(fixture).await;
    let name = device("follower");
    let mut client = follow(fixture, &running, &name).await;
    let mut changes = Vec::new();
    for version in [2, 2, 1, 3, 7, 3, 7, 8] {
        let patch = format!("{{\"n\":{version}}}");
        changes.push(DesiredPatch::new(name.clone(), version, patch));
    }
    let tell = async {
        for change in changes {
            running.hub.send_desired(change).await;
        }
    };
    let hear = async {
        for expected in [2, 3, 7, 8] {
            let (version, patch) = match client.next().await {
                DeviceEvent::Desired { version, patch } => (version, patch),
                other => panic!("saw {other:?} instead of a change"),
            };
            assert_eq!(version, expected);
            let patch: serde_json::Value = serde_json::from_slice(&patch).expect("it is JSON");
            assert_eq!(patch["n"], expected);
        }
    };
    tokio::join!(tell, hear);
    let stats = running.gateway.stats();
    assert_eq!((stats.desired_delivered, stats.desired_stale), (4, 4));
    drop(client);
    running.end().await;
    Outcome::Passed
}
