//! Devices over MQTT: connecting, telemetry, sessions.

#[path = "support/mqtt.rs"]
mod mqtt;
mod support;

use std::time::Duration;

use hub_simulator::{HubSimulator, Limits};
use mqtt::{
    Connect, ConnectReturnCode, Device, LastWill, Packet, Publish, QoS, Wire, connect_packet,
};
use support::{expiry, plain_hub, soon};

async fn refusal(hub: &HubSimulator, connect: Connect) -> ConnectReturnCode {
    let mut wire = Wire::open(hub).await;
    let answer = wire.connect(connect).await.expect("the hub answers");
    assert!(!answer.session_present);
    assert_eq!(wire.next().await, None, "a refused client is sent away");
    answer.code
}

fn login(hub: &HubSimulator, user_name: &str, password: &str) -> Connect {
    let mut connect = connect_packet(hub, "dev1");
    connect.set_login(user_name, password);
    connect
}

#[tokio::test]
async fn a_device_with_a_good_token_comes_in_and_its_telemetry_is_acknowledged() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    assert!(!device.session_present);
    assert_eq!(hub.attached_devices(), 1);
    let topic =
        "devices/dev1/messages/events/$.mid=m-1&$.ct=text%2Fplain&odd%20key=a%26b%3Dc%20d%25";
    device.publish_acked(topic, b"21.5").await;
    let accepted = hub.record().take().remove(0);
    assert_eq!(accepted.device_id, "dev1");
    assert_eq!(accepted.message_id.as_deref(), Some("m-1"));
    assert_eq!(accepted.content_type.as_deref(), Some("text/plain"));
    assert_eq!(accepted.properties["odd key"], "a&b=c d%");
    assert_eq!(&accepted.body[..], b"21.5");
    device.disconnect().await;
    soon(hub.wait_until(|stats| stats.attached_devices == 0)).await;
}

#[tokio::test]
async fn telemetry_without_acknowledgement_is_taken_too() {
    let hub = plain_hub().await;
    let mut device = Device::connect(&hub, "dev1").await;
    let mut publish = Publish::new("devices/dev1/messages/events/", QoS::AtMostOnce, "x");
    publish.retain = true;
    device.wire.send(&Packet::Publish(publish)).await;
    soon(hub.record().wait_for(1)).await;
    let accepted = hub.record().take().remove(0);
    assert_eq!(accepted.properties["mqtt-retain"], "true");
    device.ping().await;
}

#[tokio::test]
async fn a_module_has_topics_of_its_own() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    let mut module = Device::connect(&hub, "dev1/m1").await;
    let topic = "devices/dev1/modules/m1/messages/events/$.on=alerts";
    module.publish_acked(topic, b"x").await;
    let accepted = hub.record().take().remove(0);
    assert_eq!(accepted.device_id, "dev1/m1");
    assert_eq!(accepted.properties["iothub-outputname"], "alerts");
    module
        .publish("devices/dev1/messages/events/", b"forged")
        .await;
    module.closed().await;
    assert_eq!(hub.record().count(), 1);
}

#[tokio::test]
async fn whoever_may_not_come_in_is_told_why() {
    use ConnectReturnCode as Code;
    let hub = plain_hub().await;
    let host = hub.host().to_owned();
    let (own, other) = (
        support::token(&hub.device_connection_string("dev1")),
        support::token(&hub.device_connection_string("dev2")),
    );
    let user_name = format!("{host}/dev1/?api-version=2021-04-12");
    let refused = async |connect| refusal(&hub, connect).await;
    assert_eq!(
        refused(login(&hub, &user_name, &other)).await,
        Code::NotAuthorized
    );
    assert_eq!(
        refused(login(&hub, &user_name, "secret")).await,
        Code::NotAuthorized
    );
    assert_eq!(
        refused(login(&hub, &user_name, "")).await,
        Code::NotAuthorized
    );
    let elsewhere = "elsewhere/dev1/?api-version=2021-04-12";
    assert_eq!(
        refused(login(&hub, elsewhere, &own)).await,
        Code::NotAuthorized
    );
    let another = format!("{host}/dev2/?api-version=2021-04-12");
    assert_eq!(
        refused(login(&hub, &another, &other)).await,
        Code::NotAuthorized
    );
    assert_eq!(
        refused(login(&hub, "dev1", &own)).await,
        Code::BadUserNamePassword
    );
    let mut nobody = connect_packet(&hub, "dev1");
    nobody.client_id = String::new();
    assert_eq!(refused(nobody).await, Code::BadClientId);
    let mut anonymous = connect_packet(&hub, "dev1");
    anonymous.login = None;
    assert_eq!(refused(anonymous).await, Code::NotAuthorized);
    hub.set_enabled("dev1", false);
    assert_eq!(
        refused(connect_packet(&hub, "dev1")).await,
        Code::NotAuthorized
    );
    let ghost = connect_packet(&hub, "ghost");
    hub.remove_device("ghost");
    assert_eq!(refused(ghost).await, Code::NotAuthorized);
}

#[tokio::test]
async fn another_version_of_mqtt_is_refused_as_such() {
    let hub = plain_hub().await;
    let mut wire = Wire::open(&hub).await;
    wire.send_bytes(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03dev")
        .await;
    let Some(Packet::ConnAck(answer)) = wire.next().await else {
        panic!("no CONNACK");
    };
    assert_eq!(answer.code, ConnectReturnCode::RefusedProtocolVersion);
    assert_eq!(wire.next().await, None);
}

#[tokio::test]
async fn a_policy_of_the_hub_lets_a_device_in() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    let user_name = format!("{}/dev1", hub.host());
    let token = |policy| support::token(&hub.policy_connection_string(policy));
    Device::connect_with(&hub, login(&hub, &user_name, &token("device"))).await;
    let code = refusal(&hub, login(&hub, &user_name, &token("service"))).await;
    assert_eq!(code, ConnectReturnCode::NotAuthorized);
}

#[tokio::test]
async fn a_newer_connection_of_a_device_ends_the_one_before() {
    let hub = plain_hub().await;
    let mut first = Device::connect(&hub, "dev1").await;
    let mut bystander = Device::connect(&hub, "dev2").await;
    let mut second = Device::connect(&hub, "dev1").await;
    first.closed().await;
    second.ping().await;
    bystander.ping().await;
    soon(hub.wait_until(|stats| stats.connections.len() == 2)).await;
    assert_eq!(hub.attached_devices(), 2);
    assert!(second.session_present, "the session goes on");
}

#[tokio::test]
async fn the_end_of_a_token_ends_its_connection() {
    let hub = plain_hub().await;
    let connection_string = hub.device_connection_string("dev1");
    let connection_string = hub_simulator::ConnectionString::parse(&connection_string).unwrap();
    let token = connection_string.sign(expiry(Duration::from_secs(2)));
    let user_name = format!("{}/dev1/?api-version=2021-04-12", hub.host());
    let mut device = Device::connect_with(&hub, login(&hub, &user_name, &token)).await;
    device.ping().await;
    device.closed().await;
}

#[tokio::test]
async fn a_device_that_is_disabled_or_removed_is_sent_away_with_its_modules() {
    let hub = plain_hub().await;
    let mut bystander = Device::connect(&hub, "dev2").await;
    let mut device = Device::connect(&hub, "dev1").await;
    let mut module = Device::connect(&hub, "dev1/m1").await;
    assert_eq!(hub.attached_devices(), 3);
    hub.set_enabled("dev1", false);
    device.closed().await;
    module.closed().await;
    hub.set_enabled("dev1", true);
    let mut device = Device::connect(&hub, "dev1").await;
    hub.remove_device("dev1");
    device.closed().await;
    bystander.ping().await;
}

#[tokio::test]
async fn a_device_that_is_registered_anew_connects_anew_and_its_old_will_is_not_sent() {
    let hub = plain_hub().await;
    hub.add_device("dev1");
    let policy = support::token(&hub.policy_connection_string("device"));
    let mut connect = login(&hub, &format!("{}/dev1", hub.host()), &policy);
    let topic = "devices/dev1/messages/events/";
    connect.last_will = Some(LastWill::new(topic, "gone", QoS::AtLeastOnce, false));
    let mut first = Device::connect_with(&hub, connect.clone()).await;
    // The connection hears of it when the second one is there already.
    hub.remove_device("dev1");
    hub.add_device("dev1");
    first.closed().await;
    let mut second = Device::connect_with(&hub, connect).await;
    assert!(!second.session_present);
    second.ping().await;
    assert_eq!(hub.record().count(), 0);
}

#[tokio::test]
async fn a_will_is_sent_for_a_device_that_goes_without_a_word() {
    let hub = plain_hub().await;
    let mut connect = connect_packet(&hub, "dev1");
    let topic = "devices/dev1/messages/events/why=lost";
    connect.last_will = Some(LastWill::new(topic, "gone", QoS::AtLeastOnce, true));
    let polite = Device::connect_with(&hub, connect.clone()).await;
    polite.disconnect().await;
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
    assert_eq!(hub.record().count(), 0, "a DISCONNECT takes the will back");
    drop(Device::connect_with(&hub, connect).await);
    soon(hub.record().wait_for(1)).await;
    let will = hub.record().take().remove(0);
    assert_eq!(&will.body[..], b"gone");
    for (name, value) in [
        ("iothub-MessageType", "Will"),
        ("why", "lost"),
        ("mqtt-retain", "true"),
    ] {
        assert_eq!(will.properties[name], value);
    }
}

#[tokio::test]
async fn a_will_that_is_no_telemetry_is_refused() {
    let hub = plain_hub().await;
    let mut connect = connect_packet(&hub, "dev1");
    connect.last_will = Some(LastWill::new("home/kitchen", "x", QoS::AtMostOnce, false));
    assert_eq!(
        refusal(&hub, connect).await,
        ConnectReturnCode::NotAuthorized
    );
}

#[tokio::test]
async fn a_silent_client_is_sent_away_after_one_and_a_half_keep_alives() {
    let hub = plain_hub().await;
    let mut connect = connect_packet(&hub, "dev1");
    connect.keep_alive = 1;
    let mut silent = Device::connect_with(&hub, connect).await;
    let began = tokio::time::Instant::now();
    silent.closed().await;
    assert!(began.elapsed() >= Duration::from_millis(1400));
}

#[tokio::test]
async fn no_keep_alive_is_longer_than_the_hub_allows() {
    let limits = Limits::default().with_mqtt_max_silence(Duration::from_millis(300));
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(limits)
        .start()
        .await
        .unwrap();
    let mut connect = connect_packet(&hub, "dev1");
    connect.keep_alive = 0;
    Device::connect_with(&hub, connect).await.closed().await;
}
