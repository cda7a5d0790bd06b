//! Requests over HTTP: who may ask, how a refusal reads, and what a bad client cannot do to others.

mod support;
#[path = "support/http.rs"]
mod web;

use std::time::Duration;

use hub_simulator::{HubSimulator, Limits};
use support::{plain_hub, soon, token};
use web::Http;

const STATISTICS: &str = "/statistics/service?api-version=2021-04-12";

/// A hub that loses its patience soon.
async fn impatient_hub() -> HubSimulator {
    let limits = Limits::default()
        .with_http_idle_timeout(Duration::from_millis(300))
        .with_http_body_timeout(Duration::from_millis(300));
    let hub = HubSimulator::builder().with_tls(false).with_limits(limits);
    hub.start().await.expect("ports are free")
}

/// The hub answers whoever asks properly.
async fn serves(hub: &HubSimulator) {
    let mut http = Http::policy(hub, "service").await;
    assert_eq!(http.get("/statistics/service").await.status, 200);
}

/// Sends a byte now and then until the hub hangs up; returns what it has said.
async fn drip(http: &mut Http, byte: u8) -> String {
    let mut said = Vec::new();
    soon(async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                ended = http.read_on(&mut said) => if ended { break },
                _ = pace.tick() => http.try_send(&[byte]).await,
            }
        }
    })
    .await;
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_policy_with_the_right_is_answered() {
    let hub = plain_hub().await;
    let token = token(&hub.policy_connection_string("service"));
    let mut http = Http::connect(&hub, &token).await;
    let reply = http.get("/statistics/service").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["connectedDeviceCount"], 0);
}

#[tokio::test]
async fn whoever_has_no_right_is_refused_in_the_hubs_words() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let device = token(&hub.device_connection_string("d"));
    let policy = token(&hub.policy_connection_string("device"));
    for token in ["", "nonsense", &device, &policy] {
        let mut http = Http::connect(&hub, token).await;
        let reply = http.get("/statistics/service").await;
        assert_eq!(reply.status, 401, "{token}");
        assert_eq!(reply.header("iothub-errorcode"), "IotHubUnauthorizedAccess");
        let body = reply.json();
        assert_eq!(
            body["Message"],
            "ErrorCode:IotHubUnauthorizedAccess;Unauthorized"
        );
        let exception = body["ExceptionMessage"].as_str().unwrap();
        assert!(exception.starts_with("Tracking ID:"));
    }
}

#[tokio::test]
async fn a_request_needs_a_version_and_a_path_that_is() {
    let hub = plain_hub().await;
    let mut http = Http::policy(&hub, "iothubowner").await;
    let reply = http
        .ask_plainly("GET", "/statistics/service", &[], b"")
        .await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.header("iothub-errorcode"), "InvalidProtocolVersion");
    assert_eq!(http.get("/no/such/path").await.status, 404);
}

#[tokio::test]
async fn requests_in_one_go_are_answered_in_their_order() {
    let hub = plain_hub().await;
    let token = token(&hub.policy_connection_string("service"));
    let request = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n")
    };
    let mut http = Http::connect(&hub, "").await;
    let requests = [STATISTICS, "/nowhere", STATISTICS].map(request).concat();
    http.send(requests.as_bytes()).await;
    for status in [200, 404, 200] {
        assert_eq!(http.reply().await.status, status);
    }
}

#[tokio::test]
async fn garbage_ends_its_connection_only() {
    let hub = plain_hub().await;
    let mut good = Http::policy(&hub, "service").await;
    let long = [b"GET /".as_slice(), &[b'x'; 100_000]].concat();
    for garbage in [
        &b"\x00\x01\x02\r\n\r\n"[..],
        b"AMQP\x00\x01\x00\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: minus one\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\nConnection: close\r\n\r\n",
        &long,
    ] {
        let mut http = Http::connect(&hub, "").await;
        http.try_send(garbage).await;
        http.close_writing().await;
        http.ended().await;
    }
    assert_eq!(good.get("/statistics/service").await.status, 200);
    soon(hub.wait_until(|stats| stats.connections.len() == 1)).await;
}

#[tokio::test]
async fn whoever_dawdles_over_headers_or_body_is_sent_off() {
    let hub = impatient_hub().await;
    let mut headers = Http::connect(&hub, "").await;
    headers.send(b"GET / HTTP/1.1\r\nX: ").await;
    drip(&mut headers, b'x').await;
    let mut body = Http::connect(&hub, "").await;
    body.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        .await;
    let said = drip(&mut body, b'x').await;
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    let mut silent = Http::connect(&hub, "").await;
    silent.ended().await;
    serves(&hub).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_it_tells_its_length_or_not() {
    let hub = plain_hub().await;
    let large = vec![b'x'; 1024 * 1024 + 1];
    for (framing, body) in [
        (format!("Content-Length: {}", large.len()), large.clone()),
        (
            "Transfer-Encoding: chunked".to_owned(),
            [
                format!("{:x}\r\n", large.len()).as_bytes(),
                &large,
                b"\r\n0\r\n\r\n",
            ]
            .concat(),
        ),
    ] {
        let mut http = Http::connect(&hub, "").await;
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n");
        http.send(head.as_bytes()).await;
        http.try_send(&body).await;
        let reply = http.reply().await;
        assert_eq!(reply.status, 413, "{framing}");
        assert_eq!(reply.header("iothub-errorcode"), "MessageTooLarge");
    }
    serves(&hub).await;
}

#[tokio::test]
async fn whoever_does_not_read_the_answers_is_sent_off() {
    let hub = impatient_hub().await;
    hub.add_devices((0..1000).map(|number| format!("device-{number}")));
    let token = token(&hub.policy_connection_string("iothubowner"));
    let request = format!(
        "GET /devices?top=1000&api-version=2021-04-12 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n\r\n"
    );
    let mut http = Http::connect(&hub, "").await;
    http.send(request.repeat(100).as_bytes()).await;
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
    serves(&hub).await;
}

#[tokio::test]
async fn a_cut_and_a_freeze_reach_http_too() {
    let hub = plain_hub().await;
    let mut http = Http::policy(&hub, "service").await;
    assert_eq!(http.get("/statistics/service").await.status, 200);
    hub.faults().freeze_all();
    {
        let mut ask = Box::pin(http.get("/statistics/service"));
        let answered = tokio::time::timeout(Duration::from_millis(100), &mut ask).await;
        assert!(answered.is_err());
        hub.faults().thaw();
        assert_eq!(ask.await.status, 200);
    }
    hub.faults().cut_all();
    http.ended().await;
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
}
