//! What a script can make go wrong, and that it goes wrong for nobody else.

mod support;

use std::time::Duration;

use fe2o3_amqp::link::Sender;
use hub_simulator::{C2d, Fault, HubSimulator, LinkKind, Plan};
use support::{Client, DataBody, accepted, bytes_of, message, plain_hub, rejection, soon, token};
use tokio::time::Instant;

const BRIEF: Duration = Duration::from_millis(150);

async fn two_senders(hub: &HubSimulator) -> (Client, Sender, Sender) {
    hub.add_devices(["a", "b"]);
    let mut client = Client::connect(hub).await;
    client
        .authorize(&hub.policy_connection_string("device"), "localhost")
        .await;
    let a = client.telemetry("a").await;
    let b = client.telemetry("b").await;
    (client, a, b)
}

#[tokio::test]
async fn held_settlements_come_when_they_are_released() {
    let hub = plain_hub().await;
    let (_client, mut a, mut b) = two_senders(&hub).await;
    let held = hub.faults().hold_settlements();
    let mut of_a = a.send_batchable(message("1", "x")).await.unwrap();
    let of_b = b.send_batchable(message("2", "x")).await.unwrap();
    assert!(tokio::time::timeout(BRIEF, &mut of_a).await.is_err());
    assert_eq!(hub.record().count(), 2);
    held.release();
    accepted(soon(of_a).await.unwrap());
    accepted(soon(of_b).await.unwrap());
    accepted(soon(a.send(message("3", "x"))).await.unwrap());
}

#[tokio::test]
async fn settlements_are_held_until_the_last_guard_is_released() {
    let hub = plain_hub().await;
    let (_client, mut a, _b) = two_senders(&hub).await;
    let (first, last) = (
        hub.faults().hold_settlements(),
        hub.faults().hold_settlements(),
    );
    let mut held = a.send_batchable(message("1", "x")).await.unwrap();
    first.release();
    assert!(tokio::time::timeout(BRIEF, &mut held).await.is_err());
    last.release();
    accepted(soon(held).await.unwrap());
}

#[tokio::test]
async fn a_dropped_settlement_never_comes() {
    let hub = plain_hub().await;
    let (_client, mut a, mut b) = two_senders(&hub).await;
    hub.faults().drop_settlements(1);
    let lost = a.send_batchable(message("1", "x")).await.unwrap();
    accepted(soon(b.send(message("2", "x"))).await.unwrap());
    assert!(tokio::time::timeout(BRIEF, lost).await.is_err());
    assert_eq!(hub.record().count(), 2);
}

#[tokio::test]
async fn delays_and_latency_take_their_time() {
    let hub = plain_hub().await;
    let (_client, mut a, _b) = two_senders(&hub).await;
    hub.faults().delay_settlements(BRIEF);
    let start = Instant::now();
    accepted(soon(a.send(message("1", "x"))).await.unwrap());
    assert!(start.elapsed() >= BRIEF);
    hub.faults().delay_settlements(Duration::ZERO);
    hub.faults().latency(BRIEF);
    let start = Instant::now();
    let settlements = [
        a.send_batchable(message("2", "x")).await,
        a.send_batchable(message("3", "x")).await,
    ];
    for settlement in settlements {
        accepted(soon(settlement.unwrap()).await.unwrap());
    }
    assert!(
        (BRIEF..BRIEF * 2).contains(&start.elapsed()),
        "latency is no throughput limit"
    );
}

#[tokio::test]
async fn the_next_messages_of_a_device_are_rejected() {
    let hub = plain_hub().await;
    let (_client, mut a, mut b) = two_senders(&hub).await;
    hub.faults().reject_next(Some("a"), 1, "amqp:not-allowed");
    hub.faults().throttle(Some("a"), 1);
    accepted(soon(b.send(message("1", "x"))).await.unwrap());
    assert_eq!(
        rejection(soon(a.send(message("2", "x"))).await.unwrap()).0,
        "amqp:not-allowed"
    );
    let throttled = rejection(soon(a.send(message("3", "x"))).await.unwrap());
    assert_eq!(throttled.0, "com.microsoft:device-container-throttled");
    accepted(soon(a.send(message("4", "x"))).await.unwrap());
    assert_eq!(hub.record().count(), 2);
}

#[tokio::test]
async fn attaches_and_tokens_are_refused_by_device() {
    let hub = plain_hub().await;
    let (mut client, ..) = two_senders(&hub).await;
    hub.add_devices(["c", "d"]);
    hub.faults().refuse_attach("c", "amqp:internal-error");
    client.telemetry("d").await;
    let attach = Sender::attach(&mut client.session, "c", "/devices/c/messages/events");
    assert!(format!("{:?}", soon(attach).await.unwrap_err()).contains("InternalError"));

    hub.faults().refuse_token("d", 503, "Busy.");
    let refused = client
        .cbs
        .put("d", &token(&hub.device_connection_string("d")))
        .await;
    assert_eq!(refused, (503, "Busy.".to_owned()));
    client
        .authorize(&hub.device_connection_string("c"), "c")
        .await;
    hub.faults().allow_token("d");
    client
        .authorize(&hub.device_connection_string("d"), "d")
        .await;
}

#[tokio::test]
async fn a_withheld_token_has_no_answer_and_the_next_one_has() {
    let hub = plain_hub().await;
    let (mut client, ..) = two_senders(&hub).await;
    hub.add_device("c");
    let token = token(&hub.device_connection_string("c"));
    hub.faults().withhold_token("c");
    let put = client.cbs.put("c", &token);
    assert!(tokio::time::timeout(BRIEF, put).await.is_err());
    assert_eq!(hub.tokens_put("c"), 0);
    hub.faults().allow_token("c");
    let before = hub.connections()[0].tokens_put;
    assert_eq!(client.cbs.put("c", &token).await.0, 200);
    assert_eq!(hub.tokens_put("c"), 1);
    assert_eq!(hub.connections()[0].tokens_put, before + 1);
}

#[tokio::test]
async fn a_withheld_attach_has_no_answer() {
    let hub = plain_hub().await;
    let (mut client, mut a, _b) = two_senders(&hub).await;
    hub.add_device("c");
    hub.faults().withhold_attach("c");
    {
        let attach = Sender::attach(&mut client.session, "c", "/devices/c/messages/events");
        assert!(tokio::time::timeout(BRIEF, attach).await.is_err());
    }
    accepted(soon(a.send(message("1", "x"))).await.unwrap());
}

#[tokio::test]
async fn a_cut_is_noticed_at_once_and_spares_other_connections() {
    let hub = plain_hub().await;
    let mut cut = Client::device(&hub, "a").await;
    let mut stays = Client::device(&hub, "b").await;
    let mut sender = stays.telemetry("b").await;
    let first = hub.connections()[0].id;
    hub.faults().cut(first);
    soon(cut.connection.on_close()).await.unwrap_err();
    accepted(soon(sender.send(message("1", "x"))).await.unwrap());
    soon(hub.wait_until(|stats| stats.connections.len() == 1)).await;
    assert_eq!(hub.connections_opened_total(), 2);
    hub.faults().cut_all();
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
    assert_eq!(hub.attached_devices(), 0);
}

#[tokio::test]
async fn a_polite_close_names_its_condition() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "a").await;
    hub.faults().close_all("amqp:connection:forced");
    let error = format!(
        "{:?}",
        soon(client.connection.on_close()).await.unwrap_err()
    );
    assert!(error.contains("ConnectionForced"), "{error}");
}

#[tokio::test]
async fn a_frozen_connection_goes_on_when_it_thaws() {
    let hub = plain_hub().await;
    let (_client, mut a, _b) = two_senders(&hub).await;
    hub.faults().freeze_all();
    let mut settlement = a.send_batchable(message("1", "x")).await.unwrap();
    assert!(tokio::time::timeout(BRIEF, &mut settlement).await.is_err());
    assert_eq!(hub.record().count(), 0);
    hub.faults().thaw();
    accepted(soon(settlement).await.unwrap());
}

#[tokio::test]
async fn an_ended_session_and_a_detached_link_leave_the_rest() {
    let hub = plain_hub().await;
    let (mut client, mut a, mut b) = two_senders(&hub).await;
    hub.faults()
        .detach("a", LinkKind::Telemetry, "amqp:link:detach-forced");
    let error = format!("{:?}", soon(a.on_detach()).await);
    assert!(error.contains("DetachForced"), "{error}");
    accepted(soon(b.send(message("1", "x"))).await.unwrap());

    hub.faults().end_sessions(Some("b"), "amqp:internal-error");
    soon(client.session.on_end()).await.unwrap_err();
    let mut again = fe2o3_amqp::Session::begin(&mut client.connection)
        .await
        .unwrap();
    let mut b = Sender::attach(&mut again, "b", "/devices/b/messages/events")
        .await
        .unwrap();
    accepted(soon(b.send(message("2", "x"))).await.unwrap());
}

#[tokio::test]
async fn a_stolen_link_says_who_took_it() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "a").await;
    let mut receiver = client.receiver("/devices/a/messages/devicebound").await;
    soon(hub.wait_listening("a")).await;
    hub.faults().steal("a");
    let error = format!("{:?}", soon(receiver.recv::<DataBody>()).await.unwrap_err());
    assert!(
        error.contains("Another AMQP Client has opened a Receive Link"),
        "{error}"
    );
    let ticket = hub.send_c2d("a", C2d::new("waits")).unwrap();
    let mut receiver = client.receiver("/devices/a/messages/devicebound").await;
    soon(receiver.recv::<DataBody>()).await.unwrap();
    assert_eq!(ticket.delivery_count(), 1);
}

#[tokio::test]
async fn the_next_messages_to_a_device_are_lost_or_garbled() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "a").await;
    hub.faults().lose_next("a", LinkKind::Twin, 1);
    hub.faults().lose_next("a", LinkKind::C2d, 1);
    let mut receiver = client.receiver("/devices/a/messages/devicebound").await;
    for text in ["lost", "whole"] {
        hub.send_c2d("a", C2d::new(text)).unwrap();
    }
    let whole = soon(receiver.recv::<DataBody>()).await.unwrap();
    assert_eq!(bytes_of(whole.body()), b"whole");
    let garbling = Fault::Garble {
        device: "a".to_owned(),
        kind: LinkKind::All,
        count: 1,
    };
    assert!(hub.faults().apply(&garbling));
    hub.send_c2d("a", C2d::new("garbled")).unwrap();
    let garbled = soon(receiver.recv::<DataBody>()).await;
    garbled.expect_err("nobody can read it");
}

#[tokio::test]
async fn an_expired_token_takes_the_links_of_its_device_only() {
    let hub = plain_hub().await;
    let mut client = Client::connect(&hub).await;
    for id in ["a", "b"] {
        client
            .authorize(&hub.device_connection_string(id), id)
            .await;
    }
    let mut a = client.telemetry("a").await;
    let mut b = client.telemetry("b").await;
    hub.faults().expire_tokens(Some("a"));
    let error = format!("{:?}", soon(a.on_detach()).await);
    assert!(
        error.contains("UnauthorizedAccess") && error.contains("Token Invalid."),
        "{error}"
    );
    accepted(soon(b.send(message("1", "x"))).await.unwrap());
    client
        .authorize(&hub.device_connection_string("a"), "a")
        .await;
    let mut a = client.telemetry("a").await;
    accepted(soon(a.send(message("2", "x"))).await.unwrap());
    hub.faults().expire_tokens(None);
    soon(a.on_detach()).await;
    soon(b.on_detach()).await;
}

#[tokio::test]
async fn a_hub_that_has_moved_away_sends_everybody_off_until_it_is_back() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "a").await;
    hub.faults().fail_over();
    let closed = soon(client.connection.on_close()).await.unwrap_err();
    let error = format!("{closed:?}");
    assert!(error.contains("iot-hub-not-found-error"), "{error}");
    let mut client = Client::connect(&hub).await;
    let token = token(&hub.device_connection_string("a"));
    let (status, text) = client.cbs.put("a", &token).await;
    assert_eq!(status, 404);
    assert!(text.contains("not found"), "{text}");
    hub.faults().fail_back();
    assert_eq!(client.cbs.put("a", &token).await.0, 200);
}

#[tokio::test]
async fn maintenance_detaches_everybody_and_closes_nothing() {
    let hub = plain_hub().await;
    let (mut client, mut a, mut b) = two_senders(&hub).await;
    hub.faults().maintenance();
    for link in [&mut a, &mut b] {
        let error = format!("{:?}", soon(link.on_detach()).await);
        assert!(error.contains("DetachForced"), "{error}");
    }
    let mut a = client.telemetry("a").await;
    accepted(soon(a.send(message("1", "x"))).await.unwrap());
}

#[tokio::test]
async fn a_plan_makes_its_faults_one_after_the_other() {
    let hub = plain_hub().await;
    let (_client, mut a, _b) = two_senders(&hub).await;
    let plan = Plan::from_json(
        r#"{"seed": 7, "steps": [
            {"make": [{"fault": "hold"}, {"fault": "disable", "device": "b"}]},
            {"after": "10ms", "make": [{"fault": "release"}, {"fault": "throttle", "count": 1}]}
        ]}"#,
    )
    .unwrap();
    soon(hub.faults().play(&plan)).await;
    let outcome = soon(a.send(message("1", "x"))).await.unwrap();
    let (condition, _) = rejection(outcome);
    assert_eq!(condition, "com.microsoft:device-container-throttled");
    accepted(soon(a.send(message("2", "x"))).await.unwrap());
    let of_nobody = Fault::Disable {
        device: "ghost".to_owned(),
    };
    assert!(!hub.faults().apply(&of_nobody));
    assert!(hub.faults().apply(&Fault::CutOne { pick: Some(41) }));
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
    assert!(!hub.faults().apply(&Fault::CutOne { pick: None }));
}
