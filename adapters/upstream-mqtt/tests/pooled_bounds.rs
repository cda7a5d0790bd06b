//! What a gateway takes of its broker: no more than it has room for, and nothing is lost for that.

#[path = "common/broker.rs"]
mod broker;
#[path = "common/cloud.rs"]
mod cloud;
#[path = "common/pooled.rs"]
mod common;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/site.rs"]
mod site;

use std::time::Duration;

use gateway_core::testkit::RecordingCallback;
use gateway_core::{Interest, Upstream};
use gateway_upstream_mqtt::MqttVersion;
use tokio::time::{Instant, sleep};

use cloud::Message;
use site::{MESSAGES, Site, attach, ids};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_of_a_broker_that_cannot_be_told_costs_nobody_the_connection() {
    let Some(site) = Site::new().await else {
        return;
    };
    let config = site.config("gw").with_connections(1);
    let mut config = config.with_version(MqttVersion::V3_1_1);
    config.wire.max_packet = 1024;
    config.wire.max_message = 512;
    let upstream = common::upstream(config);
    let large = attach(&upstream, "large", MESSAGES).await;
    let small = attach(&upstream, "small", MESSAGES).await;
    site.subscribed(&["devices/large/commands", "devices/small/commands"])
        .await;
    let body = format!(r#"{{"id":"too-large","text":"{}"}}"#, ".".repeat(2048));
    site.cloud
        .publish(Message::new("devices/large/commands", body))
        .await;
    let body = r#"{"id":"behind","text":"hello"}"#;
    site.cloud
        .publish(Message::new("devices/small/commands", body))
        .await;
    small.wait_for(|record| record.messages.len() == 1).await;
    site.proxy.wait(|state| state.given("too-large").1).await;
    let stats = upstream.stats();
    assert_eq!((stats.unreadable, stats.losses), (1, 0));
    assert_eq!(ids(&small), ["behind"]);
    assert!(ids(&large).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_together_are_given_no_more_commands_than_there_is_room_for() {
    const COUNT: usize = 20;
    for version in common::BOTH {
        let Some(site) = Site::new().await else {
            return;
        };
        let mut config = site.config("gw").with_connections(2).with_version(version);
        config.commands.pending = 8;
        let upstream = common::upstream(config);
        let mut callbacks: Vec<RecordingCallback> = Vec::new();
        for n in 0..COUNT {
            let callback = attach(&upstream, &format!("dev-{n:02}"), MESSAGES).await;
            callback.hold();
            site.subscribed(&[&format!("devices/dev-{n:02}/commands")])
                .await;
            callbacks.push(callback);
        }
        for n in 0..COUNT {
            let topic = format!("devices/dev-{n:02}/commands");
            let body = format!(r#"{{"id":"for-{n:02}"}}"#);
            site.cloud.publish(Message::new(topic, body)).await;
        }
        // Whatever may be given is here, and the rest at the broker.
        while upstream.stats().pending < 4 {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_millis(300)).await;
        callbacks.iter().for_each(RecordingCallback::release);
        for n in 0..COUNT {
            let id = format!("for-{n:02}");
            site.proxy.wait(|state| state.given(&id).1).await;
        }
        assert_eq!(upstream.stats().messages_refused, 0, "{version:?}");
        let came = |callback: &RecordingCallback| callback.record().messages.len();
        let came: Vec<_> = callbacks.iter().map(came).collect();
        assert_eq!(came, [1; COUNT], "{version:?}");
        assert_eq!(upstream.stats().losses, 0, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_methods_does_not_hold_up_its_own_answers() {
    let Some(site) = Site::new().await else {
        return;
    };
    let config = site.config("gw").with_connections(1);
    let mut config = config.with_version(MqttVersion::V3_1_1);
    config.wire.unacknowledged = 4;
    config.topics.methods = "devices/{device_id}/methods/{method}/{request_id}".to_owned();
    config.topics.responses = "cloud/{device_id}/{request_id}".to_owned();
    let upstream = common::upstream(config);
    let callback = attach(&upstream, "dev", Interest::COMMANDS).await;
    site.subscribed(&["devices/dev/methods/+/+"]).await;
    callback.hold();
    for n in 1..=7 {
        let topic = format!("devices/dev/methods/reboot/{n}");
        site.cloud.publish(Message::new(topic, "{}")).await;
    }
    callback.wait_for(|record| record.methods.len() == 4).await;
    site.proxy.wait(|state| state.given("reboot").0 == 7).await;
    callback.release();
    let begun = Instant::now();
    let are_settled = |state: &proxy::State| state.given.iter().all(|given| given.acknowledged);
    let uplink = common::uplink(&common::device("dev"), "meanwhile");
    let (sent, ()) = tokio::join!(upstream.send(&uplink), site.proxy.wait(are_settled));
    sent.expect("it is acknowledged");
    // Not when answers are given up.
    assert!(begun.elapsed() < Duration::from_secs(20));
}
