//! What a device sees of the gateway, from hello to goodbye.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::time::{Duration, SystemTime};

use gateway_core::credential::{SasToken, SymmetricKey, sas_resource};
use gateway_core::{
    CloudMessage, Credential, Delivered, DesiredPatch, Disposition, Downlink, Downstream as _,
    ErrorKind, Interest, SessionEnd,
};
use gateway_downstream_tcp::TcpDownstream;
use serde_json::json;
use support::{Running, SECRET, config, device};
use tokio::time::{Instant, timeout};

/// How long a test looks for something that must not happen.
const WATCH: Duration = Duration::from_millis(200);

fn message(name: &str) -> CloudMessage {
    CloudMessage::new(device(name), "1", Instant::now() + Duration::from_secs(120))
}

fn key() -> SymmetricKey {
    SymmetricKey::from_base64("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap()
}

fn token(name: &str, key: &SymmetricKey) -> String {
    brief_token(name, key, Duration::from_secs(3600))
}

fn brief_token(name: &str, key: &SymmetricKey, life: Duration) -> String {
    let expires = SystemTime::now() + life;
    let resource = sas_resource("hub.example", &device(name));
    SasToken::sign(&resource, key, expires)
        .secret_text()
        .to_owned()
}

#[tokio::test]
async fn a_hello_and_messages_may_come_in_one_piece() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.dial().await;
    let hello = json!({"type": "hello", "id": "dev1", "secret": SECRET});
    let telemetry = json!({"type": "telemetry", "seq": 7, "id": "m", "body": {"t": 1}});
    dev1.write(format!("{hello}\r\n\r\n{telemetry}\n").as_bytes())
        .await;
    assert_eq!(dev1.hear().await["type"], "welcome");
    assert_eq!(
        dev1.hear().await,
        json!({"type": "ack", "id": "m", "seq": 7})
    );
    assert_eq!(running.hub.accepted()[0].body, r#"{"t":1}"#);
    running.end().await;
}

#[tokio::test]
async fn a_device_without_the_right_secret_stays_outside() {
    let running = Running::start(config(&["dev1"])).await;
    for hello in [
        json!({"type": "hello", "id": "dev1", "secret": "wrong"}),
        json!({"type": "hello", "id": "dev1"}),
        json!({"type": "hello", "id": "stranger", "secret": SECRET}),
    ] {
        let mut client = running.dial().await;
        client.say(hello).await;
        client.hears_last("bye", "unauthorized").await;
    }
    assert_eq!(running.hub.attached_devices(), 0);
    assert_eq!(running.tcp.devices(), 0);
    running.end().await;
}

#[tokio::test]
async fn a_token_is_judged_by_the_hub_before_the_welcome() {
    let running = Running::start(config(&[])).await;
    running.hub.register(device("dev1"), key());
    running.hub.set_latency(Duration::from_millis(50));
    let mut dev1 = running.dial().await;
    dev1.say(json!({"type": "hello", "id": "dev1", "token": token("dev1", &key())}))
        .await;
    assert_eq!(dev1.hear().await, json!({"type": "welcome", "id": "dev1"}));
    assert!(running.hub.is_attached(&device("dev1")));
    dev1.works("m").await;
    let taken = json!({"tag": 1, "type": "c2d_ack", "outcome": "complete"});
    let answer = async {
        assert_eq!(dev1.hear().await["type"], "c2d");
        dev1.say(taken).await;
    };
    let (settled, ()) = tokio::join!(running.hub.send_message(message("dev1")), answer);
    assert_eq!(settled, Some(Disposition::Complete));
    running.end().await;
}

#[tokio::test]
async fn a_bad_token_neither_enters_nor_disturbs_the_device_that_is_there() {
    let running = Running::start(config(&[])).await;
    running.hub.register(device("dev1"), key());
    let mut dev1 = running.dial().await;
    dev1.say(json!({"type": "hello", "id": "dev1", "token": token("dev1", &key())}))
        .await;
    assert_eq!(dev1.hear().await["type"], "welcome");
    let other_key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
    for bad in [token("dev1", &other_key), token("dev2", &key())] {
        let mut thief = running.dial().await;
        thief
            .say(json!({"type": "hello", "id": "dev1", "token": bad}))
            .await;
        thief.hears_last("bye", "unauthorized").await;
    }
    dev1.works("m").await;
    running.end().await;
}

#[tokio::test]
async fn a_new_token_is_presented_on_the_same_connection_and_a_bad_one_changes_nothing() {
    let running = Running::start(config(&[])).await;
    running.hub.register(device("dev1"), key());
    let mut dev1 = running.dial().await;
    let hello = |token: String| json!({"type": "hello", "id": "dev1", "token": token});
    let welcome = json!({"type": "welcome", "id": "dev1"});
    let life = Duration::from_secs(3600);
    dev1.say(hello(token("dev1", &key()))).await;
    assert_eq!(dev1.hear().await, welcome);
    let newer = brief_token("dev1", &key(), 2 * life);
    dev1.say(hello(newer.clone())).await;
    assert_eq!(dev1.hear().await, welcome);
    let other_key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
    for (bad, reason) in [
        (token("dev1", &other_key), "unauthorized"),
        (token("dev2", &key()), "unauthorized"),
        ("no token".to_owned(), "bad_token"),
    ] {
        dev1.say(hello(bad)).await;
        let told = dev1.hear().await;
        assert_eq!(
            (&told["type"], &told["reason"]),
            (&json!("error"), &json!(reason))
        );
    }
    dev1.works("as before").await;
    let credential = running.hub.identity(&device("dev1")).unwrap().credential;
    assert_eq!(
        credential,
        Credential::SasToken(SasToken::parse(&newer).unwrap())
    );
    assert_eq!(running.hub.detaches(&device("dev1")), 0);
    running.end().await;
}

#[tokio::test]
async fn a_device_whose_token_expires_is_told_so() {
    let running = Running::start(config(&[])).await;
    running.hub.register(device("dev1"), key());
    let mut dev1 = running.dial().await;
    let brief = brief_token("dev1", &key(), Duration::from_secs(4));
    dev1.say(json!({"type": "hello", "id": "dev1", "token": brief}))
        .await;
    assert_eq!(dev1.hear().await["type"], "welcome");
    let bye = dev1.hear().await;
    assert_eq!(
        (&bye["type"], &bye["reason"]),
        (&json!("bye"), &json!("unauthorized"))
    );
    assert!(bye["detail"].as_str().unwrap().contains("expired"), "{bye}");
    running.end().await;
}

#[tokio::test]
async fn a_token_is_refused_where_tokens_are_not_taken() {
    let mut config = config(&[]);
    config.identity.token = false;
    let running = Running::start(config).await;
    let mut dev1 = running.dial().await;
    dev1.say(json!({"type": "hello", "id": "dev1", "token": token("dev1", &key())}))
        .await;
    dev1.hears_last("bye", "unauthorized").await;
    assert_eq!(running.hub.attach_requests(&device("dev1")), 0);
    running.end().await;
}

#[tokio::test]
async fn a_devices_word_is_enough_only_where_the_configuration_says_so() {
    let mut config = config(&[]);
    config.identity.trust_any_id = true;
    let running = Running::start(config).await;
    let mut dev1 = running.dial().await;
    dev1.say(json!({"type": "hello", "id": "dev1"})).await;
    assert_eq!(dev1.hear().await["type"], "welcome");
    running.end().await;
}

#[tokio::test]
async fn a_device_that_the_hub_refuses_is_told_goodbye() {
    let running = Running::start(config(&["dev1"])).await;
    running.hub.refuse(&device("dev1"), ErrorKind::Unauthorized);
    let mut dev1 = running.connect("dev1").await;
    dev1.hears_last("bye", "unauthorized").await;
    running.end().await;
}

#[tokio::test]
async fn a_device_is_brought_online_once_the_hub_is_back() {
    let running = Running::start_with(TcpDownstream::builder(config(&["dev1"])), |config| {
        config.retry.budget = Duration::ZERO;
    })
    .await;
    running.hub.set_down(true);
    let mut dev1 = running.connect("dev1").await;
    dev1.say(json!({"type": "ping"})).await;
    assert_eq!(dev1.hear().await, json!({"type": "pong"}));
    running.hub.set_down(false);
    running
        .hub
        .wait_listening(&device("dev1"), Interest::COMMANDS)
        .await;
    dev1.works("m").await;
    running.end().await;
}

#[tokio::test]
async fn the_older_connection_of_a_device_is_told_why_it_ends() {
    let running = Running::start(config(&["dev1"])).await;
    let mut older = running.connect("dev1").await;
    let mut newer = running.connect("dev1").await;
    older.hears_last("bye", "replaced").await;
    newer.works("m").await;
    assert_eq!(running.tcp.devices(), 1);
    running.end().await;
}

#[tokio::test]
async fn a_device_that_has_said_everything_still_hears_its_verdicts() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.connect("dev1").await;
    running.hub.hold();
    for id in ["a", "b"] {
        dev1.say(json!({"type": "telemetry", "id": id, "body": 1}))
            .await;
    }
    dev1.finish().await;
    running.hub.wait_held(1).await;
    running.hub.release();
    assert_eq!(dev1.hear().await, json!({"type": "ack", "id": "a"}));
    assert_eq!(dev1.hear().await, json!({"type": "ack", "id": "b"}));
    assert_eq!(dev1.try_hear().await, None);
    running.end().await;
}

#[tokio::test]
async fn commands_are_answered_while_uplinks_wait_for_the_hub() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.connect("dev1").await;
    running
        .hub
        .wait_listening(&device("dev1"), Interest::COMMANDS)
        .await;
    running.hub.hold();
    dev1.say(json!({"type": "telemetry", "id": "held", "body": 1}))
        .await;
    running.hub.wait_held(1).await;
    let answer = async {
        let c2d = dev1.hear().await;
        dev1.say(json!({"type": "c2d_ack", "tag": c2d["tag"], "outcome": "complete"}))
            .await;
    };
    let (settled, ()) = tokio::join!(running.hub.send_message(message("dev1")), answer);
    assert_eq!(settled, Some(Disposition::Complete));
    running.hub.release();
    assert_eq!(dev1.hear().await["id"], "held");
    running.end().await;
}

#[tokio::test]
async fn a_full_window_stops_the_reading() {
    let mut config = config(&["dev1"]);
    config.limits.window = 2;
    let running = Running::start(config).await;
    let mut dev1 = running.connect("dev1").await;
    running.hub.hold();
    for id in ["a", "b"] {
        dev1.say(json!({"type": "telemetry", "id": id, "body": 1}))
            .await;
    }
    dev1.say(json!({"type": "ping"})).await;
    let early = timeout(WATCH, dev1.hear()).await;
    assert!(early.is_err(), "{early:?}");
    running.hub.release();
    assert_eq!(dev1.hear().await, json!({"type": "ack", "id": "a"}));
    let mut rest = [
        dev1.hear().await["type"].to_string(),
        dev1.hear().await["type"].to_string(),
    ];
    rest.sort();
    assert_eq!(rest, [r#""ack""#, r#""pong""#]);
    running.end().await;
}

#[tokio::test]
async fn desired_changes_and_the_twin_reach_a_device_that_wants_them() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.dial().await;
    let interest = json!({"desired": true});
    dev1.say(json!({"type": "hello", "id": "dev1", "secret": SECRET, "interest": interest}))
        .await;
    assert_eq!(dev1.hear().await["type"], "welcome");
    running
        .hub
        .wait_listening(&device("dev1"), Interest::ALL)
        .await;
    let version = running
        .hub
        .patch_desired(&device("dev1"), r#"{"rate":5}"#)
        .await
        .unwrap();
    let desired = json!({"type": "desired", "version": version, "patch": {"rate": 5}});
    assert_eq!(dev1.hear().await, desired);
    dev1.say(json!({"type": "twin_patch", "id": "p", "patch": {"fw": "1.2"}}))
        .await;
    let patched = dev1.hear().await;
    assert_eq!(
        (&patched["type"], &patched["id"]),
        (&json!("twin_patched"), &json!("p"))
    );
    dev1.say(json!({"type": "twin_get", "id": "g"})).await;
    let twin = dev1.hear().await;
    assert_eq!(
        (&twin["id"], &twin["body"]["reported"]["fw"]),
        (&json!("g"), &json!("1.2"))
    );
    running.end().await;
}

#[tokio::test]
async fn a_desired_change_counts_as_sent_and_no_more() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.connect("dev1").await;
    let patch = DesiredPatch::new(device("dev1"), 2, "{}");
    assert_eq!(
        running.tcp.send(Downlink::Desired(patch)).await.unwrap(),
        Delivered::Sent
    );
    assert_eq!(dev1.hear().await["type"], "desired");
    running.end().await;
}

#[tokio::test]
async fn a_device_that_confirms_nothing_is_waited_for_only_so_long() {
    let mut config = config(&["dev1"]);
    config.timeouts.command = Duration::from_secs(1);
    let running = Running::start(config).await;
    let mut dev1 = running.connect("dev1").await;
    let error = running
        .tcp
        .send(Downlink::Message(message("dev1")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let c2d = dev1.hear().await;
    dev1.say(json!({"type": "c2d_ack", "tag": c2d["tag"], "outcome": "complete"}))
        .await;
    dev1.works("an answer too late harms nobody").await;
    running.end().await;
}

#[tokio::test]
async fn a_session_that_the_hub_ends_ends_the_connection() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.connect("dev1").await;
    running
        .hub
        .wait_listening(&device("dev1"), Interest::COMMANDS)
        .await;
    running
        .hub
        .end_session(&device("dev1"), ErrorKind::Unauthorized)
        .await;
    dev1.hears_last("bye", "unauthorized").await;
    let end = SessionEnd::new(device("absent"), ErrorKind::Unauthorized);
    let error = running.tcp.send(Downlink::End(end)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownDevice);
    running.end().await;
}

#[tokio::test]
async fn shutdown_says_goodbye_and_lets_nobody_in() {
    let running = Running::start(config(&["dev1"])).await;
    let (address, tcp) = (running.address(), running.tcp.clone());
    let mut dev1 = running.connect("dev1").await;
    let mut stranger = running.dial().await;
    let (report, (), ()) = tokio::join!(
        running.end(),
        dev1.hears_last("bye", "shutdown"),
        stranger.hears_last("bye", "shutdown"),
    );
    assert!(!report.forced);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let error = tcp
        .send(Downlink::Message(message("dev1")))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownDevice);
}

#[tokio::test]
async fn serve_dropped_closes_every_connection() {
    let running = Running::start(config(&["dev1"])).await;
    let mut dev1 = running.connect("dev1").await;
    let tcp = running.tcp.clone();
    drop(running);
    assert_eq!(dev1.try_hear().await, None);
    assert_eq!(tcp.devices(), 0);
}
