//! What network servers post, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/site.rs"]
mod site;

use std::net::SocketAddr;

use gateway_core::testkit::MemoryUpstream;
use gateway_downstream_lorawan::cloud::{HttpConfig, Secret};
use gateway_downstream_lorawan::{chirpstack, tts};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TOKEN: &str = "a token of 16 bytes or more";

fn config() -> HttpConfig {
    let mut config = HttpConfig::new(Secret::new(TOKEN));
    config.listen = ([127, 0, 0, 1], 0).into();
    config
}

/// Posts, and gives the status.
async fn post(address: SocketAddr, path: &str, token: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // One that is refused early is not read to its end.
    drop(stream.write_all(body).await);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn up(frame_counter: u32) -> Value {
    json!({
        "deduplicationId": format!("frame-{frame_counter}"),
        "deviceInfo": {"applicationId": "app", "devEui": "0102030405060708"},
        "fCnt": frame_counter,
        "fPort": 1,
        "data": "qgA=",
    })
}

#[tokio::test]
async fn a_request_of_chirpstack_succeeds_when_the_hub_has_taken_it() {
    let hub = MemoryUpstream::new();
    let downstream = chirpstack::http(config(), site::everybody()).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let body = up(1).to_string();
    let post = |token, body| post(address, "/?event=up", token, body);
    assert_eq!(post(TOKEN, body.as_bytes()).await, 204);
    assert_eq!(hub.accepted()[0].id.as_str(), "frame-1");
    // It is known already.
    assert_eq!(post(TOKEN, body.as_bytes()).await, 204);
    assert_eq!(hub.accepted().len(), 1);
}

#[tokio::test]
async fn a_request_is_refused_without_the_token_or_without_an_event() {
    let hub = MemoryUpstream::new();
    let downstream = chirpstack::http(config(), site::everybody()).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let body = up(1).to_string();
    let body = body.as_bytes();
    assert_eq!(post(address, "/?event=up", "another", body).await, 401);
    assert_eq!(post(address, "/", TOKEN, body).await, 400);
    assert_eq!(post(address, "/?event=down", TOKEN, body).await, 400);
    assert_eq!(post(address, "/?event=up", TOKEN, b"garbage").await, 400);
    assert!(hub.accepted().is_empty());
    assert_eq!(post(address, "/?event=up", TOKEN, body).await, 204);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_not_read() {
    let hub = MemoryUpstream::new();
    let mut config = config();
    config.max_body = 1024;
    let downstream = chirpstack::http(config, site::everybody()).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let body = [b' '; 1025];
    assert_eq!(post(address, "/?event=up", TOKEN, &body).await, 413);
}

#[tokio::test]
async fn a_webhook_of_the_things_stack_may_post_to_any_path() {
    let hub = MemoryUpstream::new();
    let downstream = tts::http(config(), site::everybody()).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let body = json!({
        "end_device_ids": {"device_id": "dev1", "application_ids": {"application_id": "app1"},
            "dev_eui": "0102030405060708"},
        "correlation_ids": ["as:up:01E0WZGT6Y7657CPFPE5WEYDSQ"],
        "uplink_message": {"f_cnt": 1, "f_port": 1, "frm_payload": "qgA="},
    });
    let body = body.to_string();
    assert_eq!(post(address, "/uplink", TOKEN, body.as_bytes()).await, 204);
    assert_eq!(
        hub.accepted()[0].id.as_str(),
        "as:up:01E0WZGT6Y7657CPFPE5WEYDSQ"
    );
}

#[test]
fn a_token_that_can_be_guessed_is_refused() {
    let error = HttpConfig::new(Secret::new("guess"))
        .validate()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "`token` is too short; allowed: 16 bytes or more"
    );
    assert!(!format!("{:?}", config()).contains(TOKEN));
}
