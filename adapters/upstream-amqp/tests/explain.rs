//! What the gateway tells of a device, over a real connection.

mod common;

use common::{attach, config, hub, uplink, upstream, with_key};
use gateway_core::{BreakerState, ErrorKind, Interest, LinkPurpose, Upstream};
use gateway_upstream_amqp::CommandConfig;

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_device_has_a_connection_a_lane_a_link_with_credit_and_a_token() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    assert_eq!(upstream.explain(&device), None, "nobody knows it");
    attach(&upstream, &identity).await;
    let sent = upstream.send(&uplink(&device, "m")).await;
    sent.expect("accepted");

    let told = upstream.explain(&device).expect("it is known");
    assert_eq!(told.connection, Some(1));
    let lane = told.lane.expect("it is on a lane");
    assert_eq!((lane.number, lane.is_own), (1, false));
    let [link] = &told.links[..] else {
        panic!("one link: {:?}", told.links);
    };
    assert_eq!(link.purpose, LinkPurpose::Telemetry);
    assert!(link.credit.is_some_and(|credit| credit > 0), "{link:?}");
    let token = told.token.expect("it has a token");
    assert!(token.renewal_in.is_some_and(|due| due > token.age));
    assert_eq!(told.in_flight, Some(0));
    assert_eq!(told.breaker, Some(BreakerState::Closed));
    assert_eq!((told.last_error, told.waits_for), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_listens_shows_each_link_and_what_the_hub_may_send_on_it() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device").with_interest(Interest::ALL);
    let device = identity.device.clone();
    attach(&upstream, &identity).await;
    hub.wait_messages("device").await;
    hub.wait_methods("device").await;
    hub.wait_desired("device").await;

    // The hub knows of a link before we know that it does.
    let links = loop {
        let told = upstream.explain(&device).expect("it is known");
        if told.links.len() == 4 {
            break told.links;
        }
        tokio::task::yield_now().await;
    };
    let credit = CommandConfig::default().credit;
    for purpose in [
        LinkPurpose::Messages,
        LinkPurpose::Methods,
        LinkPurpose::Twin,
    ] {
        let link = links.iter().find(|link| link.purpose == purpose);
        let link = link.unwrap_or_else(|| panic!("no link for {}", purpose.as_str()));
        assert!(
            link.credit.is_some_and(|left| (1..=credit).contains(&left)),
            "{link:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_waits_for_its_verdict_is_in_flight_and_a_refusal_is_remembered() {
    let hub = hub().await;
    let upstream = upstream(config(&hub));
    let identity = with_key(&hub, "device");
    let device = identity.device.clone();
    attach(&upstream, &identity).await;

    let held = hub.faults().hold_settlements();
    let (message, record) = (uplink(&device, "held"), hub.record());
    let mut send = std::pin::pin!(upstream.send(&message));
    tokio::select! {
        result = &mut send => panic!("settled while held: {result:?}"),
        _ = record.wait_for(1) => {}
    }
    let told = upstream.explain(&device).expect("it is known");
    assert_eq!(told.in_flight, Some(1));
    drop(held);
    send.await.expect("accepted");

    hub.faults()
        .reject_next(None, 1, "com.microsoft:argument-error");
    let refused = upstream.send(&uplink(&device, "refused")).await;
    assert_eq!(refused.expect_err("refused").kind(), ErrorKind::Rejected);
    let told = upstream.explain(&device).expect("it is known");
    let last = told.last_error.expect("it is remembered");
    assert_eq!(last.kind, ErrorKind::Rejected);
    assert!(
        last.text.contains("com.microsoft:argument-error"),
        "{}",
        last.text
    );
}
