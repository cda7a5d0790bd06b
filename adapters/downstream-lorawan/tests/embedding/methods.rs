//! Methods, which wait for a window or do not.

use gateway_core::{MethodReply, Settlement};
use gateway_downstream_lorawan::embed::{MethodPolicy, Order};
use serde_json::json;
use tokio::time::timeout;

use super::{LONG, Network, WATCH, always, call, closed, everybody, name, parsed, patient, uplink};

#[tokio::test(start_paused = true)]
async fn the_starter_kits_method_is_understood_whatever_form_messages_have() {
    let mut network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let argument = r#"{"DevEUI":"01-01-01-01-01-01-01-01","fport":9,"payload":"on"}"#;
    let hub = network.hub.clone();
    let calling = hub.call_method(call("cloudToDeviceMessage", argument, LONG));
    let radio = async {
        let heard = network.events.uplink(uplink(2)).await;
        assert_eq!(heard, Settlement::Accepted);
        let downlink = network.downlink().await;
        assert_eq!((downlink.port, &downlink.payload[..]), (9, &b"on"[..]));
        network.transmitted(&downlink).await;
    };
    let (reply, ()) = tokio::join!(calling, radio);
    assert_eq!(reply.map(|reply| reply.status), Some(200));
}

#[tokio::test(start_paused = true)]
async fn a_method_waits_for_the_window_and_is_answered_with_the_outcome() {
    let mut network = Network::start(everybody(always), patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let hub = network.hub.clone();
    let calling = hub.call_method(call("send_downlink", r#"{"data":"AQI"}"#, LONG));
    let radio = async {
        assert!(timeout(WATCH, network.orders.next()).await.is_err());
        assert_eq!(network.events.uplink(uplink(2)).await, Settlement::Accepted);
        let downlink = network.downlink().await;
        network.transmitted(&downlink).await;
    };
    let (reply, ()) = tokio::join!(calling, radio);
    let expected = MethodReply::new(200, r#"{"outcome":"transmitted"}"#);
    assert_eq!(reply, Some(expected));
}

#[tokio::test(start_paused = true)]
async fn a_method_for_a_sleeper_is_refused_if_its_profile_says_so() {
    let directory = everybody(|profile| {
        always(profile);
        profile.methods = MethodPolicy::Refuse;
    });
    let network = Network::start(directory, patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let call = call("send_downlink", r#"{"data":"AQI"}"#, LONG);
    let reply = network.hub.call_method(call).await.unwrap();
    assert_eq!(reply.status, 503);
    assert_eq!(parsed(&reply.payload)["error"], "asleep");
}

#[tokio::test(start_paused = true)]
async fn a_method_answered_at_once_is_reported_when_it_was_sent() {
    let directory = everybody(|profile| {
        always(profile);
        profile.methods = MethodPolicy::Later;
    });
    let mut network = Network::start(directory, patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    let call = call("send_downlink", r#"{"data":"AQI"}"#, LONG);
    let reply = network.hub.call_method(call).await.unwrap();
    assert_eq!(reply.status, 202);
    assert_eq!(network.events.uplink(uplink(2)).await, Settlement::Accepted);
    let downlink = network.downlink().await;
    network.transmitted(&downlink).await;
    let accepted = network.hub.wait_accepted(3).await;
    let expected = json!({"method": "send_downlink", "request": "call", "outcome": "transmitted"});
    assert_eq!(parsed(&accepted[2].body)["command"], expected);
}

#[tokio::test(start_paused = true)]
async fn a_method_of_which_the_network_server_tells_nothing_fails_and_the_next_one_goes() {
    let directory = everybody(|profile| {
        always(profile);
        profile.methods = MethodPolicy::Later;
    });
    let mut network = Network::start(directory, patient());
    assert_eq!(network.events.uplink(closed(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    for argument in [r#"{"data":"AQI"}"#, r#"{"data":"AwQ"}"#] {
        let call = call("send_downlink", argument, LONG);
        assert_eq!(network.hub.call_method(call).await.unwrap().status, 202);
    }
    assert_eq!(network.events.uplink(uplink(2)).await, Settlement::Accepted);
    let lost = network.downlink().await;
    for counter in 3..=5 {
        assert!(timeout(WATCH, network.orders.next()).await.is_err());
        let heard = network.events.uplink(uplink(counter)).await;
        assert_eq!(heard, Settlement::Accepted);
    }
    let withdrawn = Order::Withdraw {
        dev_eui: lost.dev_eui,
        downlink: lost.id,
    };
    let ordered = timeout(WATCH, network.orders.next()).await;
    assert_eq!(ordered, Ok(Some(withdrawn)));
    assert_eq!(network.downlink().await.payload[..], [3, 4]);
    let accepted = network.hub.wait_accepted(6).await;
    let mut bodies = accepted.iter().map(|message| parsed(&message.body));
    let command = bodies
        .find_map(|body| body.get("command").cloned())
        .unwrap();
    assert_eq!(command["outcome"], "failed");
    let why = "the network server does not tell what became of it";
    assert_eq!(command["error"], why);
}

#[tokio::test(start_paused = true)]
async fn a_device_listens_no_longer_than_its_window_for_a_method_that_is_reported_later() {
    let directory = everybody(|profile| profile.methods = MethodPolicy::Later);
    let mut network = Network::start(directory, patient());
    assert_eq!(network.events.uplink(uplink(1)).await, Settlement::Accepted);
    network.wait_listening().await;
    // It takes the window.
    let hub = network.hub.clone();
    let awake = hub.call_method(call("send_downlink", r#"{"data":"AQI"}"#, LONG));
    let radio = async {
        let downlink = network.downlink().await;
        network.transmitted(&downlink).await;
    };
    let (reply, ()) = tokio::join!(awake, radio);
    assert_eq!(reply.unwrap().status, 200);
    let later = call("send_downlink", r#"{"data":"AwQ"}"#, LONG);
    assert_eq!(hub.call_method(later).await.unwrap().status, 202);
    assert_eq!(network.events.uplink(uplink(2)).await, Settlement::Accepted);
    network.downlink().await;
    let is_deaf = timeout(LONG, hub.wait_deaf(&name())).await;
    assert!(is_deaf.is_ok(), "it waits for the radio");
}
