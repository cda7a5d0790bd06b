//! What the broker keeps for a gateway that is away, and what of it is another's by then.

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

use std::collections::BTreeSet;
use std::time::Duration;

use gateway_core::{Interest, Upstream};
use gateway_upstream_mqtt::{MqttPoolUpstream, MqttSubscriptions};
use tokio::time::sleep;

use site::{MESSAGES, Site, attach, ids};

/// Waits until the broker has given a command to so many, and each has acknowledged it.
async fn settled(site: &Site, id: &str, count: usize) {
    let is_settled = |state: &proxy::State| {
        let given = || state.given.iter().filter(|given| given.has(id));
        given().count() == count && given().all(|given| given.acknowledged)
    };
    site.proxy.wait(is_settled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_sent_while_the_gateway_is_away_arrive_when_it_is_back() {
    for subscriptions in [MqttSubscriptions::PerDevice, MqttSubscriptions::Wildcard] {
        let Some(site) = Site::new().await else {
            return;
        };
        let mut config = site.config("gw").with_connections(1);
        config.commands.subscriptions = subscriptions;
        let first = common::upstream(config.clone());
        attach(&first, "dev", MESSAGES).await;
        let filter = match subscriptions {
            MqttSubscriptions::Wildcard => "devices/+/commands",
            _ => "devices/dev/commands",
        };
        site.subscribed(&[filter]).await;
        site.close(&first).await;
        for n in 0..5 {
            site.command("dev", &format!("away-{n}")).await;
        }
        let second = common::upstream(config);
        attach(&second, "other", MESSAGES).await;
        // They come before their device is back.
        while second.stats().pending + second.stats().left as usize != 5 {
            tokio::task::yield_now().await;
        }
        let callback = attach(&second, "dev", MESSAGES).await;
        callback.wait_for(|record| record.messages.len() >= 5).await;
        for n in 0..5 {
            let id = format!("away-{n}");
            site.proxy.wait(|state| state.given(&id).1).await;
        }
        let got: BTreeSet<_> = ids(&callback).into_iter().collect();
        assert_eq!(got.len(), 5, "{got:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_commands_than_a_device_takes_at_a_time_wait_for_it_to_come_back() {
    const COUNT: usize = 20;
    for subscriptions in [MqttSubscriptions::PerDevice, MqttSubscriptions::Wildcard] {
        let Some(site) = Site::new().await else {
            return;
        };
        let mut config = site.config("gw").with_connections(1);
        config.commands.subscriptions = subscriptions;
        config.commands.patience = Duration::from_millis(100);
        let first = common::upstream(config.clone());
        attach(&first, "dev", MESSAGES).await;
        let filter = match subscriptions {
            MqttSubscriptions::Wildcard => "devices/+/commands",
            _ => "devices/dev/commands",
        };
        site.subscribed(&[filter]).await;
        site.close(&first).await;
        for n in 0..COUNT {
            site.command("dev", &format!("away-{n:02}")).await;
        }
        let second = common::upstream(config);
        attach(&second, "other", MESSAGES).await;
        site.proxy
            .wait(|state| state.given("away-").0 == COUNT)
            .await;
        // Patience is over for whoever is here.
        sleep(Duration::from_secs(1)).await;
        let callback = attach(&second, "dev", MESSAGES).await;
        settled(&site, "away-", COUNT).await;
        let got: BTreeSet<_> = ids(&callback).into_iter().collect();
        let lost = (second.stats().messages_refused, second.stats().left);
        assert_eq!((got.len(), lost), (COUNT, (0, 0)), "{subscriptions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_device_that_is_not_back_leaves_places_to_the_others() {
    // Mosquitto gives out 20 at a time.
    const COUNT: usize = 20;
    let Some(site) = Site::new().await else {
        return;
    };
    let mut config = site.config("gw").with_connections(1);
    config.wire.unacknowledged = 24;
    let first = common::upstream(config.clone());
    for name in ["gone", "here"] {
        attach(&first, name, MESSAGES).await;
        let filter = format!("devices/{name}/commands");
        site.subscribed(&[&filter]).await;
    }
    site.close(&first).await;
    for n in 0..COUNT {
        site.command("gone", &format!("away-{n:02}")).await;
    }
    let second = common::upstream(config);
    let here = attach(&second, "here", MESSAGES).await;
    site.proxy
        .wait(|state| state.given("away-").0 == COUNT)
        .await;
    site.command("here", "now").await;
    here.wait_for(|record| record.messages.len() == 1).await;
    assert_eq!(second.stats().messages_refused, 8);
    let gone = attach(&second, "gone", MESSAGES).await;
    settled(&site, "away-", COUNT).await;
    assert_eq!(ids(&gone).len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_back_leaves_the_commands_of_a_device_to_where_it_went() {
    let Some(site) = Site::new().await else {
        return;
    };
    let mut config = site.config("gw-1").with_connections(1);
    config.commands.keep = Duration::from_millis(300);
    let before = common::upstream(config.clone());
    attach(&before, "dev", Interest::COMMANDS).await;
    let filters = ["devices/dev/methods/+", "devices/dev/commands"];
    site.subscribed(&filters).await;
    site.close(&before).await;
    let there = common::upstream(site.config("gw-2"));
    let callback = attach(&there, "dev", Interest::COMMANDS).await;
    site.subscribed(&filters).await;
    // The broker has kept its session, and the subscription.
    let back = common::upstream(config);
    attach(&back, "other", MESSAGES).await;
    site.subscribed(&["devices/other/commands"]).await;
    site.call("dev", "reboot", "call-1").await;
    site.command("dev", "message-1").await;
    settled(&site, "call-1", 2).await;
    settled(&site, "message-1", 2).await;
    assert_eq!(site.answer("call-1").await.0, "200");
    let answers = site.cloud.look(|heard| {
        let answers = heard.messages.iter().filter(|m| m.topic == "cloud/answers");
        answers.count()
    });
    assert_eq!(answers, 1, "the device's own, and none in its place");
    for filter in filters {
        site.proxy
            .wait(|state| state.given_back.contains(filter))
            .await;
    }
    site.call("dev", "reboot", "call-2").await;
    site.command("dev", "message-2").await;
    assert_eq!(site.answer("call-2").await.0, "200");
    settled(&site, "call-2", 1).await;
    settled(&site, "message-2", 1).await;
    assert_eq!(ids(&callback), ["message-1", "message-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_for_an_absent_device_is_left_whatever_connection_was_its_own() {
    const COUNT: usize = 20;
    let Some(site) = Site::new().await else {
        return;
    };
    let mut config = site.config("gw");
    config.commands.subscriptions = MqttSubscriptions::Wildcard;
    config.commands.patience = Duration::from_millis(50);
    // Time enough for all to come before it is over.
    config.commands.keep = Duration::from_secs(3);
    let first = common::upstream(config.clone());
    attach(&first, "absent", MESSAGES).await;
    let its_own = connection(&first, "absent");
    site.subscribed(&["devices/+/commands"]).await;
    site.close(&first).await;
    for n in 0..COUNT {
        site.command("absent", &format!("kept-{n:02}")).await;
    }
    let second = common::upstream(config);
    let other = attach(&second, "other", MESSAGES).await;
    assert_ne!(its_own, connection(&second, "other"));
    assert_ne!(its_own, Some(1), "it hears the commands of all");
    settled(&site, "kept-", COUNT).await;
    let stats = second.stats();
    assert_eq!((stats.left, stats.messages_refused), (COUNT as u64, 0));
    site.command("other", "after").await;
    other.wait_for(|record| record.messages.len() == 1).await;
}

/// The number of a device's own connection.
fn connection(upstream: &MqttPoolUpstream, name: &str) -> Option<u64> {
    upstream.explain(&common::device(name))?.connection
}
