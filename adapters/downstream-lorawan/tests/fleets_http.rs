//! What network servers post, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/authority.rs"]
mod authority;
#[path = "support/post.rs"]
mod post;
#[path = "support/site.rs"]
mod site;

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::credential::Secret;
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{CloudMessage, DeviceId, Disposition, ErrorKind, Interest};
use gateway_downstream_lorawan::cloud::{HttpConfig, PostConfig};
use gateway_downstream_lorawan::embed::{EuiDirectory, LorawanConfig, LorawanDownstream};
use gateway_downstream_lorawan::tts::TtsWebhookConfig;
use gateway_downstream_lorawan::{chirpstack, tts};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use authority::Identity;
use post::{post, read_request, take_request};

const BUSY: &str = "503 Service Unavailable";
const TOKEN: &str = "a token of 16 bytes or more";

fn config() -> HttpConfig {
    let mut config = HttpConfig::new(Secret::new(TOKEN));
    config.listen = ([127, 0, 0, 1], 0).into();
    config
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
async fn what_is_told_of_a_device_has_its_name_at_the_hub_and_is_told_once() {
    let hub = MemoryUpstream::new();
    let downstream = chirpstack::http(config(), site::everybody()).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let mut status = up(1);
    status["deduplicationId"] = "3ac7e3c4".into();
    let body = status.to_string();
    for _ in 0..2 {
        let answer = post(address, "/?event=status", TOKEN, body.as_bytes()).await;
        assert_eq!(answer, 204);
    }
    let accepted = hub.accepted();
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].id.as_str(), "status-3ac7e3c4");
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
async fn strangers_keep_no_network_server_out() {
    let hub = MemoryUpstream::new();
    let mut config = config();
    config.max_connections = 2;
    config.idle_timeout = Duration::from_secs(600);
    let downstream = chirpstack::http(config, site::everybody()).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let mut strangers = JoinSet::new();
    for _ in 0..4 {
        let mut greedy = TcpStream::connect(address).await.unwrap();
        strangers.spawn(async move {
            // Asks on, and reads no answer.
            while greedy.write_all(b"GET / HTTP/1.1\r\n\r\n").await.is_ok() {}
        });
    }
    let mut silent = Vec::new();
    for frame_counter in 1..=3 {
        for _ in 0..4 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let body = up(frame_counter).to_string();
        assert_eq!(
            post(address, "/?event=up", TOKEN, body.as_bytes()).await,
            204
        );
    }
    while strangers.join_next().await.is_some() {}
}

#[tokio::test]
async fn who_has_shown_the_token_gives_way_to_no_stranger() {
    let hub = MemoryUpstream::new();
    let mut config = config();
    config.max_connections = 2;
    let downstream = chirpstack::http(config, site::everybody()).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let mut server = TcpStream::connect(address).await.unwrap();
    for frame_counter in 1..=3 {
        let body = up(frame_counter).to_string();
        let request = format!(
            "POST /?event=up HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        server.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(server.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 204"));
        for _ in 0..4 {
            // Has an end when it gives way to the next.
            let mut stranger = TcpStream::connect(address).await.unwrap();
            let _next = TcpStream::connect(address).await.unwrap();
            assert_eq!(stranger.read(&mut [0]).await.unwrap_or(0), 0);
        }
    }
}

#[tokio::test]
async fn an_uplink_that_waited_for_the_hub_opens_no_window() {
    let hub = MemoryUpstream::new();
    let mut lorawan = LorawanConfig::default();
    lorawan.window = Duration::from_millis(300);
    let lorawan = LorawanDownstream::builder(lorawan).with_directory(EuiDirectory::default());
    let downstream = chirpstack::http(config(), lorawan).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let [first, second] = [1, 2].map(|frame_counter| up(frame_counter).to_string());
    let tell = |body| post(address, "/?event=up", TOKEN, body);
    hub.hold();
    let waiting = async {
        hub.wait_held(1).await;
        let second = tell(second.as_bytes());
        let release = async {
            sleep(Duration::from_millis(600)).await;
            hub.release();
        };
        tokio::join!(second, release).0
    };
    let answers = tokio::join!(tell(first.as_bytes()), waiting);
    assert_eq!(answers, (204, 204));
    let device = device();
    let listening = hub.wait_listening(&device, Interest::COMMANDS);
    let listening = timeout(Duration::from_millis(200), listening).await;
    assert!(listening.is_err(), "its device does not hear");
}

#[tokio::test]
async fn a_webhook_of_the_things_stack_may_post_to_any_path() {
    let hub = MemoryUpstream::new();
    let config = TtsWebhookConfig::new("gateway", config());
    let downstream = tts::http(config, site::everybody()).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let body = tts_up(1);
    let body = body.to_string();
    assert_eq!(post(address, "/uplink", TOKEN, body.as_bytes()).await, 204);
    assert_eq!(hub.accepted()[0].id.as_str(), "1");
}

fn tts_up(frame_counter: u32) -> Value {
    json!({
        "end_device_ids": {"device_id": "dev1", "application_ids": {"application_id": "app1"},
            "dev_eui": "0102030405060708"},
        "correlation_ids": [format!("as:up:{frame_counter}")],
        "uplink_message": {"f_cnt": frame_counter, "f_port": 1, "frm_payload": "qgA="},
    })
}

/// Takes one request on a new connection.
async fn accept_request(listener: &TcpListener, status: &str) -> (String, Value) {
    let (mut stream, _) = listener.accept().await.unwrap();
    take_request(&mut stream, status).await.unwrap()
}

#[tokio::test]
async fn a_command_is_posted_to_the_webhook_and_ends_with_the_radios_result() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hub = MemoryUpstream::new();
    let mut config = TtsWebhookConfig::new("gateway", config());
    let url = format!("http://{}", listener.local_addr().unwrap());
    config.downlinks = Some(PostConfig::new(url, Secret::new("NNSXS.KEY")));
    let downstream = tts::http(config, site::everybody()).await.unwrap();
    let address = downstream.local_addr().unwrap();
    let _run = site::run(&hub, downstream);
    let tell = async |body: Value| post(address, "/", TOKEN, body.to_string().as_bytes()).await;
    assert_eq!(tell(tts_up(1)).await, 204);
    let device = DeviceId::new("0102030405060708").unwrap();
    hub.wait_listening(&device, Interest::COMMANDS).await;

    let deadline = Instant::now() + Duration::from_secs(600);
    let message = CloudMessage::new(device, &b"on"[..], deadline);
    let radio = async {
        let (head, body) = accept_request(&listener, "200 OK").await;
        let path = "/api/v3/as/applications/app1/webhooks/gateway/devices/dev1/down/push";
        assert!(
            head.starts_with(&format!("post {path} http/1.1\r\n")),
            "{head}"
        );
        assert!(
            head.contains("\r\nauthorization: bearer nnsxs.key"),
            "{head}"
        );
        let mut sent = tts_up(2);
        sent["uplink_message"].take();
        sent["downlink_sent"] = body["downlinks"][0].clone();
        assert_eq!(tell(sent).await, 204);
    };
    let (disposition, ()) = tokio::join!(hub.send_message(message), radio);
    assert_eq!(disposition, Some(Disposition::Complete));
}

/// Has a webhook that knows one device, which listens, and a server where its downlinks are posted.
struct Webhook {
    hub: MemoryUpstream,
    address: SocketAddr,
    _run: JoinSet<()>,
}

impl Webhook {
    async fn start(downlinks: PostConfig) -> Self {
        let hub = MemoryUpstream::new();
        let mut config = TtsWebhookConfig::new("gateway", config());
        config.downlinks = Some(downlinks);
        let downstream = tts::http(config, site::everybody()).await.unwrap();
        let address = downstream.local_addr().unwrap();
        let run = site::run(&hub, downstream);
        let body = tts_up(1).to_string();
        assert_eq!(post(address, "/", TOKEN, body.as_bytes()).await, 204);
        hub.wait_listening(&device(), Interest::COMMANDS).await;
        Self {
            hub,
            address,
            _run: run,
        }
    }

    /// Tells what The Things Stack does under this key.
    async fn tell(&self, key: &str, value: &Value) {
        let mut body = tts_up(0);
        body["uplink_message"].take();
        body[key] = value.clone();
        let body = body.to_string();
        assert_eq!(post(self.address, "/", TOKEN, body.as_bytes()).await, 204);
    }

    /// Has a command posted, and gives what became of it.
    async fn command(&self) -> Option<Disposition> {
        self.hub.send_message(command()).await
    }
}

fn command() -> CloudMessage {
    let deadline = Instant::now() + Duration::from_secs(600);
    CloudMessage::new(device(), &b"on"[..], deadline)
}

fn device() -> DeviceId {
    DeviceId::new("0102030405060708").unwrap()
}

#[tokio::test]
async fn a_command_that_the_things_stack_refuses_is_given_back() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let webhook = Webhook::start(PostConfig::new(url, Secret::new("NNSXS.KEY"))).await;
    for (status, expected) in [
        (BUSY, Disposition::Abandon),
        ("406 Not Acceptable", Disposition::Abandon),
        ("404 Not Found", Disposition::Abandon),
        ("403 Forbidden", Disposition::Reject),
    ] {
        let refuse = accept_request(&listener, status);
        let (disposition, _) = tokio::join!(webhook.command(), refuse);
        assert_eq!(disposition, Some(expected), "{status}");
    }
}

#[tokio::test]
async fn a_command_that_the_things_stack_is_slow_to_take_is_posted_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let webhook = Webhook::start(PostConfig::new(url, Secret::new("NNSXS.KEY"))).await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (_, body) = read_request(&mut stream).await.unwrap();
        // Longer than it is waited for.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        webhook.tell("downlink_sent", &body["downlinks"][0]).await;
    };
    let (disposition, ()) = tokio::join!(webhook.command(), server);
    assert_eq!(disposition, Some(Disposition::Complete));
    let second = timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(second.is_err(), "it was posted twice");
}

#[tokio::test]
async fn what_comes_after_a_withdrawal_that_is_not_answered_is_posted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let webhook = Webhook::start(PostConfig::new(url, Secret::new("NNSXS.KEY"))).await;
    let mut first = command();
    first.deadline = Instant::now() + Duration::from_secs(2);
    let server = async {
        let mut unanswered = Vec::new();
        for (frame_counter, last) in [(2, "push"), (3, "replace")] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (head, _) = read_request(&mut stream).await.unwrap();
            assert!(head.contains(&format!("/down/{last} ")), "{head}");
            unanswered.push(stream);
            // Another window.
            let body = tts_up(frame_counter).to_string();
            let answer = post(webhook.address, "/", TOKEN, body.as_bytes()).await;
            assert_eq!(answer, 204);
        }
        let (_, body) = accept_request(&listener, "200 OK").await;
        webhook.tell("downlink_sent", &body["downlinks"][0]).await;
    };
    let commands = async { tokio::join!(webhook.hub.send_message(first), webhook.command()) };
    let all = timeout(Duration::from_secs(60), async {
        tokio::join!(commands, server)
    });
    let (dispositions, ()) = all.await.expect("the second command is posted");
    let expected = (Some(Disposition::Abandon), Some(Disposition::Complete));
    assert_eq!(dispositions, expected);
}

#[tokio::test]
async fn a_command_that_its_device_does_not_confirm_is_given_back_when_no_attempt_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let webhook = Webhook::start(PostConfig::new(url, Secret::new("NNSXS.KEY"))).await;
    let mut command = command();
    command.properties.insert("lorawan-confirmed", "true");
    let (sent, is_queued) = (Cell::new(0), Cell::new(false));
    // As `handleDownlinkNack` of lorawan-stack's application server.
    let server = async {
        let (_, body) = accept_request(&listener, "200 OK").await;
        let mut downlink = body["downlinks"][0].clone();
        is_queued.set(true);
        while is_queued.get() {
            sent.set(sent.get() + 1);
            webhook.tell("downlink_sent", &downlink).await;
            let body = tts_up(1 + sent.get()).to_string();
            let answer = post(webhook.address, "/", TOKEN, body.as_bytes()).await;
            assert_eq!(answer, 204);
            let retry = &mut downlink["confirmed_retry"];
            let attempt = retry["attempt"].as_u64().unwrap_or(0) + 1;
            retry["attempt"] = attempt.into();
            is_queued.set(attempt <= retry["max_attempts"].as_u64().unwrap());
            webhook.tell("downlink_nack", &downlink).await;
        }
    };
    let given_back = async {
        let disposition = webhook.hub.send_message(command).await;
        (disposition, is_queued.get())
    };
    let (given_back, ()) = tokio::join!(given_back, server);
    assert_eq!(given_back, (Some(Disposition::Abandon), false));
    assert_eq!(sent.get(), 1, "the hub gives it out again");
}

#[tokio::test]
async fn an_uplink_that_is_posted_again_says_nothing_of_the_command_after_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let webhook = Webhook::start(PostConfig::new(url, Secret::new("NNSXS.KEY"))).await;
    let body = tts_up(2).to_string();
    let refused = async || {
        webhook.hub.reject_next(ErrorKind::Other);
        let answer = post(webhook.address, "/", TOKEN, body.as_bytes()).await;
        assert_eq!(answer, 503);
    };
    refused().await;
    let mut command = command();
    command.properties.insert("lorawan-confirmed", "true");
    let server = async {
        let (_, body) = accept_request(&listener, "200 OK").await;
        let downlink = &body["downlinks"][0];
        webhook.tell("downlink_sent", downlink).await;
        refused().await;
        refused().await;
        webhook.tell("downlink_ack", downlink).await;
    };
    let (disposition, ()) = tokio::join!(webhook.hub.send_message(command), server);
    assert_eq!(disposition, Some(Disposition::Complete));
}

#[tokio::test]
async fn a_connection_serves_for_many_downlinks_and_a_closed_one_costs_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let webhook = Webhook::start(PostConfig::new(url, Secret::new("NNSXS.KEY"))).await;
    for _ in 0..2 {
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            for _ in 0..3 {
                take_request(&mut stream, BUSY).await.unwrap();
            }
        };
        let commands = async {
            for _ in 0..3 {
                // One that is refused is given back at once.
                assert_eq!(webhook.command().await, Some(Disposition::Abandon));
            }
        };
        tokio::join!(server, commands);
    }
}

/// Accepts one connection under TLS, takes a request on it, and gives its body.
async fn take_under_tls(listener: &TcpListener, identity: &Identity) -> Option<Value> {
    let key = identity.certified.signing_key.serialize_der();
    let certificate = identity.certified.cert.der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key).into())
        .unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    let (_, body) = take_request(&mut stream.ok()?, BUSY).await?;
    Some(body)
}

#[tokio::test]
async fn downlinks_are_posted_under_tls_to_a_server_whose_certificate_is_trusted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let identity = Identity::generate();
    let url = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let mut downlinks = PostConfig::new(url, Secret::new("NNSXS.KEY"));
    for (ca, is_trusted) in [(&identity, true), (&Identity::generate(), false)] {
        downlinks.ca_file = Some(ca.certificate_file());
        let webhook = Webhook::start(downlinks.clone()).await;
        let server = take_under_tls(&listener, &identity);
        let (disposition, body) = tokio::join!(webhook.command(), server);
        assert_eq!(disposition, Some(Disposition::Abandon));
        let payload = body.map(|body| body["downlinks"][0]["frm_payload"].clone());
        assert_eq!(payload, is_trusted.then(|| "b24=".into()));
    }
}

#[tokio::test]
async fn a_server_that_is_none_is_named() {
    for url in [
        "eu1.cloud.thethings.network",
        "ftp://host",
        "https://host/path",
        "",
    ] {
        let mut config = TtsWebhookConfig::new("gateway", config());
        config.downlinks = Some(PostConfig::new(url, Secret::new("NNSXS.KEY")));
        let error = tts::http(config, site::everybody()).await.unwrap_err();
        let expected = format!("`downlinks.url` is {url:?}; allowed: ");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
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
