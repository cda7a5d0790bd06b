use serde_json::Value;

use super::*;
use crate::message::{DesiredPatch, TwinReply, TwinRequest};

const DESIRED: Interest = Interest::NONE.with_desired(true);

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
    let read = async || -> Value {
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
    // Where the first has to be fetched, both may come as one.
    let holds_last = |patches: &[DesiredPatch]| properties(patches)["interval"] == 20;
    let record = callback
        .wait_for(|record| holds_last(&record.patches))
        .await;
    let patches = &record.patches;
    assert!(patches.is_sorted_by(|one, next| one.version < next.version));
    assert!(patches.iter().all(|patch| patch.device == device));
    Outcome::Passed
}

/// What a device holds that was given these changes.
fn properties<'a>(changes: impl IntoIterator<Item = &'a DesiredPatch>) -> Value {
    let mut held = serde_json::Map::new();
    for change in changes {
        let body: Value = serde_json::from_slice(&change.body).expect("a change is JSON");
        let Value::Object(body) = body else {
            panic!("a change is an object, and not {body}");
        };
        if change.is_whole {
            held.clear();
        }
        held.extend(body);
    }
    held.remove("$version");
    Value::Object(held)
}

/// A change of the desired properties that the callback abandons is missed: none that builds on it
/// comes, but later all desired properties, marked as whole, and again if these are abandoned.
pub async fn an_abandoned_desired_change_comes_again_with_all(
    fixture: &dyn UpstreamFixture,
) -> Outcome {
    need!(fixture.capabilities().twins, "the hub keeps no twins");
    let callback = RecordingCallback::new();
    let device = attach(fixture, "misser", DESIRED, &callback).await;
    fixture.patch_desired(&device, r#"{"a":1}"#).await;
    callback.wait_for(|record| record.patches.len() == 1).await;
    callback.settle_next_changes([Disposition::Abandon, Disposition::Abandon]);
    for patch in [r#"{"b":1}"#, r#"{"c":1}"#] {
        fixture.patch_desired(&device, patch).await;
    }
    let all = serde_json::json!({"a": 1, "b": 1, "c": 1});
    let record = callback
        .wait_for(|record| record.patches.len() >= 4 && properties(&record.patches[3..]) == all)
        .await;
    // The first that is missed may be all of them too, of a device that was behind already.
    let again: Vec<_> = record.patches[2..4].iter().map(|p| p.is_whole).collect();
    assert_eq!(again, [true, true], "{:?}", record.patches);
    Outcome::Passed
}

/// What changes of the desired properties while the connection is cut reaches the device all the
/// same, one by one or as one, and without a new attach.
pub async fn desired_changes_come_again_after_a_cut(fixture: &dyn UpstreamFixture) -> Outcome {
    need!(fixture.capabilities().twins, "the hub keeps no twins");
    let callback = RecordingCallback::new();
    let device = attach(fixture, "catcher", DESIRED, &callback).await;
    fixture.patch_desired(&device, r#"{"a":1}"#).await;
    callback.wait_for(|record| record.patches.len() == 1).await;
    fixture.cut().await;
    for patch in [r#"{"a":2}"#, r#"{"b":1}"#, r#"{"c":1}"#] {
        fixture.patch_desired(&device, patch).await;
    }
    let all = serde_json::json!({"a": 2, "b": 1, "c": 1});
    let record = callback
        .wait_for(|record| properties(&record.patches) == all)
        .await;
    let versions: Vec<_> = record.patches.iter().map(|patch| patch.version).collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert!(record.ends.is_empty(), "a cut ends no session");
    Outcome::Passed
}
