//! What devices ask for, over plain UDP and a hub in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::collections::HashSet;
use std::time::Duration;

use gateway_core::{
    CloudMessage, CorrelationId, Disposition, Interest, MethodCall, MethodName, MethodReply,
};
use gateway_downstream_coap::CoapConfig;
use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, Token, option};
use gateway_downstream_coap::proto::resource::Profile;
use support::{Purpose, Running, device, in_time};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(120);

fn post(path: &str, body: &str) -> Message {
    let body = body.as_bytes().to_vec();
    Message::new(Code::POST).with_path(path).with_payload(body)
}

fn with_query(message: Message, part: &str) -> Message {
    message.with_option(option::URI_QUERY, part.as_bytes().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retransmission_is_answered_the_same_and_reaches_the_hub_once() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    let mut message = post("t", "21.5").with_token(Token::from(7));
    for part in client.proof() {
        message.options.add(option::URI_QUERY, part);
    }
    let (kind, id) = (Kind::Confirmable, 77);
    let bytes = Datagram { kind, id, message }.encode();
    let first = client.exchange(&bytes).await;
    let second = client.exchange(&bytes).await;
    assert_eq!(first, second);
    let answer = Datagram::decode(&first).unwrap();
    assert_eq!((answer.kind, answer.id), (Kind::Acknowledgement, 77));
    assert_eq!(answer.message.code, Code::CHANGED);
    assert_eq!(running.hub.accepted().len(), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_datagram_after_a_restart_is_the_same_message() {
    let mut ids = HashSet::new();
    for _ in 0..2 {
        let running = Running::start(CoapConfig::default(), &["dev1"]).await;
        let mut client = running.device("dev1").await;
        client.say(post("t", "21.5")).await;
        let accepted = running.hub.accepted();
        assert_eq!(accepted.len(), 1);
        ids.insert(accepted[0].id.clone());
        client.say(post("t", "21.5")).await;
        assert_ne!(running.hub.accepted()[1].id, accepted[0].id);
        running.end().await;
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_something_else_after_a_restart_is_another_message_under_the_same_message_id() {
    let mut ids = HashSet::new();
    let message = |query| with_query(post("t", ""), query);
    for said in [message("alarm=yes"), message("alarm=no"), post("e", "")] {
        let running = Running::start(CoapConfig::default(), &["dev1"]).await;
        let mut client = running.device("dev1").await;
        client.say(said).await;
        ids.insert(running.hub.accepted()[0].id.clone());
        running.end().await;
    }
    assert_eq!(ids.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_keeps_its_format_and_properties() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    let message = post("e", "{}").with_uint(option::CONTENT_FORMAT, 50);
    let message = with_query(with_query(message, "$.cid=c1"), "alarm=yes");
    assert_eq!(client.say(message).await.code, Code::CHANGED);
    let uplink = &running.hub.accepted()[0];
    assert_eq!(
        uplink.system.content_type.as_deref(),
        Some("application/json")
    );
    assert_eq!(uplink.system.content_encoding.as_deref(), Some("utf-8"));
    assert_eq!(uplink.system.correlation_id.as_deref(), Some("c1"));
    // The proof is nobody's business.
    assert_eq!(
        uplink.properties.iter().collect::<Vec<_>>(),
        [("alarm", "yes")]
    );
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_registered_gateway_speaks_for_a_child() {
    let mut config = CoapConfig::default();
    let children = [device("child")].into_iter().collect();
    config.identity.children.insert(device("gateway"), children);
    let running = Running::start(config, &["gateway", "other"]).await;
    for (name, expected) in [("gateway", Code::CHANGED), ("other", Code::FORBIDDEN)] {
        let mut client = running.device(name).await;
        let answer = client.say(post("d/child/t", "1")).await;
        assert_eq!(answer.code, expected, "{name}");
    }
    let accepted = running.hub.accepted();
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].device, device("child"));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_gets_its_command_in_the_answer() {
    let mut config = CoapConfig::default();
    config.routes.profile = Profile::Hono;
    let running = Running::start(config, &["dev1"]).await;
    let (mut client, name) = (running.device("dev1").await, device("dev1"));
    let request = with_query(post("t", "1"), "hono-ttd=60");
    let command = async {
        running.hub.wait_listening(&name, Interest::COMMANDS).await;
        let deadline = Instant::now() + LONG;
        let mut message = CloudMessage::new(name.clone(), "go", deadline);
        message.properties.insert("command", "open");
        running.hub.send_message(message).await
    };
    let (answer, settled) = tokio::join!(client.say(request), command);
    assert_eq!(answer.code, Code::CHANGED);
    assert_eq!(answer.payload, "go");
    assert_eq!(answer.options.get(option::LOCATION_PATH).unwrap(), "c");
    let query = answer.options.get(option::LOCATION_QUERY).unwrap();
    assert_eq!(query, "hono-command=open");
    assert_eq!(settled, Some(Disposition::Complete));
    assert_eq!(running.hub.accepted().len(), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_the_answer_to_an_unconfirmed_wait_is_done_when_the_device_acknowledges_it() {
    let test = async {
        let running = Running::start(CoapConfig::default(), &["dev1"]).await;
        let name = device("dev1");
        for (acknowledges, patience, expected) in [
            (false, Duration::from_secs(1), Disposition::Abandon),
            (true, LONG, Disposition::Complete),
        ] {
            let mut client = running.device("dev1").await;
            let mut message = Message::new(Code::GET).with_path("c");
            for part in client.proof().chain([b"$.ttd=100".to_vec()]) {
                message.options.add(option::URI_QUERY, part);
            }
            let (kind, id) = (Kind::NonConfirmable, 77);
            client.tell(Datagram { kind, id, message }).await;
            running.hub.wait_listening(&name, Interest::COMMANDS).await;
            let take = async {
                let answer = client.requested().await;
                assert_eq!(answer.message.payload, "go");
                assert_eq!(answer.kind, Kind::Confirmable);
                if acknowledges {
                    client.acknowledge(answer.id).await;
                }
            };
            let command = CloudMessage::new(name.clone(), "go", Instant::now() + patience);
            let (settled, ()) = tokio::join!(running.hub.send_message(command), take);
            assert_eq!(settled, Some(expected));
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_without_a_command_ends_with_a_plain_answer() {
    let mut config = CoapConfig::default();
    config.timeouts.command = Duration::from_secs(1);
    let running = Running::start(config, &["dev1"]).await;
    let mut client = running.device("dev1").await;
    let answer = client.say(with_query(post("t", "1"), "$.ttd=1")).await;
    assert_eq!(answer.code, Code::CHANGED);
    assert!(!answer.options.has(option::LOCATION_PATH));
    running.hub.wait_deaf(&device("dev1")).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_is_posted_to_the_devices_own_server() {
    let mut config = CoapConfig::default();
    config.commands.post_to = Some("do".to_owned());
    let running = Running::start(config, &["dev1"]).await;
    let (mut client, name) = (running.device("dev1").await, device("dev1"));
    assert_eq!(client.say(post("t", "1")).await.code, Code::CHANGED);
    running.hub.wait_listening(&name, Interest::COMMANDS).await;
    let call = MethodCall::new(
        name,
        CorrelationId::new("call-1").unwrap(),
        MethodName::new("echo").unwrap(),
        "\"x\"",
        Instant::now() + LONG,
    );
    let serve = async {
        let request = client.requested().await;
        assert_eq!(request.message.path().unwrap(), ["do"]);
        assert_eq!(request.message.query().unwrap(), ["command=echo"]);
        let message = Message::new(Code::CONTENT)
            .with_token(request.message.token)
            .with_payload(request.message.payload);
        let (kind, id) = (Kind::Acknowledgement, request.id);
        client.tell(Datagram { kind, id, message }).await;
    };
    let (reply, ()) = tokio::join!(running.hub.call_method(call), serve);
    assert_eq!(reply, Some(MethodReply::new(200, "\"x\"")));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_is_posted_to_who_has_not_shown_that_it_receives_at_its_address() {
    let mut config = CoapConfig::default();
    config.commands.post_to = Some("do".to_owned());
    let running = Running::start(config, &["dev1"]).await;
    let (mut client, name) = (running.device("dev1").await, device("dev1"));
    let mut message = post("t", "1").with_token(Token::from(7));
    for part in client.proof() {
        message.options.add(option::URI_QUERY, part);
    }
    let (kind, id) = (Kind::Confirmable, 77);
    let bytes = Datagram { kind, id, message }.encode();
    let answer = client.exchange(&bytes).await;
    let answer = Datagram::decode(&answer).unwrap().message;
    assert_eq!(answer.code, Code::UNAUTHORIZED);
    assert!(answer.options.has(option::ECHO));
    assert_eq!(running.coap.listening(), 0);
    // With the value it is a server.
    assert_eq!(client.say(post("t", "1")).await.code, Code::CHANGED);
    running.hub.wait_listening(&name, Interest::COMMANDS).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_blocks_arrives_whole() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    for number in 0..10_u32 {
        let more = number < 9;
        let body = vec![b'a' + number as u8; 1024];
        let block = number << 4 | u32::from(more) << 3 | 6;
        let message = Message::new(Code::POST).with_path("t");
        let message = message.with_uint(option::BLOCK1, block).with_payload(body);
        let answer = client.say(message).await;
        let expected = if more { Code::CONTINUE } else { Code::CHANGED };
        assert_eq!(answer.code, expected);
    }
    assert_eq!(running.hub.accepted()[0].body.len(), 10 * 1024);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_path_method_or_query_is_told() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    for (request, expected) in [
        (post("nowhere", ""), Code::NOT_FOUND),
        (
            Message::new(Code::GET).with_path("t"),
            Code::METHOD_NOT_ALLOWED,
        ),
        (with_query(post("t", ""), "$.x=1"), Code::BAD_REQUEST),
        (post("r/1", ""), Code::NOT_FOUND),
        (
            post("twin/reported", "x").with_uint(option::CONTENT_FORMAT, 0),
            Code::UNSUPPORTED_FORMAT,
        ),
    ] {
        assert_eq!(client.say(request).await.code, expected);
    }
    client
        .request(Purpose::Other, post("t", "still here"))
        .await;
    running.hub.wait_accepted(1).await;
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_gets_the_properties_that_it_names() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    let report = Message::new(Code::IPATCH).with_path("twin/reported");
    let report = report.with_payload(r#"{"a":1,"b":{"c":2},"d":3}"#);
    assert_eq!(client.say(report).await.code, Code::CHANGED);
    let fetch = |path| Message::new(Code::FETCH).with_path(path);
    let answer = client.say(fetch("twin").with_payload(r#"["b","x"]"#)).await;
    assert_eq!(answer.code, Code::CONTENT);
    let twin: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(twin["reported"]["b"]["c"], 2);
    assert_eq!(twin["reported"].get("a"), None);
    let answer = client.say(fetch("twin/desired").with_payload("[]")).await;
    let desired: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer.code, Code::CONTENT);
    assert!(desired["$version"].is_u64(), "{desired}");
    let answer = client.say(fetch("twin").with_payload("{}")).await;
    assert_eq!(answer.code, Code::BAD_REQUEST);
    running.end().await;
}
