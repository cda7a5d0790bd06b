//! Devices that observe, over plain UDP and a hub in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use gateway_core::testkit::DeviceEvent;
use gateway_core::{CloudMessage, Disposition, ErrorKind, Interest};
use gateway_downstream_coap::CoapConfig;
use gateway_downstream_coap::proto::message::Code;
use support::{Running, TOKEN, device};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(120);

fn message(name: &str, patience: Duration) -> CloudMessage {
    CloudMessage::new(device(name), "go", Instant::now() + patience)
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_heard_and_reached_whichever_socket_they_come_to() {
    let mut config = CoapConfig::default();
    config.sockets = 3;
    let names: Vec<_> = (0..12).map(|n| format!("dev{n}")).collect();
    let known: Vec<_> = names.iter().map(String::as_str).collect();
    let running = Running::start(config, &known).await;
    let mut clients = Vec::new();
    for name in &known {
        let mut client = running.device(name).await;
        client.register().await;
        let everything = Interest::ALL;
        running.hub.wait_listening(&device(name), everything).await;
        clients.push(client);
    }
    assert_eq!(running.coap.listening(), 12);
    for (name, client) in known.iter().zip(&mut clients) {
        let take = async {
            let DeviceEvent::Message { tag, body } = client.next().await else {
                panic!("no message");
            };
            assert_eq!(body, "go");
            client.acknowledge(tag.parse().unwrap()).await;
        };
        let sending = running.hub.send_message(message(name, LONG));
        let (settled, ()) = tokio::join!(sending, take);
        assert_eq!(settled, Some(Disposition::Complete));
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_registration_of_a_device_gets_its_messages() {
    let mut config = CoapConfig::default();
    config.sockets = 3;
    let running = Running::start(config, &["dev1"]).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = running.device("dev1").await;
        client.register().await;
        clients.push(client);
    }
    let newest = clients.last_mut().unwrap();
    let take = async {
        let DeviceEvent::Message { tag, .. } = newest.next().await else {
            panic!("no message");
        };
        newest.acknowledge(tag.parse().unwrap()).await;
    };
    let sending = running.hub.send_message(message("dev1", LONG));
    let (settled, ()) = tokio::join!(sending, take);
    assert_eq!(settled, Some(Disposition::Complete));
    assert_eq!(running.coap.listening(), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_acknowledges_is_abandoned_in_time() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    client.register().await;
    let sending = running
        .hub
        .send_message(message("dev1", Duration::from_secs(1)));
    assert_eq!(sending.await, Some(Disposition::Abandon));
    // What comes behind it is not held up.
    let take = async {
        loop {
            if let DeviceEvent::Message { tag, body } = client.next().await
                && body == "next"
            {
                return client.acknowledge(tag.parse().unwrap()).await;
            }
        }
    };
    let next = CloudMessage::new(device("dev1"), "next", Instant::now() + LONG);
    let (settled, ()) = tokio::join!(running.hub.send_message(next), take);
    assert_eq!(settled, Some(Disposition::Complete));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_takes_its_registration_back_is_offline() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    client.register().await;
    client.deregister().await;
    running.hub.wait_deaf(&device("dev1")).await;
    assert_eq!(running.coap.listening(), 0);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_hub_ends_ends_the_observations() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    client.register().await;
    let name = device("dev1");
    let ended = running.hub.end_session(&name, ErrorKind::Unauthorized);
    let ((), code) = tokio::join!(ended, client.farewell());
    assert_eq!(code, Code::FORBIDDEN);
    assert_eq!(running.coap.listening(), 0);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libcoap_observes() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let (address, token) = (running.coap.local_addr(), TOKEN.replace(' ', "%20"));
    let url = format!("coap://{address}/c?$.id=dev1&$.token={token}");
    let client = Command::new("coap-client-notls")
        .args(["-s", "5", "-B", "30", "-m", "get", &url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(client) = client else {
        println!("coap-client-notls is not installed");
        running.end().await;
        return;
    };
    let output = tokio::task::spawn_blocking(|| client.wait_with_output());
    let sending = async {
        let name = device("dev1");
        running.hub.wait_listening(&name, Interest::COMMANDS).await;
        running.hub.send_message(message("dev1", LONG)).await
    };
    let (output, settled) = tokio::join!(output, sending);
    let output = output.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(settled, Some(Disposition::Complete), "{text}");
    assert!(text.contains("go"), "{text}");
    running.end().await;
}
