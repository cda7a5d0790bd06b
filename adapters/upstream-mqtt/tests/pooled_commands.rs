//! Commands over a broker: settled here as far as MQTT can, shared by gateways, answered.

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

use bytes::Bytes;
use gateway_core::{Disposition, Interest, MethodReply, Upstream};
use gateway_upstream_mqtt::MqttSubscriptions;

use broker::Mosquitto;
use cloud::{Cloud, Message};
use proxy::Proxy;
use site::{MESSAGES, Site, attach, ids};

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_message_is_tried_again_and_acknowledged_only_then() {
    let Some(site) = Site::new().await else {
        return;
    };
    let upstream = common::upstream(site.config("gw"));
    let callback = attach(&upstream, "dev", MESSAGES).await;
    site.subscribed(&["devices/dev/commands"]).await;
    callback.settle_next([Disposition::Abandon, Disposition::Abandon]);
    site.command("dev", "wake-up").await;
    callback.wait_for(|record| record.messages.len() >= 2).await;
    site.proxy.wait(|state| state.given("wake-up").1).await;
    let record = callback.record();
    let counts: Vec<_> = record.messages.iter().map(|m| m.delivery_count).collect();
    assert_eq!(counts, [0, 1, 2]);
    assert_eq!(site.proxy.look(|state| state.given("wake-up").0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_goes_to_the_dead_letters_before_it_is_acknowledged() {
    let Some(site) = Site::new().await else {
        return;
    };
    let mut config = site.config("gw");
    config.commands.keep = Duration::from_millis(200);
    let upstream = common::upstream(config);
    let refuser = attach(&upstream, "refuser", MESSAGES).await;
    let sleeper = attach(&upstream, "sleeper", MESSAGES).await;
    site.subscribed(&["devices/refuser/commands", "devices/sleeper/commands"])
        .await;
    refuser.settle_next([Disposition::Reject]);
    sleeper.hold();
    for name in ["refuser", "sleeper"] {
        site.command(name, &format!("for-{name}")).await;
        let topic = format!("devices/{name}/dead");
        let letter = site.cloud.find(|message| message.topic == topic).await;
        assert_eq!(letter.payload, format!("for-{name}"));
        assert_eq!(
            letter.user("$message_id"),
            Some(format!("for-{name}").as_str())
        );
        assert_eq!(
            letter.user("$topic"),
            Some(format!("devices/{name}/commands").as_str())
        );
        assert!(letter.user("$reason").is_some());
        site.proxy
            .wait(|state| state.given(&format!("for-{name}")).1)
            .await;
    }
    assert_eq!(upstream.stats().messages_refused, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_to_one_slow_device_is_bounded_and_stalls_nobody() {
    let Some(site) = Site::new().await else {
        return;
    };
    // All on one connection, whose window at the broker is 20.
    let mut config = site.config("gw").with_connections(1);
    config.commands.per_device = 4;
    config.commands.patience = Duration::from_millis(100);
    let upstream = common::upstream(config);
    let slow = attach(&upstream, "slow", MESSAGES).await;
    let quick = attach(&upstream, "quick", MESSAGES).await;
    site.subscribed(&["devices/slow/commands", "devices/quick/commands"])
        .await;
    slow.hold();
    for n in 0..30 {
        site.command("slow", &format!("slow-{n:02}")).await;
        site.command("quick", &format!("quick-{n:02}")).await;
    }
    let quick = quick.wait_for(|record| record.messages.len() == 30).await;
    let order: Vec<_> = quick
        .messages
        .iter()
        .map(|m| m.id.clone().expect("an id"))
        .collect();
    assert!(order.is_sorted(), "{order:?}");
    site.proxy.wait(|state| state.given("quick-29").1).await;
    let is_dead = |m: &&Message| m.topic == "devices/slow/dead";
    site.cloud
        .wait(|heard| heard.messages.iter().filter(is_dead).count() == 26)
        .await;
    assert_eq!(ids(&slow), ["slow-00", "slow-01", "slow-02", "slow-03"]);
    assert!(!site.proxy.look(|state| state.given("slow-00").1));
    slow.release();
    site.proxy.wait(|state| state.given("slow-03").1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_of_a_group_share_the_commands_of_a_device_that_both_have() {
    let Some(site) = Site::new().await else {
        return;
    };
    let gateway = |name: &str| {
        let mut config = site.config(name);
        config.commands.group = Some("all".to_owned());
        common::upstream(config)
    };
    let (one, other) = (gateway("gw-1"), gateway("gw-2"));
    let first = attach(&one, "dev", MESSAGES).await;
    let second = attach(&other, "dev", MESSAGES).await;
    site.proxy
        .wait(|state| {
            state.subscriptions() >= 2 && state.is_subscribed("$share/all/devices/dev/commands")
        })
        .await;
    for n in 0..40 {
        site.command("dev", &format!("shared-{n:02}")).await;
    }
    for n in 0..40 {
        site.proxy
            .wait(|state| state.given(&format!("shared-{n:02}")).1)
            .await;
    }
    let (first, second) = (ids(&first), ids(&second));
    assert!(
        !first.is_empty() && !second.is_empty(),
        "{} and {}",
        first.len(),
        second.len()
    );
    let all: BTreeSet<_> = first.iter().chain(&second).collect();
    assert_eq!((all.len(), first.len() + second.len()), (40, 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_over_all_devices_hands_over_what_is_anothers() {
    let Some(site) = Site::new().await else {
        return;
    };
    let gateway = |name: &str| {
        let mut config = site.config(name);
        config.commands.group = Some("all".to_owned());
        config.commands.subscriptions = MqttSubscriptions::Wildcard;
        common::upstream(config)
    };
    let (one, other) = (gateway("gw-1"), gateway("gw-2"));
    let both = Interest::COMMANDS;
    let left = attach(&one, "left", both).await;
    let right = attach(&other, "right", both).await;
    // Three filters each: messages, methods, handover.
    site.proxy.wait(|state| state.subscriptions() >= 6).await;
    // Not by turns, as brokers choose the gateway.
    for name in ["left", "right"] {
        for n in 0..20 {
            site.command(name, &format!("{name}-{n:02}")).await;
            site.call(name, "echo", &format!("{name}-call-{n:02}"))
                .await;
        }
    }
    for (name, callback) in [("left", &left), ("right", &right)] {
        let record = callback
            .wait_for(|record| record.messages.len() >= 20 && record.methods.len() >= 20)
            .await;
        let got: BTreeSet<_> = record
            .messages
            .iter()
            .filter_map(|m| m.id.clone())
            .collect();
        let sent: BTreeSet<_> = (0..20).map(|n| format!("{name}-{n:02}")).collect();
        assert_eq!((got, record.messages.len()), (sent, 20));
        for n in 0..20 {
            let id = format!("{name}-call-{n:02}");
            assert_eq!(
                site.answer(&id).await,
                ("200".to_owned(), Bytes::from(id.clone()))
            );
        }
    }
    assert!(one.stats().handed_over + other.stats().handed_over > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_is_answered_in_the_place_of_a_device_that_cannot() {
    let Some(site) = Site::new().await else {
        return;
    };
    let mut config = site.config("gw").with_connections(1);
    config.commands.subscriptions = MqttSubscriptions::Wildcard;
    config.commands.method_timeout = Duration::from_millis(300);
    config.commands.per_device = 2;
    config.commands.patience = Duration::from_millis(50);
    let upstream = common::upstream(config);
    let quick = attach(&upstream, "quick", Interest::COMMANDS).await;
    let slow = attach(&upstream, "slow", Interest::COMMANDS).await;
    attach(&upstream, "deaf", MESSAGES).await;
    site.subscribed(&["devices/+/methods/+", "devices/+/commands"])
        .await;
    quick.reply_with(MethodReply::new(207, "{}"));
    slow.hold();
    site.call("quick", "reboot", "good").await;
    assert_eq!(
        site.answer("good").await,
        ("207".to_owned(), Bytes::from_static(b"{}"))
    );
    site.call("quick", "re boot", "bad").await;
    assert_eq!(site.answer("bad").await.0, "400");
    site.call("deaf", "reboot", "deaf").await;
    assert_eq!(site.answer("deaf").await.0, "404");
    for id in ["late-1", "late-2", "late-3"] {
        site.call("slow", "reboot", id).await;
    }
    assert_eq!(site.answer("late-3").await.0, "429");
    assert_eq!(site.answer("late-1").await.0, "504");
    assert_eq!(site.answer("late-2").await.0, "504");
    assert_eq!(upstream.stats().methods_late, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_connection_is_lost_runs_once_and_is_answered() {
    let Some(site) = Site::new().await else {
        return;
    };
    let upstream = common::upstream(site.config("gw"));
    let callback = attach(&upstream, "dev", Interest::COMMANDS).await;
    site.subscribed(&["devices/dev/methods/+"]).await;
    callback.hold();
    // Two that their caller cannot tell apart.
    for count in 1..=2 {
        site.call("dev", "reboot", "once").await;
        callback
            .wait_for(|record| record.methods.len() == count)
            .await;
    }
    site.proxy.cut();
    // The broker gives the requests again.
    site.proxy.wait(|state| state.given("once").0 == 4).await;
    callback.release();
    assert_eq!(site.answer("once").await.0, "200");
    let are_settled = |state: &proxy::State| {
        let given = state.given.iter().filter(|given| given.has("once"));
        given.filter(|given| given.acknowledged).count() == 2
    };
    site.proxy.wait(are_settled).await;
    assert_eq!(callback.record().methods.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_state_is_retained_with_a_last_will_behind_it() {
    let Some(site) = Site::new().await else {
        return;
    };
    let states = |name: &'static str, count: usize| {
        let cloud = &site.cloud;
        async move {
            let topic = format!("gateways/{name}/status");
            let of = |messages: &[Message]| -> Vec<String> {
                let messages = messages.iter().filter(|m| m.topic == topic);
                let states = messages.map(|m| {
                    let state: serde_json::Value = serde_json::from_slice(&m.payload).unwrap();
                    assert_eq!(state["instance"], name);
                    state["state"].as_str().unwrap().to_owned()
                });
                states.collect()
            };
            cloud.wait(|heard| of(&heard.messages).len() >= count).await;
            cloud.look(|heard| of(&heard.messages))
        }
    };
    let closed = common::upstream(site.config("closed"));
    attach(&closed, "a", Interest::NONE).await;
    assert_eq!(states("closed", 1).await, ["online"]);
    closed.close(Duration::from_secs(10)).await.expect("closed");
    assert_eq!(states("closed", 2).await, ["online", "offline"]);
    let lost = common::upstream(site.config("lost"));
    attach(&lost, "b", Interest::NONE).await;
    assert_eq!(states("lost", 1).await, ["online"]);
    drop(lost);
    assert_eq!(states("lost", 2).await, ["online", "offline"]);
    let late = site.watch("gateways/+/status").await;
    let retained = late.find(|m| m.topic == "gateways/closed/status").await;
    assert!(retained.retain && retained.payload.ends_with(b"\"offline\"}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_desired_properties_are_whole_and_old_ones_are_not_given_again() {
    let Some(site) = Site::new().await else {
        return;
    };
    let mut config = site.config("gw");
    config.topics.desired = "devices/{device_id}/desired".to_owned();
    let upstream = common::upstream(config);
    let desired = |version: u64, retain: bool| {
        let body = format!(r#"{{"interval":{version},"$version":{version}}}"#);
        let mut message = Message::new("devices/dev/desired", body);
        message.retain = retain;
        message
    };
    site.cloud.publish(desired(3, true)).await;
    // Else it may come after the subscription, and then it comes as a change.
    site.watch("devices/dev/desired").await.find(|_| true).await;
    let callback = attach(&upstream, "dev", Interest::NONE.with_desired(true)).await;
    callback.wait_for(|record| record.patches.len() == 1).await;
    for version in [3, 2, 4] {
        site.cloud.publish(desired(version, false)).await;
    }
    let record = callback.wait_for(|record| record.patches.len() >= 2).await;
    let patches = record
        .patches
        .iter()
        .map(|patch| (patch.version, patch.is_whole));
    assert_eq!(patches.collect::<Vec<_>>(), [(3, true), (4, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_messages_are_all_acknowledged_however_late_the_broker_takes_their_letters() {
    const COUNT: usize = 300;
    let lines = format!("{}max_inflight_messages 1000\n", common::OPEN);
    let Some(broker) = Mosquitto::start_with(&lines).await else {
        return;
    };
    let site = Site {
        proxy: Proxy::start(broker.port()).await,
        cloud: Cloud::start("cloud", broker.port(), true, None, &[], |_| vec![]).await,
        broker,
    };
    let mut config = site.config("gw").with_connections(1);
    // The proxy holds what looks like this.
    config.topics.dead_letters = "dead/{device_id}/telemetry".to_owned();
    // The broker is told that it may give more.
    config.commands.pending = COUNT / 3;
    let upstream = common::upstream(config);
    let callback = attach(&upstream, "dev", MESSAGES).await;
    site.subscribed(&["devices/dev/commands"]).await;
    callback.settle_next(vec![Disposition::Reject; COUNT]);
    site.proxy.hold();
    for n in 0..COUNT {
        site.command("dev", &format!("no-{n:03}")).await;
    }
    site.proxy.wait(|state| state.held() == COUNT).await;
    site.proxy.release();
    let is_settled = |state: &proxy::State| state.given.iter().all(|given| given.acknowledged);
    site.proxy.wait(is_settled).await;
    assert_eq!(upstream.stats().messages_refused, COUNT as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_for_which_the_broker_closes_connections_are_given_up_and_spare_the_others() {
    const NAMES: [&str; 4] = ["dev-0", "dev-1", "dev-2", "dev-3"];
    for subscriptions in [MqttSubscriptions::PerDevice, MqttSubscriptions::Wildcard] {
        let Some(site) = Site::new().await else {
            return;
        };
        site.proxy.deny("/dead", None);
        let mut config = site.config("gw").with_connections(2);
        config.commands.subscriptions = subscriptions;
        let upstream = common::upstream(config);
        for name in NAMES {
            let callback = attach(&upstream, name, Interest::COMMANDS).await;
            callback.settle_next(vec![Disposition::Reject; 1000]);
            let level = match subscriptions {
                MqttSubscriptions::Wildcard => "+",
                _ => name,
            };
            let filters = ["commands", "methods/+"].map(|of| format!("devices/{level}/{of}"));
            site.subscribed(&filters.each_ref().map(String::as_str))
                .await;
        }
        for name in NAMES {
            site.command(name, &format!("for-{name}")).await;
        }
        for name in NAMES {
            let id = format!("for-{name}");
            site.proxy.wait(|state| state.given(&id).1).await;
        }
        // The letters are what it closes for: nothing else is given up.
        let [called, ..] = NAMES;
        site.call(called, "ping", "good").await;
        assert_eq!(site.answer("good").await.0, "200");
        for name in NAMES {
            let message = common::uplink(&common::device(name), "m");
            while let Err(error) = upstream.send(&message).await {
                assert!(error.is_retryable(), "{error}");
                tokio::task::yield_now().await;
            }
        }
        // Three on each of the two. Letters that end with the first, which had their commands, do not
        // count against the second: as often, it is lost once more.
        let losses = upstream.stats().losses;
        assert!((3..=9).contains(&losses), "{losses}, {subscriptions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_the_broker_has_no_room_for_is_given_up_in_time() {
    let Some(site) = Site::new().await else {
        return;
    };
    // Quota exceeded.
    site.proxy.deny("/dead", Some(0x97));
    let mut config = site.config("gw");
    config.wire.answer_timeout = Duration::from_secs(1);
    let upstream = common::upstream(config);
    let callback = attach(&upstream, "dev", MESSAGES).await;
    site.subscribed(&["devices/dev/commands"]).await;
    callback.settle_next([Disposition::Reject]);
    site.command("dev", "unwanted").await;
    site.proxy.wait(|state| state.given("unwanted").1).await;
    assert_eq!(upstream.stats().losses, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_a_group_gave_one_gateway_is_not_lost_with_a_device_that_goes() {
    let Some(site) = Site::new().await else {
        return;
    };
    let mut config = site.config("gw");
    config.commands.group = Some("all".to_owned());
    config.commands.subscriptions = MqttSubscriptions::Wildcard;
    config.commands.keep = Duration::from_secs(1);
    let upstream = common::upstream(config);
    let callback = attach(&upstream, "dev", MESSAGES).await;
    site.subscribed(&["$share/all/devices/+/commands"]).await;
    callback.settle_next(vec![Disposition::Abandon; 1000]);
    site.command("dev", "mine-alone").await;
    callback
        .wait_for(|record| !record.messages.is_empty())
        .await;
    let gone = upstream.detach(&common::device("dev")).await;
    gone.expect("detached");
    let letter = site.cloud.find(|m| m.topic == "devices/dev/dead").await;
    assert_eq!(letter.payload, "mine-alone");
    site.proxy.wait(|state| state.given("mine-alone").1).await;
}
