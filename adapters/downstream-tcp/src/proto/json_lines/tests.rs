use std::time::{Duration, SystemTime};

use gateway_core::{
    CloudMessage, CorrelationId, Delivered, MethodCall, MethodName, MethodReply, Uplink,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::proto::Request;

mod twins;

fn device() -> DeviceId {
    DeviceId::new("dev1").unwrap()
}

fn protocol() -> JsonLines {
    JsonLines::new(Framing::Line, 1024, MessageId::new("made").unwrap())
}

/// A protocol whose device is let in.
fn known() -> JsonLines {
    let mut protocol = protocol();
    protocol.on_login(Ok(&device()), &mut Actions::new());
    protocol
}

/// What was written, message by message.
fn written(actions: &mut Actions) -> Vec<Value> {
    let text = actions.output().split().to_vec();
    let lines = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn frame(protocol: &mut JsonLines, text: impl Into<Bytes>) -> Actions {
    let mut actions = Actions::new();
    protocol.on_frame(text.into(), &mut actions);
    actions
}

fn uplink(actions: &mut Actions) -> (u64, Uplink) {
    match &actions.take_requests()[..] {
        [Request::Uplink { token, uplink }] => (*token, uplink.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn telemetry_becomes_an_uplink_with_its_body_as_it_was_written() {
    let mut protocol = known();
    let mut actions = frame(
        &mut protocol,
        r#"{"type":"telemetry","id":"m1","body":{"t": 21.50},"properties":{"a":"1"},
            "content_type":"application/vnd.x+json","created_at":"2026-01-02T03:04:05Z","new":[]}"#,
    );
    let (_, uplink) = uplink(&mut actions);
    assert_eq!((uplink.device, uplink.id.as_str()), (device(), "m1"));
    assert_eq!(uplink.body, r#"{"t": 21.50}"#);
    assert_eq!(uplink.properties.get("a"), Some("1"));
    assert_eq!(
        uplink.system.content_type.as_deref(),
        Some("application/vnd.x+json")
    );
    assert_eq!(uplink.system.content_encoding.as_deref(), Some("utf-8"));
    let created = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    assert_eq!(uplink.system.created_at, Some(created));
    assert!(
        actions.output().is_empty(),
        "nothing is said before the hub's verdict"
    );
}

#[test]
fn bytes_travel_in_base64() {
    let mut actions = frame(
        &mut known(),
        r#"{"type":"telemetry","id":7,"body_base64":"AP8="}"#,
    );
    let (_, uplink) = uplink(&mut actions);
    assert_eq!((&uplink.body[..], uplink.id.as_str()), (&[0, 255][..], "7"));
    assert_eq!(uplink.system.content_type, None);
}

#[test]
fn every_verdict_has_its_answer() {
    for (settlement, answer) in [
        (
            Settlement::Accepted,
            json!({"type": "ack", "id": "m1", "seq": 5}),
        ),
        (
            Settlement::Rejected(ErrorKind::TooLarge),
            json!({"type": "nack", "id": "m1", "seq": 5, "reason": "too_large"}),
        ),
        (
            Settlement::Rejected(ErrorKind::Unauthorized),
            json!({"type": "nack", "id": "m1", "seq": 5, "reason": "unauthorized", "retry_after_ms": 1000}),
        ),
        (
            Settlement::RetryLater(Duration::from_micros(1500)),
            json!({"type": "nack", "id": "m1", "seq": 5, "reason": "retry_later", "retry_after_ms": 2}),
        ),
    ] {
        let mut protocol = known();
        let mut actions = frame(
            &mut protocol,
            r#"{"type":"telemetry","id":"m1","seq":5,"body":1}"#,
        );
        let (token, _) = uplink(&mut actions);
        protocol.on_settled(token, settlement, &mut actions);
        assert_eq!(written(&mut actions), [answer]);
        protocol.on_settled(token, Settlement::Accepted, &mut actions);
        assert!(written(&mut actions).is_empty(), "a verdict is told once");
    }
}

#[test]
fn a_message_without_an_id_gets_one_that_the_ack_names() {
    let mut protocol = known();
    for id in ["made-1", "made-2"] {
        let mut actions = frame(&mut protocol, r#"{"type":"telemetry","body":1}"#);
        let (token, uplink) = uplink(&mut actions);
        assert_eq!(uplink.id.as_str(), id);
        protocol.on_settled(token, Settlement::Accepted, &mut actions);
        assert_eq!(written(&mut actions), [json!({"type": "ack", "id": id})]);
    }
}

#[test]
fn nothing_but_a_hello_is_taken_from_a_stranger() {
    for (text, reason) in [
        (r#"{"type":"telemetry","body":1}"#, "hello_expected"),
        (r#"{"type":"hello"}"#, "bad_id"),
        (r#"{"type":"hello","id":"a/b"}"#, "bad_id"),
        (r#"{"type":"hello","id":"a","token":"x"}"#, "bad_token"),
        ("GET / HTTP/1.1", "malformed"),
    ] {
        let mut actions = frame(&mut protocol(), text);
        assert!(
            matches!(actions.take_requests()[..], [Request::Close]),
            "{text}"
        );
        assert_eq!(written(&mut actions)[0]["reason"], reason, "{text}");
    }
}

#[test]
fn a_known_device_is_told_its_faults_and_may_go_on() {
    for (text, kind, reason) in [
        ("{", "error", "malformed"),
        (r#"{"type":"dance"}"#, "error", "unknown_type"),
        (r#"{"type":"telemetry","seq":3}"#, "nack", "bad_body"),
        (
            r#"{"type":"telemetry","body_base64":"!"}"#,
            "nack",
            "bad_body",
        ),
        (
            r#"{"type":"telemetry","id":"ä","body":1}"#,
            "nack",
            "bad_id",
        ),
        (
            r#"{"type":"telemetry","body":1,"created_at":"soon"}"#,
            "error",
            "malformed",
        ),
        (
            r#"{"type":"c2d_ack","tag":1,"outcome":"maybe"}"#,
            "error",
            "bad_outcome",
        ),
        (
            r#"{"type":"c2d_ack","outcome":"complete"}"#,
            "error",
            "bad_tag",
        ),
        (
            r#"{"type":"c2d_ack","id":"2","outcome":"complete"}"#,
            "error",
            "bad_tag",
        ),
        (
            r#"{"type":"method_response","id":1}"#,
            "error",
            "bad_status",
        ),
        (r#"{"type":"twin_patch","patch":[]}"#, "nack", "bad_patch"),
        (r#"{"type":"twin_patch"}"#, "nack", "bad_patch"),
        (r#"{"type":"desired_ack"}"#, "nack", "bad_version"),
        (
            r#"{"type":"desired_ack","version":-1}"#,
            "error",
            "malformed",
        ),
        (
            r#"{"type":"desired_ack","version":4}"#,
            "nack",
            "unknown_version",
        ),
        (
            r#"{"type":"desired_ack","version":4,"patch":7}"#,
            "nack",
            "bad_patch",
        ),
        (
            r#"{"type":"hello","id":"other"}"#,
            "error",
            "already_identified",
        ),
    ] {
        let mut actions = frame(&mut known(), text);
        assert!(actions.take_requests().is_empty(), "{text}");
        let answer = &written(&mut actions)[0];
        assert_eq!(
            (&answer["type"], &answer["reason"]),
            (&json!(kind), &json!(reason)),
            "{text}"
        );
    }
}

#[test]
fn too_many_properties_are_refused() {
    let names: Vec<_> = (0..=MAX_PROPERTIES)
        .map(|n| format!(r#""{n}":"""#))
        .collect();
    let text = format!(
        r#"{{"type":"telemetry","body":1,"properties":{{{}}}}}"#,
        names.join(",")
    );
    let mut actions = frame(&mut known(), text);
    assert!(actions.take_requests().is_empty());
    assert_eq!(written(&mut actions)[0]["reason"], "malformed");
}

#[test]
fn a_hello_says_who_with_what_proof_and_what_it_wants_to_hear() {
    let mut actions = frame(
        &mut protocol(),
        r#"{"type":"hello","id":"dev1","secret":"s","interest":{"methods":false}}"#,
    );
    let requests = actions.take_requests();
    let [Request::Identify(login)] = &requests[..] else {
        panic!("{requests:?}");
    };
    assert_eq!(
        (&login.device, login.interest),
        (&device(), Interest::COMMANDS.with_methods(false))
    );
    assert!(matches!(&login.proof, Proof::Secret(secret) if secret.matches("s")));
    let token = r#"{"type":"hello","id":"dev1","token":"SharedAccessSignature sr=a&sig=b&se=1"}"#;
    let requests = frame(&mut protocol(), token).take_requests();
    assert!(matches!(
        &requests[..],
        [Request::Identify(Login {
            proof: Proof::Token(_),
            ..
        })]
    ));
}

#[test]
fn a_certificate_identifies_only_where_that_is_wanted() {
    let peer = Peer::new(([127, 0, 0, 1], 1).into()).with_certificate_name("dev1");
    for (is_wanted, count) in [(true, 1), (false, 0)] {
        let mut actions = Actions::new();
        protocol()
            .with_certificate(is_wanted)
            .on_connect(&peer, &mut actions);
        assert_eq!(actions.take_requests().len(), count);
    }
}

fn command(
    protocol: &mut JsonLines,
    downlink: &Downlink,
) -> (Result<Confirmation, ErrorKind>, Vec<Value>) {
    let mut actions = Actions::new();
    let command = Command::new(9, downlink, Duration::from_secs(2));
    let result = protocol.on_command(command, &mut actions);
    (result, written(&mut actions))
}

#[test]
fn a_message_from_the_hub_is_shown_as_json_or_in_base64() {
    let message = |body: &'static [u8]| {
        Downlink::Message(CloudMessage::new(device(), body, Instant::now()).with_id("c1"))
    };
    let (result, written) = command(&mut known(), &message(b"{\"a\":\n[1,\r\n2]}"));
    assert_eq!(result, Ok(Confirmation::Awaited));
    let body = json!({"a": [1, 2]});
    let properties = json!({});
    assert_eq!(
        written,
        [
            json!({"type": "c2d", "tag": 9, "id": "c1", "body": body, "properties": properties, "delivery_count": 0})
        ]
    );
    for (bytes, text) in [(&b"\x00\xff"[..], "AP8="), (b"1\n2", "MQoy"), (b"", "")] {
        let (_, written) = command(&mut known(), &message(bytes));
        assert_eq!(
            (&written[0]["body_base64"], &written[0]["body"]),
            (&json!(text), &json!(null))
        );
    }
}

#[test]
fn numbers_go_through_as_they_are_written_whatever_their_size() {
    let object = r#"{"n":[1e999,12345678901234567890123456789,0.10]}"#;
    let telemetry = format!(r#"{{"type":"telemetry","body":{object}}}"#);
    let (_, uplink) = uplink(&mut frame(&mut known(), telemetry));
    assert_eq!(uplink.body, object);

    let message = CloudMessage::new(device(), object, Instant::now());
    let mut actions = Actions::new();
    let command = Downlink::Message(message);
    let command = Command::new(9, &command, Duration::from_secs(2));
    known().on_command(command, &mut actions).unwrap();
    let text = actions.output().split();
    let body = format!(r#""body":{object}"#);
    assert!(String::from_utf8_lossy(&text).contains(&body), "{text:?}");
}

#[test]
fn a_method_says_how_long_its_answer_is_waited_for() {
    let call = MethodCall::new(
        device(),
        CorrelationId::new("r").unwrap(),
        MethodName::new("reboot").unwrap(),
        "",
        Instant::now(),
    );
    let mut protocol = known();
    let (result, written) = command(&mut protocol, &Downlink::Method(call));
    assert_eq!(result, Ok(Confirmation::Awaited));
    assert_eq!(
        written,
        [json!({"type": "method", "id": 9, "name": "reboot", "timeout_ms": 2000})]
    );
    let answer = r#"{"type":"method_response","id":"9","status":200,"payload":{"ok": true}}"#;
    let requests = frame(&mut protocol, answer).take_requests();
    let [
        Request::Done {
            tag: 9,
            result: Ok(Delivered::Answered(reply)),
        },
    ] = &requests[..]
    else {
        panic!("{requests:?}");
    };
    assert_eq!(*reply, MethodReply::new(200, r#"{"ok": true}"#));
}

#[test]
fn a_command_too_long_for_the_framing_can_never_be_delivered() {
    let framing = Framing::LengthPrefixed {
        bytes: 1,
        endian: crate::proto::Endian::Big,
        includes_header: false,
    };
    let mut protocol = JsonLines::new(framing, 255, MessageId::new("made").unwrap());
    let message = CloudMessage::new(device(), vec![b'1'; 300], Instant::now());
    let (result, written) = command(&mut protocol, &Downlink::Message(message));
    assert_eq!((result, written.len()), (Err(ErrorKind::TooLarge), 0));
}

/// Texts that are nearly messages.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("{"),
        Just("}"),
        Just("\"type\":"),
        Just("\"telemetry\""),
        Just("\"hello\""),
        Just("\"c2d_ack\""),
        Just("\"method_response\""),
        Just("\"twin_patch\""),
        Just("\"desired_ack\""),
        Just("\"version\":"),
        Just("\"description\":"),
        Just(","),
        Just("\"id\":"),
        Just("\"body\":"),
        Just("\"tag\":"),
        Just("\"properties\":"),
        Just("{}"),
        Just("[1,2]"),
        Just("\"\\u0000\""),
        Just("null"),
        Just("-1e999"),
        Just("18446744073709551615"),
        Just("\"patch\":"),
        Just("\"status\":"),
        Just("200"),
        Just("\u{e4}"),
        Just("\n"),
    ];
    prop_oneof![
        prop::collection::vec(word, 0..30).prop_map(|words| words.concat().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..100),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_a_stranger_send_or_anybody_panic(text in any_text()) {
        let mut actions = frame(&mut protocol(), text.clone());
        let is_harmless = |request: &Request| {
            matches!(request, Request::Identify(_) | Request::Close)
        };
        prop_assert!(actions.take_requests().iter().all(is_harmless));
        let mut actions = frame(&mut known(), text);
        let lines = written(&mut actions);
        prop_assert!(lines.len() + actions.take_requests().len() <= 1);
    }

    #[test]
    fn any_telemetry_comes_through_whole(
        id in "[ -~]{1,128}",
        body in any_json(),
        name in "\\PC{0,10}",
        value in "\\PC{0,10}",
    ) {
        let text = json!({"type": "telemetry", "id": id, "body": body, "properties": {&name: &value}});
        let mut protocol = known();
        let mut actions = frame(&mut protocol, text.to_string());
        let (token, uplink) = uplink(&mut actions);
        prop_assert_eq!(uplink.id.as_str(), &id);
        prop_assert_eq!(serde_json::from_slice::<Value>(&uplink.body).unwrap(), body);
        prop_assert_eq!(uplink.properties.get(&name), Some(value.as_str()));
        protocol.on_settled(token, Settlement::Accepted, &mut actions);
        prop_assert_eq!(written(&mut actions), [json!({"type": "ack", "id": id})]);
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,10}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
