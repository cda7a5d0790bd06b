//! Devices that observe, over plain UDP and a hub in memory.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::testkit::DeviceEvent;
use gateway_core::{CloudMessage, Disposition, ErrorKind, Interest};
use gateway_downstream_coap::CoapConfig;
use gateway_downstream_coap::proto::message::{Code, Kind, Message, option};
use support::{Device, Purpose, Running, device, in_time, until};
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(120);

fn message(name: &str, patience: Duration) -> CloudMessage {
    CloudMessage::new(device(name), "go", Instant::now() + patience)
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_heard_and_reached_whichever_socket_they_come_to() {
    let mut config = CoapConfig::default();
    config.udp.get_or_insert_default().sockets = 3;
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
    config.udp.get_or_insert_default().sockets = 3;
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
async fn a_device_that_asks_anew_in_other_words_observes_once() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    for part in ["x=1", "x=2", "x=3"] {
        let get = Message::new(Code::GET).with_path("c");
        let get = get.with_option(option::URI_QUERY, part.as_bytes().to_vec());
        let answer = client.say(get.with_uint(option::OBSERVE, 0)).await;
        assert!(answer.options.has(option::OBSERVE));
        assert_eq!(running.coap.stats().observations, 1);
    }
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
    let ((), codes) = in_time(async { tokio::join!(ended, client.farewells()) }).await;
    assert_eq!(codes, [Code::FORBIDDEN; 2]);
    assert_eq!(running.coap.listening(), 0);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_vanished_is_offline_though_commands_keep_coming() {
    let test = async {
        let mut config = CoapConfig::default();
        let transmission = &mut config.endpoint.transmission;
        transmission.ack_timeout = Duration::from_millis(200);
        transmission.max_retransmit = 2;
        // Before a message is given up, as by default.
        config.timeouts.command = Duration::from_millis(500);
        let running = Running::start(config, &["dev1"]).await;
        let mut client = running.device("dev1").await;
        client.register().await;
        let name = device("dev1");
        running.hub.wait_listening(&name, Interest::ALL).await;
        // From here on it acknowledges nothing.
        let send = || running.hub.send_message(message("dev1", LONG));
        while let Some(settled) = send().await {
            assert_eq!(settled, Disposition::Abandon);
        }
        running.hub.wait_deaf(&name).await;
        assert_eq!(running.coap.stats().observations, 0);
        running.end().await;
    };
    in_time(test).await;
}

/// Asks for the desired properties, to be told of changes.
async fn observe_desired(client: &mut Device) -> Code {
    let get = Message::new(Code::GET).with_path("twin/desired");
    client.say(get.with_uint(option::OBSERVE, 0)).await.code
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_cannot_take_now_leaves_what_it_has_taken() {
    let test = async {
        let running = Running::start_impatient(CoapConfig::default(), &["dev1"]).await;
        let (mut client, name) = (running.device("dev1").await, device("dev1"));
        client.observe_commands().await;
        let heard = running.hub.wait_listening(&name, Interest::COMMANDS);
        tokio::join!(heard, client.idle());
        running.hub.refuse(&name, ErrorKind::Throttled);
        assert_eq!(observe_desired(&mut client).await, Code::UNAVAILABLE);
        running.hub.refuse(&name, None);
        let take = async {
            let DeviceEvent::Message { tag, .. } = client.next().await else {
                panic!("no message");
            };
            client.acknowledge(tag.parse().unwrap()).await;
        };
        let (settled, ()) = tokio::join!(running.hub.send_message(message("dev1", LONG)), take);
        assert_eq!(settled, Some(Disposition::Complete));
        assert_eq!(observe_desired(&mut client).await, Code::CONTENT);
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_cannot_be_told_now_it_is_told_later() {
    let test = async {
        let running = Running::start_impatient(CoapConfig::default(), &["dev1"]).await;
        let (mut client, name) = (running.device("dev1").await, device("dev1"));
        client.register().await;
        running.hub.wait_listening(&name, Interest::ALL).await;
        let asked = running.hub.attach_requests(&name);
        running.hub.refuse(&name, ErrorKind::Throttled);
        client.deregister_commands().await;
        until(|| running.hub.attach_requests(&name) > asked).await;
        running.hub.refuse(&name, None);
        let interest = || running.hub.identity(&name).unwrap().interest;
        until(|| interest() == Interest::NONE.with_desired(true)).await;
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_the_hub_takes_no_more_hears_that_it_observes_nothing() {
    let test = async {
        let running = Running::start_impatient(CoapConfig::default(), &["dev1"]).await;
        let (mut client, name) = (running.device("dev1").await, device("dev1"));
        client.observe_commands().await;
        let heard = running.hub.wait_listening(&name, Interest::COMMANDS);
        tokio::join!(heard, client.idle());
        running.hub.refuse(&name, ErrorKind::Unauthorized);
        assert_eq!(observe_desired(&mut client).await, Code::FORBIDDEN);
        let farewell = client.requested().await.message;
        assert_eq!(farewell.code, Code::FORBIDDEN);
        assert_eq!(running.coap.stats().observations, 0);
        running.end().await;
    };
    in_time(test).await;
}

/// Waits for a command in an answer.
async fn wait(client: &mut Device) -> Message {
    let request = Message::new(Code::GET).with_path("c");
    let request = request.with_option(option::URI_QUERY, &b"$.ttd=100"[..]);
    client.say(request).await
}

/// Asks for a block of the command that was begun.
async fn fetch(client: &mut Device, number: u32) -> Message {
    let request = Message::new(Code::GET).with_path("c");
    let request = request.with_option(option::URI_QUERY, &b"$.ttd=100"[..]);
    client
        .say(request.with_uint(option::BLOCK2, number << 4 | 6))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_command_that_is_gone_is_not_that_of_another() {
    let test = async {
        let running = Running::start(CoapConfig::default(), &["dev1"]).await;
        let mut client = running.device("dev1").await;
        assert_eq!(fetch(&mut client, 1).await.code, Code::BAD_REQUEST);
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_waits_again_and_again_gets_every_command_once() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    let bodies: Vec<_> = (0..5).map(|number| format!("go {number}")).collect();
    let take = async {
        let mut taken = Vec::new();
        for _ in &bodies {
            let answer = wait(&mut client).await;
            taken.push(String::from_utf8(answer.payload.to_vec()).unwrap());
        }
        taken.sort();
        taken
    };
    let name = device("dev1");
    let send = async {
        running.hub.wait_listening(&name, Interest::COMMANDS).await;
        let send = |body: &String| {
            let message = CloudMessage::new(name.clone(), body.clone(), Instant::now() + LONG);
            running.hub.send_message(message)
        };
        join_all(bodies.iter().map(send)).await
    };
    let (taken, settled) = tokio::join!(take, send);
    assert_eq!(taken, bodies);
    assert_eq!(settled, [Some(Disposition::Complete); 5]);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_in_an_answer_that_comes_apart_is_done_when_the_device_acknowledges_it() {
    let test = async {
        let mut config = CoapConfig::default();
        // Every answer to a wait comes apart.
        config.endpoint.transmission.ack_delay = Duration::ZERO;
        let running = Running::start(config, &["dev1"]).await;
        for (acknowledges, expected) in
            [(false, Disposition::Abandon), (true, Disposition::Complete)]
        {
            let (mut client, name) = (running.device("dev1").await, device("dev1"));
            let get = Message::new(Code::GET).with_path("c");
            let get = get.with_option(option::URI_QUERY, &b"$.ttd=100"[..]);
            client.request(Purpose::Asked, get).await;
            assert_eq!(client.requested().await.message.code, Code::EMPTY);
            running.hub.wait_listening(&name, Interest::COMMANDS).await;
            let take = async {
                let answer = client.requested().await;
                assert_eq!(answer.kind, Kind::Confirmable);
                assert_eq!(answer.message.payload, "go");
                if acknowledges {
                    client.acknowledge(answer.id).await;
                }
            };
            let patience = if acknowledges {
                LONG
            } else {
                Duration::from_secs(1)
            };
            let sending = running.hub.send_message(message("dev1", patience));
            let (settled, ()) = tokio::join!(sending, take);
            assert_eq!(settled, Some(expected));
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_not_done_by_an_answer_that_the_device_does_not_want() {
    let test = async {
        let running = Running::start(CoapConfig::default(), &["dev1"]).await;
        let (mut client, name) = (running.device("dev1").await, device("dev1"));
        let get = Message::new(Code::GET).with_path("c");
        let get = get.with_option(option::URI_QUERY, &b"$.ttd=100"[..]);
        let get = get.with_uint(option::NO_RESPONSE, 2);
        client.request(Purpose::Asked, get).await;
        running.hub.wait_listening(&name, Interest::COMMANDS).await;
        let patience = Duration::from_secs(1);
        let settled = running.hub.send_message(message("dev1", patience)).await;
        assert_eq!(settled, Some(Disposition::Abandon));
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_properties_have_no_room_is_rejected_and_not_cut() {
    let test = async {
        let running = Running::start(CoapConfig::default(), &["dev1"]).await;
        let (mut client, name) = (running.device("dev1").await, device("dev1"));
        client.register().await;
        running.hub.wait_listening(&name, Interest::ALL).await;
        for (count, length) in [(1, 255), (5, 220)] {
            let mut message = message("dev1", LONG);
            for number in 0..count {
                let value = "x".repeat(length);
                message.properties.insert(format!("p{number}"), value);
            }
            let settled = running.hub.send_message(message).await;
            assert_eq!(settled, Some(Disposition::Reject));
        }
        running.end().await;
    };
    in_time(test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_command_is_done_when_its_last_block_was_asked_for() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    let name = device("dev1");
    let message = CloudMessage::new(name.clone(), "x".repeat(2500), Instant::now() + LONG);
    let hub = running.hub.clone();
    let sending = async {
        hub.wait_listening(&name, Interest::COMMANDS).await;
        hub.send_message(message).await
    };
    let mut sending = std::pin::pin!(sending);
    let take = async {
        assert_eq!(wait(&mut client).await.payload.len(), 1024);
        assert_eq!(fetch(&mut client, 1).await.payload.len(), 1024);
    };
    tokio::select! {
        () = take => {}
        settled = &mut sending => panic!("{settled:?} before the last block"),
    }
    let (last, settled) = tokio::join!(fetch(&mut client, 2), sending);
    assert_eq!(last.payload.len(), 452);
    assert_eq!(settled, Some(Disposition::Complete));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_notification_that_is_not_fetched_whole_goes_back_to_the_hub() {
    let running = Running::start(CoapConfig::default(), &["dev1"]).await;
    let mut client = running.device("dev1").await;
    client.register().await;
    let patience = Duration::from_secs(1);
    let large = CloudMessage::new(device("dev1"), "x".repeat(2500), Instant::now() + patience);
    let begin = async {
        let DeviceEvent::Message { tag, body } = client.next().await else {
            panic!("no message");
        };
        assert_eq!(body.len(), 1024);
        client.acknowledge(tag.parse().unwrap()).await;
    };
    let (settled, ()) = tokio::join!(running.hub.send_message(large), begin);
    assert_eq!(settled, Some(Disposition::Abandon));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_follow_a_device_from_port_to_port_whichever_socket_hears_it() {
    let mut config = CoapConfig::default();
    config.udp.get_or_insert_default().sockets = 4;
    let running = Running::start(config, &["dev1"]).await;
    let mut client = running.device("dev1").await;
    client.register().await;
    for _ in 0..10 {
        let move_on = async {
            // It is on its way to the port that the device leaves.
            let DeviceEvent::Message { .. } = client.next().await else {
                panic!("no message");
            };
            let mut moved = running.device("dev1").await;
            moved.register().await;
            let DeviceEvent::Message { tag, .. } = moved.next().await else {
                panic!("no message");
            };
            moved.acknowledge(tag.parse().unwrap()).await;
            moved
        };
        let sending = running.hub.send_message(message("dev1", LONG));
        let (settled, moved) = tokio::join!(sending, move_on);
        assert_eq!(settled, Some(Disposition::Complete));
        client = moved;
    }
    assert_eq!(running.coap.listening(), 1);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_heard_elsewhere_is_reached_where_it_observes() {
    let mut config = CoapConfig::default();
    config.udp.get_or_insert_default().sockets = 4;
    config.commands.post_to = Some("do".to_owned());
    let running = Running::start(config, &["dev1"]).await;
    let mut client = running.device("dev1").await;
    client.register().await;
    for _ in 0..10 {
        let post = Message::new(Code::POST).with_path("t").with_payload("1");
        let answer = running.device("dev1").await.say(post).await;
        assert_eq!(answer.code, Code::CHANGED);
    }
    let take = async {
        let DeviceEvent::Message { tag, .. } = client.next().await else {
            panic!("no message");
        };
        client.acknowledge(tag.parse().unwrap()).await;
    };
    let (settled, ()) = tokio::join!(running.hub.send_message(message("dev1", LONG)), take);
    assert_eq!(settled, Some(Disposition::Complete));
    running.end().await;
}
