//! Connections over TCP and TLS: how they begin, what they may do, and how they end.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use gateway_core::testkit::DeviceEvent;
use gateway_core::{
    CloudMessage, CorrelationId, Disposition, ErrorKind, Interest, MessageId, MethodCall,
    MethodName, MethodReply,
};
use gateway_downstream_coap::proto::message::{Code, Message, Token, option};
use gateway_downstream_coap::{BindError, CoapConfig, CoapDownstream, TcpConfig};
use support::pki::Pki;
use support::stream::StreamDevice;
use support::{Purpose, Running, device, in_time, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const LONG: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_millis(200);

fn config() -> CoapConfig {
    let mut tcp = TcpConfig::default();
    tcp.listen.set_port(0);
    let mut config = CoapConfig::default();
    config.tcp = Some(tcp);
    // Above what a loaded machine makes of a short pause.
    config.connections.hello = LONG;
    config.connections.write = LONG;
    config
}

fn post(path: &str, body: impl Into<Vec<u8>>) -> Message {
    Message::new(Code::POST)
        .with_path(path)
        .with_payload(body.into())
}

fn message(name: &str, body: &'static str) -> CloudMessage {
    CloudMessage::new(device(name), body, Instant::now() + LONG)
}

async fn dial(running: &Running) -> TcpStream {
    let address = running.coap.tcp_addr().unwrap();
    TcpStream::connect(address).await.unwrap()
}

/// Waits until the gateway closes a connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    drop(stream.read_to_end(&mut rest).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_begin_is_closed_out_and_so_is_who_does_not_finish() {
    let test = async {
        let mut config = config();
        config.connections.hello = SHORT;
        config.connections.message = SHORT;
        let running = Running::start(config, &["dev1"]).await;
        let mut silent = dial(&running).await;
        let mut slow = dial(&running).await;
        // The settings, and of the next message the first byte.
        drop(slow.write_all(b"\x00\xe1\xd0").await);
        closed(&mut silent).await;
        closed(&mut slow).await;
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bound_connections_are_closed_until_others_end() {
    let test = async {
        let mut config = config();
        config.connections.max_per_address = 2;
        let running = Running::start(config, &["dev1"]).await;
        let mut first = running.stream_device("dev1").await;
        let mut second = running.stream_device("dev1").await;
        for client in [&mut first, &mut second] {
            assert_eq!(client.say(post("t", "1")).await.code, Code::CHANGED);
        }
        closed(&mut dial(&running).await).await;
        drop(first);
        // When its place is free is the gateway's to see.
        loop {
            let mut client = running.stream_device("dev1").await;
            if client.hear().await.is_some() {
                assert_eq!(client.say(post("t", "1")).await.code, Code::CHANGED);
                break;
            }
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_reads_nothing_is_cut_off_and_others_are_served() {
    let test = async {
        let mut config = config();
        config.connections.write = Duration::from_secs(1);
        let running = Running::start(config, &["deaf", "dev1"]).await;
        let mut deaf = running.stream_device("deaf").await;
        let links = Message::new(Code::GET).with_path(".well-known/core");
        // Far more than the system's buffers hold.
        let flood = async { while deaf.tell(&links).await {} };
        let work = async {
            let mut client = running.stream_device("dev1").await;
            for _ in 0..20 {
                assert_eq!(client.say(post("t", "1")).await.code, Code::CHANGED);
            }
        };
        tokio::join!(flood, work);
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_comes_whole_or_in_blocks() {
    let test = async {
        let running = Running::start(config(), &["dev1"]).await;
        let mut client = running.stream_device("dev1").await;
        let body: Vec<_> = (0..10 * 1024).map(|at| at as u8).collect();
        let whole = client.say(post("t", body.clone())).await;
        assert_eq!(whole.code, Code::CHANGED);
        // Blocks of 1024 bytes, then two messages of many blocks (RFC 8323, section 6).
        for (exponent, size) in [(6_u32, 1024), (7, 5 * 1024)] {
            let count = body.len() / size;
            for (number, block) in body.chunks(size).enumerate() {
                let is_last = number + 1 == count;
                let value = (number * size / 1024) as u32;
                let value = value << 4 | u32::from(!is_last) << 3 | exponent;
                let request = post("t", block).with_uint(option::BLOCK1, value);
                let expected = if is_last {
                    Code::CHANGED
                } else {
                    Code::CONTINUE
                };
                assert_eq!(client.say(request).await.code, expected);
            }
        }
        let accepted = running.hub.accepted();
        assert_eq!(accepted.len(), 3);
        assert!(accepted.iter().all(|uplink| uplink.body == body));
        let ids: std::collections::HashSet<_> = accepted.iter().map(|one| &one.id).collect();
        assert_eq!(ids.len(), 3);
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_completes_by_the_pong_behind_it_and_not_without() {
    let test = async {
        let running = Running::start(config(), &["dev1"]).await;
        let (mut client, name) = (running.stream_device("dev1").await, device("dev1"));
        client.register().await;
        running.hub.wait_listening(&name, Interest::ALL).await;
        let deadline = Instant::now() + Duration::from_secs(1);
        let unheard = CloudMessage::new(name, "unheard", deadline);
        let settled = running.hub.send_message(unheard).await;
        assert_eq!(settled, Some(Disposition::Abandon));
        let take = async {
            loop {
                let DeviceEvent::Message { body, tag } = client.next().await else {
                    panic!("no message");
                };
                // The pong for the first one is late, and must not be taken for the next one's.
                client.confirm(&tag).await;
                if body == "heard" {
                    break;
                }
            }
        };
        let (settled, ()) = tokio::join!(running.hub.send_message(message("dev1", "heard")), take);
        assert_eq!(settled, Some(Disposition::Complete));
        running.end().await;
    };
    in_time(test).await;
}

/// Registers for commands and skips what comes before the first of them.
async fn observe(running: &Running, client: &mut StreamDevice) {
    let get = Message::new(Code::GET).with_path("c");
    let first = client.say(get.with_uint(option::OBSERVE, 0)).await;
    assert_eq!(first.code, Code::CONTENT);
    let (name, interest) = (device("dev1"), Interest::COMMANDS);
    running.hub.wait_listening(&name, interest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pong_counts_though_it_does_not_say_which_ping_it_answers() {
    let test = async {
        let running = Running::start(config(), &["dev1"]).await;
        let mut client = running.stream_device("dev1").await;
        observe(&running, &mut client).await;
        let take = async {
            assert_eq!(client.hear().await.unwrap().payload, "go");
            assert_eq!(client.hear().await.unwrap().code, Code::PING);
            assert!(client.tell(&Message::new(Code::PONG)).await);
        };
        let (settled, ()) = tokio::join!(running.hub.send_message(message("dev1", "go")), take);
        assert_eq!(settled, Some(Disposition::Complete));
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_an_answer_completes_by_the_pong_behind_it_and_not_without() {
    let test = async {
        let running = Running::start(config(), &["dumb", "dev1"]).await;
        for (id, answers, expected) in [
            ("dumb", false, Disposition::Abandon),
            ("dev1", true, Disposition::Complete),
        ] {
            let (mut client, name) = (running.stream_device(id).await, device(id));
            assert_eq!(client.hear().await.unwrap().code, Code::CSM);
            let get = Message::new(Code::GET).with_path("c");
            let get = get.with_option(option::URI_QUERY, &b"$.ttd=100"[..]);
            client.request(Purpose::Asked, get).await;
            running.hub.wait_listening(&name, Interest::COMMANDS).await;
            let take = async {
                assert_eq!(client.hear().await.unwrap().payload, "go");
                let ping = client.hear().await.unwrap();
                assert_eq!(ping.code, Code::PING);
                if answers {
                    let pong = Message::new(Code::PONG).with_token(ping.token);
                    assert!(client.tell(&pong).await);
                }
            };
            let patience = if answers {
                LONG
            } else {
                Duration::from_secs(1)
            };
            let message = CloudMessage::new(name, "go", Instant::now() + patience);
            let (settled, ()) = tokio::join!(running.hub.send_message(message), take);
            assert_eq!(settled, Some(expected));
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_blocks_completes_with_the_last_of_them() {
    let test = async {
        let running = Running::start(config(), &["dev1"]).await;
        let mut client = running.stream_device("dev1").await;
        observe(&running, &mut client).await;
        // More than the device takes at a time, since it has not said that it takes more.
        let body: Vec<_> = (0..2500).map(|at| at as u8).collect();
        let name = device("dev1");
        let large = CloudMessage::new(name, body.clone(), Instant::now() + LONG);
        let hub = running.hub.clone();
        let mut sending = std::pin::pin!(hub.send_message(large));
        let block = |number: u32| {
            let get = Message::new(Code::GET).with_path("c");
            get.with_uint(option::BLOCK2, number << 4 | 6)
        };
        let begin = async {
            let first = client.hear().await.unwrap();
            assert_eq!(first.options.uint(option::BLOCK2), Some(1 << 3 | 6));
            let ping = client.hear().await.unwrap();
            assert_eq!(ping.code, Code::PING);
            let pong = Message::new(Code::PONG).with_token(ping.token);
            assert!(client.tell(&pong).await);
            [first.payload, client.say(block(1)).await.payload].concat()
        };
        let begun = tokio::select! {
            begun = begin => begun,
            settled = &mut sending => panic!("{settled:?} before the last block"),
        };
        let (last, settled) = tokio::join!(client.say(block(2)), sending);
        assert_eq!([&begun[..], &last.payload].concat(), body);
        assert_eq!(settled, Some(Disposition::Complete));
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_reached_by_the_way_that_it_came_last() {
    let test = async {
        let running = Running::start(config(), &["dev1"]).await;
        let mut datagrams = running.device("dev1").await;
        datagrams.register().await;
        let mut stream = running.stream_device("dev1").await;
        stream.register().await;
        let taking = async {
            let DeviceEvent::Message { tag, .. } = stream.next().await else {
                panic!("no message");
            };
            stream.confirm(&tag).await;
        };
        let (settled, ()) = tokio::join!(running.hub.send_message(message("dev1", "go")), taking);
        assert_eq!(settled, Some(Disposition::Complete));
        datagrams.register().await;
        assert_eq!(stream.next().await, DeviceEvent::Closed);
        let taking = async {
            let DeviceEvent::Message { tag, .. } = datagrams.next().await else {
                panic!("no message");
            };
            datagrams.acknowledge(tag.parse().unwrap()).await;
        };
        let (settled, ()) = tokio::join!(running.hub.send_message(message("dev1", "go")), taking);
        assert_eq!(settled, Some(Disposition::Complete));
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_takes_late_does_not_take_a_device_from_where_it_listens_now() {
    let test = async {
        let running = Running::start(config(), &["dev1"]).await;
        let mut stream = running.stream_device("dev1").await;
        assert_eq!(stream.hear().await.unwrap().code, Code::CSM);
        running.hub.hold();
        let waiting = post("t", "1").with_option(option::URI_QUERY, &b"$.ttd=100"[..]);
        stream.request(Purpose::Asked, waiting).await;
        running.hub.wait_held(1).await;
        let mut datagrams = running.device("dev1").await;
        let release = async {
            until(|| running.coap.listening() == 1).await;
            running.hub.release();
        };
        tokio::join!(datagrams.register(), release);
        assert_eq!(stream.hear().await.unwrap().code, Code::CHANGED);
        let taking = async {
            let DeviceEvent::Message { tag, .. } = datagrams.next().await else {
                panic!("no message");
            };
            datagrams.acknowledge(tag.parse().unwrap()).await;
        };
        let (settled, ()) = tokio::join!(running.hub.send_message(message("dev1", "go")), taking);
        assert_eq!(settled, Some(Disposition::Complete));
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_waits_on_two_connections_the_one_asked_for_last_stays() {
    let test = async {
        let running = Running::start(config(), &["dev1"]).await;
        let mut older = running.stream_device("dev1").await;
        let mut newer = running.stream_device("dev1").await;
        running.hub.hold();
        for (number, stream) in [&mut older, &mut newer].into_iter().enumerate() {
            assert_eq!(stream.hear().await.unwrap().code, Code::CSM);
            let wait = post("t", number.to_string());
            let wait = wait.with_option(option::URI_QUERY, &b"$.ttd=100"[..]);
            stream.request(Purpose::Asked, wait).await;
            running.hub.wait_held(number + 1).await;
        }
        running.hub.release();
        assert_eq!(older.hear().await.unwrap().code, Code::CHANGED);
        let name = device("dev1");
        running.hub.wait_listening(&name, Interest::COMMANDS).await;
        tokio::select! {
            _ = running.hub.send_message(message("dev1", "go")) => panic!("nobody has it"),
            answer = newer.hear() => assert_eq!(answer.unwrap().payload, "go"),
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_is_posted_to_the_devices_own_server() {
    let test = async {
        let mut config = config();
        config.commands.post_to = Some("do".to_owned());
        let running = Running::start(config, &["dev1"]).await;
        let (mut client, name) = (running.stream_device("dev1").await, device("dev1"));
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
            let request = client.hear().await.unwrap();
            assert_eq!(request.path().unwrap(), ["do"]);
            assert_eq!(request.query().unwrap(), ["command=echo"]);
            let answer = Message::new(Code::CONTENT)
                .with_token(request.token)
                .with_payload(request.payload);
            assert!(client.tell(&answer).await);
        };
        let (reply, ()) = tokio::join!(running.hub.call_method(call), serve);
        assert_eq!(reply, Some(MethodReply::new(200, "\"x\"")));
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_connection_gets_what_is_open_and_ends() {
    let test = async {
        let running = Running::start(config(), &["dev1"]).await;
        let mut client = running.stream_device("dev1").await;
        running.hub.hold();
        let id = MessageId::new("last").unwrap();
        client
            .request(Purpose::Uplink(id.clone()), post("t", "1"))
            .await;
        running.hub.wait_held(1).await;
        client.tell(&Message::new(Code::RELEASE)).await;
        running.hub.release();
        assert_eq!(client.next().await, DeviceEvent::Accepted(id));
        assert_eq!(client.next().await, DeviceEvent::Closed);
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_hub_ends_ends_the_connection() {
    let test = async {
        let running = Running::start(config(), &["dev1"]).await;
        let mut client = running.stream_device("dev1").await;
        client.register().await;
        let name = device("dev1");
        running.hub.wait_listening(&name, Interest::ALL).await;
        let reason = ErrorKind::Unauthorized;
        running.hub.end_session(&name, reason).await;
        let mut farewells = 0;
        loop {
            match client.hear().await {
                Some(message) if message.code == Code::FORBIDDEN => farewells += 1,
                Some(message) if message.code == Code::RELEASE => break,
                Some(_) => {}
                None => panic!("closed without a word"),
            }
        }
        assert_eq!(farewells, 2);
        assert!(client.hear().await.is_none());
        assert_eq!(running.coap.listening(), 0);
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_a_child_that_moves_away_from_it() {
    let test = async {
        let mut config = config();
        for gateway in ["old", "new"] {
            let children = [device("one"), device("two")].into_iter().collect();
            config.identity.children.insert(device(gateway), children);
        }
        let running = Running::start(config, &["old", "new"]).await;
        let observe = |child: &str| {
            Message::new(Code::GET)
                .with_path(&format!("d/{child}/c"))
                .with_uint(option::OBSERVE, 0)
        };
        let mut old = running.stream_device("old").await;
        for child in ["one", "two"] {
            assert_eq!(old.say(observe(child)).await.code, Code::CONTENT);
        }
        let mut new = running.stream_device("new").await;
        assert_eq!(new.say(observe("one")).await.code, Code::CONTENT);
        assert_eq!(old.say(post("d/two/t", "1")).await.code, Code::CHANGED);
        let listening = Interest::COMMANDS;
        running.hub.wait_listening(&device("two"), listening).await;
        assert_eq!(running.coap.listening(), 2);
        drop(old);
        running.hub.wait_deaf(&device("two")).await;
        assert_eq!(running.coap.listening(), 1);
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_asked_whether_it_is_there_and_stays_if_it_is() {
    let test = async {
        let mut config = config();
        config.connections.idle = SHORT;
        config.connections.pong = LONG;
        let running = Running::start(config, &["dev1"]).await;
        let mut client = running.stream_device("dev1").await;
        assert_eq!(client.hear().await.unwrap().code, Code::CSM);
        let mut tokens = Vec::<Token>::new();
        for _ in 0..3 {
            let ping = client.hear().await.unwrap();
            assert_eq!(ping.code, Code::PING);
            tokens.push(ping.token);
            let pong = Message::new(Code::PONG).with_token(ping.token);
            assert!(client.tell(&pong).await);
        }
        assert_eq!(client.say(post("t", "1")).await.code, Code::CHANGED);
        running.end().await;
    };
    in_time(test).await;
}

fn secure(pki: &Pki) -> CoapConfig {
    let mut config = config();
    config.tls = Some(pki.config());
    config
}

/// Connects as one that speaks this protocol.
fn connector(pki: &Pki, protocol: Option<&[u8]>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(pki.path("ca.pem")).unwrap();
    roots.add(root).unwrap();
    let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
    TlsConnector::from(Arc::new(client))
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_devices_post_whether_they_name_the_protocol_or_not() {
    let test = async {
        let pki = Pki::new();
        let running = Running::start(secure(&pki), &["dev1"]).await;
        let address = running.coap.tls_addr().unwrap();
        let name = || ServerName::try_from("localhost").unwrap();
        for protocol in [Some(&b"coap"[..]), None] {
            let stream = TcpStream::connect(address).await.unwrap();
            let stream = connector(&pki, protocol).connect(name(), stream).await;
            let mut client = StreamDevice::new(stream.unwrap(), &device("dev1")).await;
            let body = vec![b'x'; 20_000];
            assert_eq!(client.say(post("t", body)).await.code, Code::CHANGED);
        }
        let stream = TcpStream::connect(address).await.unwrap();
        let other = connector(&pki, Some(b"http/1.1")).connect(name(), stream);
        assert!(other.await.is_err());
        assert_eq!(running.hub.accepted().len(), 2);
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_the_handshake_is_closed_out() {
    let test = async {
        let pki = Pki::new();
        let mut config = secure(&pki);
        config.connections.hello = SHORT;
        let running = Running::start(config, &["dev1"]).await;
        let address = running.coap.tls_addr().unwrap();
        let mut silent = TcpStream::connect(address).await.unwrap();
        closed(&mut silent).await;
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let pki = Pki::new();
    let mut config = secure(&pki);
    config.udp.get_or_insert_default().listen.set_port(0);
    let refused = |config: CoapConfig| async { CoapDownstream::bind(config).await.unwrap_err() };
    let mut absent = config.clone();
    absent.tls.as_mut().unwrap().key = pki.path("absent.pem");
    let error = refused(absent).await;
    assert!(matches!(&error, BindError::File { path, .. } if path.ends_with("absent.pem")));
    config.tls.as_mut().unwrap().certificate = pki.path("key.pem");
    let error = refused(config).await;
    assert!(error.to_string().ends_with("as the gateway's certificates"));
}
