//! A broker that is killed in mid-run and started again: nothing acknowledged is lost.

#[path = "common/broker.rs"]
mod broker;
#[path = "common/cloud.rs"]
mod cloud;
#[path = "common/pooled.rs"]
mod common;
#[path = "common/proxy.rs"]
mod proxy;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use gateway_core::Upstream;
use gateway_core::testkit::RecordingCallback;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use broker::Mosquitto;
use cloud::{Cloud, Message};
use proxy::Proxy;

/// Set it to 100000 for the whole run.
const MESSAGES: &str = "MQTT_RESTART_MESSAGES";
const DEVICES: usize = 100;
const KILLS: usize = 3;

/// Mosquitto acknowledges before it writes to disk, so a kill at any moment tests its disk, not the
/// gateway. Here each kill comes when it has delivered all that it acknowledged, with messages on
/// their way to it and acknowledgements on their way back: both are lost with it.
#[tokio::test(flavor = "multi_thread")]
async fn killing_the_broker_loses_nothing_that_was_acknowledged() {
    let count = std::env::var(MESSAGES)
        .ok()
        .map(|text| text.parse().expect("a number"));
    let per_device = count.unwrap_or(5_000_usize) / DEVICES;
    let lines = format!(
        "{}max_inflight_messages 0\npersistence true\npersistence_location {{dir}}/\nautosave_interval 0\n",
        common::OPEN
    );
    let Some(mut broker) = Mosquitto::start_with(&lines).await else {
        return;
    };
    let filters = ["devices/+/telemetry"];
    let cloud = Cloud::start("cloud", broker.port(), true, None, &filters, |_| vec![]).await;
    // The cloud's session outlives the broker.
    broker.save().await;
    let proxy = Proxy::start(broker.port()).await;
    let upstream = common::upstream(common::config(proxy.port(), "gw").with_connections(8));
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let kills = Arc::new(AtomicUsize::new(0));
    let mut devices = JoinSet::new();
    for n in 0..DEVICES {
        let identity = common::identity(&format!("dev-{n:03}"));
        let device = identity.device.clone();
        let callback = RecordingCallback::new().shared();
        upstream.attach(identity, callback).await.expect("attached");
        let (upstream, acknowledged) = (upstream.clone(), acknowledged.clone());
        let kills = kills.clone();
        devices.spawn(async move {
            let mut sent = 0;
            // On until all kills were: each finds messages on their way.
            while sent < per_device || kills.load(Relaxed) < KILLS {
                let message = common::uplink(&device, format!("{sent:06}"));
                while let Err(error) = upstream.send(&message).await {
                    assert!(error.is_retryable(), "{error}");
                    sleep(Duration::from_millis(20)).await;
                }
                acknowledged.fetch_add(1, Relaxed);
                sent += 1;
            }
            (format!("devices/{device}/telemetry"), sent)
        });
    }
    for kill in 1..=KILLS {
        let due = kill * per_device * DEVICES / (KILLS + 1);
        let reached = async {
            while acknowledged.load(Relaxed) < due {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let reached = timeout(Duration::from_secs(120), reached).await;
        reached.expect("devices send on");
        // Accepted, and the gateway never hears of it.
        proxy.lose_acks(DEVICES / 10);
        proxy.wait(|state| state.acks_left() == 0).await;
        proxy.hold();
        proxy
            .wait(|state| state.held() >= DEVICES / 4 && state.unanswered() == state.held())
            .await;
        let accepted = proxy.look(|state| state.accepted);
        cloud.wait(|heard| heard.messages.len() >= accepted).await;
        broker.kill();
        proxy.cut();
        proxy.release();
        broker.restart().await;
        kills.store(kill, Relaxed);
    }
    let sent: HashMap<String, usize> = devices.join_all().await.into_iter().collect();
    let total: usize = sent.values().sum();
    let accepted = proxy.look(|state| state.accepted);
    cloud.wait(|heard| heard.messages.len() >= accepted).await;
    let messages: Vec<Message> = cloud.look(|heard| heard.messages.clone());
    let duplicates = messages.len() - total;
    let mut next: HashMap<String, usize> = HashMap::new();
    for message in messages {
        let number: usize = message
            .user("$message_id")
            .expect("an id")
            .parse()
            .expect("a number");
        let expected = next.entry(message.topic.clone()).or_default();
        // Again is at least once; ahead would be a loss.
        assert!(number <= *expected, "{} came after {expected}", number);
        *expected = (*expected).max(number + 1);
    }
    assert_eq!(next, sent, "each device's messages came, up to the last");
    assert!(
        duplicates >= KILLS,
        "acknowledgements were lost, so messages came twice"
    );
    println!("{total} messages, {KILLS} kills, {duplicates} came twice, none was lost");
}
