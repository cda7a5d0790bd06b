//! Devices with DTLS sessions.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use gateway_core::{CloudMessage, Disposition, Interest};
use gateway_downstream_coap::dtls::{PskEntry, PskFn, PskKey, PskStore, StaticPskStore};
use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, option};
use gateway_downstream_coap::{CoapConfig, CoapDownstream, SecureConfig};
use support::session::Session;
use support::{Running, device, in_time, until};
use tokio::task::JoinSet;
use tokio::time::{Instant, pause, timeout_at};

/// A gateway that knows the key `secret` of `sensor@factory`, which is `dev1`.
async fn start() -> Running {
    start_with(CoapConfig::default(), store()).await
}

fn entry() -> PskEntry {
    PskEntry::new(device("dev1"), PskKey::new("secret").unwrap())
}

fn store() -> StaticPskStore {
    StaticPskStore::new().with("sensor@factory", entry())
}

async fn start_with(mut config: CoapConfig, store: impl PskStore) -> Running {
    let mut dtls = SecureConfig::default();
    dtls.listen = "127.0.0.1:0".parse().unwrap();
    config.dtls = Some(dtls);
    config.udp.get_or_insert_default().listen.set_port(0);
    let builder = CoapDownstream::builder(config).with_psk_store(store);
    Running::start_with(builder).await
}

fn post(body: &'static str) -> Message {
    Message::new(Code::POST).with_path("t").with_payload(body)
}

fn confirmable(id: u16, message: Message) -> Bytes {
    let kind = Kind::Confirmable;
    Datagram { kind, id, message }.encode()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_says_before_it_takes_leave_is_heard() {
    let running = start().await;
    let address = running.coap.dtls_addr().unwrap();
    for count in 1..=5 {
        let mut session = Session::open(address, "sensor@factory", "secret").await;
        let message = confirmable(count, post("last words"));
        let mut datagrams = session.seal(&message);
        datagrams.extend(session.close());
        // All that can be in a datagram can be in one batch.
        session.send(&[datagrams.concat()]).await;
        let accepted = in_time(running.hub.wait_accepted(count.into())).await;
        assert_eq!(accepted.last().unwrap().device, device("dev1"));
    }
    running.end().await;
}

#[tokio::test]
async fn a_device_that_only_listens_keeps_its_session_by_saying_that_it_is_there() {
    let running = start().await;
    let address = running.coap.dtls_addr().unwrap();
    let mut session = Session::open(address, "sensor@factory", "secret").await;
    let observe = Message::new(Code::GET).with_path("c");
    let observe = confirmable(1, observe.with_uint(option::OBSERVE, 0));
    let answer = Datagram::decode(&session.ask(&observe).await).unwrap();
    assert!(answer.message.options.has(option::OBSERVE));
    pause();
    let end = Instant::now() + Duration::from_secs(61 * 60);
    let mut asked = 0;
    while let Ok(message) = timeout_at(end, session.next()).await {
        let Datagram { kind, id, message } = Datagram::decode(&message).unwrap();
        assert_eq!((kind, message.code), (Kind::Confirmable, Code::CONTENT));
        session
            .tell(&Datagram::empty(Kind::Acknowledgement, id).encode())
            .await;
        asked += 1;
    }
    assert!(asked >= 2, "it was asked {asked} times");
    assert_eq!(running.coap.listening(), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_panics_refuses_its_client_and_no_other() {
    let test = async {
        let store = PskFn::new(|identity: String| async move {
            assert_eq!(identity, "sensor@factory");
            Ok(Some(entry()))
        });
        let running = start_with(CoapConfig::default(), store).await;
        let address = running.coap.dtls_addr().unwrap();
        let mut session = Session::open(address, "sensor@factory", "secret").await;
        let mut refused = JoinSet::new();
        refused.spawn(Session::open(address, "x", "secret"));
        let outcome = refused.join_next().await.unwrap();
        assert!(outcome.is_err(), "the alert ends the client");
        for (id, count) in [(1, 1), (2, 2)] {
            let answer = session.ask(&confirmable(id, post("1"))).await;
            let answer = Datagram::decode(&answer).unwrap().message;
            assert_eq!(answer.code, Code::CHANGED);
            assert_eq!(running.hub.accepted().len(), count);
            session = Session::open(address, "sensor@factory", "secret").await;
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_posted_in_a_session_that_is_over_goes_back_to_the_hub_at_once() {
    let mut config = CoapConfig::default();
    config.commands.post_to = Some("do".to_owned());
    // Longer than a test waits.
    let hour = Duration::from_secs(3600);
    config.timeouts.command = hour;
    config.endpoint.transmission.ack_timeout = Duration::from_secs(600);
    config.endpoint.transmission.max_retransmit = 0;
    config.endpoint.transmission.response_timeout = hour;
    let running = start_with(config, store()).await;
    let test = async {
        let (address, name) = (running.coap.dtls_addr().unwrap(), device("dev1"));
        let mut session = Session::open(address, "sensor@factory", "secret").await;
        session.ask(&confirmable(1, post("1"))).await;
        running.hub.wait_listening(&name, Interest::COMMANDS).await;
        let send = || {
            let message = CloudMessage::new(name.clone(), "go", Instant::now() + hour);
            running.hub.send_message(message)
        };
        let leave = async {
            let request = Datagram::decode(&session.next().await).unwrap().message;
            assert_eq!(request.path().unwrap(), ["do"]);
            let farewell = session.close();
            session.send(&farewell).await;
        };
        let (first, second, ()) = tokio::join!(send(), send(), leave);
        assert_eq!([first, second], [Some(Disposition::Abandon); 2]);
        until(|| running.coap.listening() == 0).await;
    };
    in_time(test).await;
    running.end().await;
}

/// A request of dev1 that waits for a command, longer than a test does.
fn waiting(id: u16, request: Message) -> Bytes {
    let request = request.with_option(option::URI_QUERY, "$.ttd=240");
    confirmable(id, request.with_token(u32::from(id).into()))
}

/// Waits for the answer to the request of this id, and acknowledges what comes. What is the answer to
/// none of these requests is no answer.
async fn answer(session: &mut Session, first: Vec<u8>, expected: u16) -> Message {
    let mut next = first;
    loop {
        let Datagram { kind, id, message } = Datagram::decode(&next).unwrap();
        if kind == Kind::Confirmable {
            let acknowledgement = Datagram::empty(Kind::Acknowledgement, id);
            session.tell(&acknowledgement.encode()).await;
        }
        if message.code != Code::EMPTY {
            assert_eq!(message.token, u32::from(expected).into(), "{message:?}");
            return message;
        }
        next = session.next().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_its_session() {
    let test = async {
        let running = start().await;
        let address = running.coap.dtls_addr().unwrap();
        let mut session = Session::open(address, "sensor@factory", "secret").await;
        let get = Message::new(Code::GET).with_path("c");
        session.ask(&waiting(1, get)).await;
        let interest = Interest::COMMANDS;
        running.hub.wait_listening(&device("dev1"), interest).await;
        let farewell = session.close();
        session.send(&farewell).await;
        running.hub.wait_deaf(&device("dev1")).await;
        assert_eq!(running.coap.listening(), 0);
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_takes_late_does_not_end_the_wait_that_came_behind_it() {
    let test = async {
        let running = start().await;
        let (address, name) = (running.coap.dtls_addr().unwrap(), device("dev1"));
        let mut before = Session::open(address, "sensor@factory", "secret").await;
        running.hub.hold();
        before.ask(&waiting(1, post("1"))).await;
        running.hub.wait_held(1).await;
        let farewell = before.close();
        before.send(&farewell).await;
        let mut session = Session::open(address, "sensor@factory", "secret").await;
        let get = Message::new(Code::GET).with_path("c");
        session.ask(&waiting(2, get)).await;
        running.hub.release();
        // Behind it, so that it was taken when this is answered.
        let post = confirmable(3, post("2").with_token(3.into()));
        let first = session.ask(&post).await;
        let message = answer(&mut session, first, 3).await;
        assert_eq!(message.code, Code::CHANGED);
        running.hub.wait_listening(&name, Interest::COMMANDS).await;
        let command = CloudMessage::new(name, "go", Instant::now() + Duration::from_secs(120));
        let take = async {
            let first = session.next().await;
            answer(&mut session, first, 2).await
        };
        let (settled, message) = tokio::join!(running.hub.send_message(command), take);
        assert_eq!(message.payload, "go");
        assert_eq!(settled, Some(Disposition::Complete));
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_waits_the_one_asked_for_last_stays_though_the_hub_takes_the_other_later() {
    let test = async {
        let running = start().await;
        let (address, name) = (running.coap.dtls_addr().unwrap(), device("dev1"));
        let mut session = Session::open(address, "sensor@factory", "secret").await;
        running.hub.hold();
        session.ask(&waiting(1, post("1"))).await;
        running.hub.wait_held(1).await;
        let get = Message::new(Code::GET).with_path("c");
        session.ask(&waiting(2, get)).await;
        running.hub.release();
        let first = session.next().await;
        let message = answer(&mut session, first, 1).await;
        assert_eq!(message.code, Code::CHANGED);
        running.hub.wait_listening(&name, Interest::COMMANDS).await;
        let command = CloudMessage::new(name, "go", Instant::now() + Duration::from_secs(120));
        let take = async {
            let first = session.next().await;
            answer(&mut session, first, 2).await
        };
        let (settled, message) = tokio::join!(running.hub.send_message(command), take);
        assert_eq!(message.payload, "go");
        assert_eq!(settled, Some(Disposition::Complete));
        running.end().await;
    };
    in_time(test).await;
}
