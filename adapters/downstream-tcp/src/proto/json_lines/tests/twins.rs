use std::time::Duration;

use gateway_core::{DesiredPatch, TwinRequest};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::{any_json, command, device, frame, known, written};
use crate::proto::Request;

#[test]
fn a_desired_change_is_shown_and_not_confirmed() {
    let patch = Downlink::Desired(DesiredPatch::new(device(), 4, "{\"a\":1}"));
    let (result, written) = command(&mut known(), &patch);
    assert_eq!(result, Ok(Confirmation::Never));
    assert_eq!(
        written,
        [json!({"type": "desired", "version": 4, "patch": {"a": 1}})]
    );
    let all = Downlink::Desired(DesiredPatch::new(device(), 9, "{\"b\":2}").whole());
    let (_, written) = command(&mut known(), &all);
    assert_eq!(
        written,
        [json!({"type": "desired", "version": 9, "whole": true, "patch": {"b": 2}})]
    );
}

#[test]
fn what_does_not_fit_its_frame_is_said_in_short() {
    let framing = Framing::LengthPrefixed {
        bytes: 1,
        endian: Default::default(),
        includes_header: false,
    };
    let mut protocol = JsonLines::new(framing, 255, MessageId::new("made").unwrap());
    protocol.on_login(Ok(&device()), &mut Actions::new());
    let mut actions = frame(&mut protocol, r#"{"type":"twin_get","id":"a"}"#);
    let [Request::Twin { token, .. }] = actions.take_requests()[..] else {
        panic!("it asks for the twin");
    };
    let body = format!(r#"{{"desired":{{"a":"{}"}}}}"#, "x".repeat(300));
    protocol.on_twin(token, Ok(TwinReply::new(body, None)), &mut actions);
    let long = format!(
        r#"{{"type":"telemetry","id":"b","body":1,"seq":"{}"}}"#,
        "x".repeat(220)
    );
    protocol.on_frame(long.into(), &mut actions);
    let mut output = actions.output().split();
    let mut told = Vec::new();
    while let Some(frame) = protocol.decode(&mut output).unwrap() {
        told.push(serde_json::from_slice::<Value>(&frame).unwrap());
    }
    let too_large = json!({"type": "nack", "id": "a", "reason": "too_large"});
    assert_eq!(
        told,
        [too_large, json!({"type": "error", "reason": "malformed"})]
    );
}

#[test]
fn twin_answers_find_their_questions() {
    let mut protocol = known();
    let mut actions = frame(&mut protocol, r#"{"type":"twin_get","id":"a"}"#);
    let patch = r#"{"type":"twin_patch","id":"b","patch":{"v":1}}"#;
    protocol.on_frame(patch.into(), &mut actions);
    protocol.on_frame(r#"{"type":"twin_get"}"#.into(), &mut actions);
    let requests = actions.take_requests();
    let [
        Request::Twin {
            token: get,
            request: TwinRequest::Get,
        },
        Request::Twin {
            token: patch,
            request: TwinRequest::PatchReported(body),
        },
        Request::Twin { token: failing, .. },
    ] = &requests[..]
    else {
        panic!("{requests:?}");
    };
    assert_eq!(body, r#"{"v":1}"#);
    protocol.on_twin(*patch, Ok(TwinReply::new("", Some(3))), &mut actions);
    protocol.on_twin(
        *get,
        Ok(TwinReply::new("{\"desired\":{}}", None)),
        &mut actions,
    );
    protocol.on_twin(
        *failing,
        Err(Refusal::new(ErrorKind::Throttled)),
        &mut actions,
    );
    assert_eq!(
        written(&mut actions),
        [
            json!({"type": "twin_patched", "id": "b", "version": 3}),
            json!({"type": "twin", "id": "a", "body": {"desired": {}}}),
            json!({"type": "nack", "reason": "throttled", "retry_after_ms": 1000}),
        ]
    );
}

#[test]
fn a_twin_request_that_fails_says_whether_to_ask_again() {
    let after = |reason, retry_after: Option<Duration>| {
        let mut protocol = known();
        let mut actions = frame(&mut protocol, r#"{"type":"twin_get","id":1}"#);
        let mut refusal = Refusal::new(reason);
        refusal.retry_after = retry_after;
        protocol.on_twin(1, Err(refusal), &mut actions);
        let [nack] = &written(&mut actions)[..] else {
            panic!("one answer");
        };
        assert_eq!((&nack["type"], &nack["id"]), (&json!("nack"), &json!("1")));
        nack["retry_after_ms"].as_u64()
    };
    let second = Duration::from_secs(1);
    assert_eq!(after(ErrorKind::Throttled, Some(second * 10)), Some(10_000));
    assert_eq!(after(ErrorKind::Disconnected, None), Some(1_000));
    assert_eq!(after(ErrorKind::Rejected, Some(second)), None);
    assert_eq!(after(ErrorKind::Unsupported, None), None);
}

/// Tells the device of a change, and gives what its acknowledgement makes the gateway report.
fn acknowledge(protocol: &mut JsonLines, ack: Value) -> Option<(u64, Value)> {
    let requests = frame(protocol, ack.to_string()).take_requests();
    match &requests[..] {
        [
            Request::Twin {
                token,
                request: TwinRequest::PatchReported(patch),
            },
        ] => Some((*token, serde_json::from_slice(patch).unwrap())),
        [] => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_short_acknowledgement_reports_what_was_desired() {
    let mut protocol = known();
    let change = r#"{"interval":60,"fan":{"__t":"c","speed":2},"old":null,"$version":4}"#;
    let change = Downlink::Desired(DesiredPatch::new(device(), 4, change));
    command(&mut protocol, &change).0.unwrap();
    let in_progress = json!({"type": "desired_ack", "version": 4, "status": 202});
    let (token, reported) = acknowledge(&mut protocol, in_progress).unwrap();
    assert_eq!(
        reported,
        json!({
            "interval": {"value": 60, "ac": 202, "av": 4},
            "fan": {"__t": "c", "speed": {"value": 2, "ac": 202, "av": 4}},
            "old": null,
        })
    );
    let mut actions = Actions::new();
    protocol.on_twin(token, Ok(TwinReply::new("", Some(8))), &mut actions);
    assert_eq!(
        written(&mut actions),
        [json!({"type": "twin_patched", "version": 8})]
    );
    let completed = json!({"type": "desired_ack", "id": "a", "version": 4, "description": "set"});
    let (token, reported) = acknowledge(&mut protocol, completed.clone()).unwrap();
    let interval = json!({"value": 60, "ac": 200, "av": 4, "ad": "set"});
    assert_eq!(reported["interval"], interval);
    let refusal = Refusal::new(ErrorKind::Throttled);
    protocol.on_twin(token, Err(refusal), &mut actions);
    let (token, _) = acknowledge(&mut protocol, completed.clone()).expect("it may be asked again");
    protocol.on_twin(token, Ok(TwinReply::new("", None)), &mut actions);
    let answers = written(&mut actions);
    assert_eq!(
        answers
            .iter()
            .map(|answer| &answer["id"])
            .collect::<Vec<_>>(),
        ["a", "a"]
    );
    assert_eq!(
        acknowledge(&mut protocol, completed),
        None,
        "what the hub has is forgotten"
    );
}

#[test]
fn an_acknowledgement_with_values_needs_no_memory() {
    let ack = json!({
        "type": "desired_ack", "version": 9, "status": 400, "description": "least is 10",
        "patch": {"interval": 10},
    });
    let (_, reported) = acknowledge(&mut known(), ack).unwrap();
    assert_eq!(
        reported,
        json!({"interval": {"value": 10, "ac": 400, "av": 9, "ad": "least is 10"}})
    );
}

proptest! {
    #[test]
    fn any_patch_comes_through_as_it_was_written(
        id in "\\PC{0,20}",
        patch in prop::collection::btree_map("\\PC{1,6}", any_json(), 0..5),
        version in prop::option::of(any::<u64>()),
    ) {
        let patch = json!(patch);
        let text = json!({"type": "twin_patch", "id": id, "patch": patch});
        let mut protocol = known();
        let mut actions = frame(&mut protocol, text.to_string());
        let requests = actions.take_requests();
        let [Request::Twin { token, request: TwinRequest::PatchReported(body) }] = &requests[..]
        else {
            panic!("{requests:?}");
        };
        prop_assert_eq!(serde_json::from_slice::<Value>(body).unwrap(), patch);
        protocol.on_twin(*token, Ok(TwinReply::new("", version)), &mut actions);
        let mut patched = json!({"type": "twin_patched", "id": id});
        if let Some(version) = version {
            patched["version"] = version.into();
        }
        prop_assert_eq!(written(&mut actions), [patched]);
    }

    #[test]
    fn any_change_is_shown_and_acknowledged_with_its_values(
        change in prop::collection::btree_map("[a-z]{1,6}", "\\PC{0,10}", 0..5),
        version in 1..u64::MAX,
        status in any::<i32>(),
    ) {
        let mut protocol = known();
        let body = serde_json::to_string_pretty(&change).unwrap();
        let desired = Downlink::Desired(DesiredPatch::new(device(), version, body));
        let (result, lines) = command(&mut protocol, &desired);
        prop_assert_eq!(result, Ok(Confirmation::Never));
        let shown = json!({"type": "desired", "version": version, "patch": change});
        prop_assert_eq!(lines, [shown]);
        let ack = json!({"type": "desired_ack", "version": version, "status": status});
        let (_, reported) = acknowledge(&mut protocol, ack).unwrap();
        let expected: serde_json::Map<_, _> = change
            .into_iter()
            .map(|(name, value)| (name, json!({"value": value, "ac": status, "av": version})))
            .collect();
        prop_assert_eq!(reported, Value::Object(expected));
    }
}
