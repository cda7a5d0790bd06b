//! Brokers that refuse, stay silent or leave: a typed error in its time, a wait, and no hot loop.

#[path = "common/broker.rs"]
mod broker;
#[path = "common/cloud.rs"]
mod cloud;
#[path = "common/pooled.rs"]
mod common;
#[path = "common/proxy.rs"]
mod proxy;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use gateway_core::credential::{SasToken, Secret, SymmetricKey};
use gateway_core::testkit::RecordingCallback;
use gateway_core::{
    Backoff, CloudCallback, CloudMessage, Credential, DesiredPatch, DeviceIdentity, Disposition,
    ErrorKind, Interest, MethodCall, MethodReply, Properties, SessionEnd, Upstream,
};
use gateway_upstream_mqtt::{MqttPoolConfig, MqttVersion};
use tokio::net::TcpListener;
use tokio::time::timeout;

use broker::Mosquitto;
use cloud::{Cloud, Message};
use proxy::Proxy;

const LEAST: Duration = Duration::from_millis(40);

/// One connection, and a wait whose doubling can be seen.
fn config(port: u16, version: MqttVersion) -> MqttPoolConfig {
    let backoff = Backoff::new(LEAST, Duration::from_secs(10)).expect("a backoff");
    common::config(port, "gw")
        .with_version(version)
        .with_connections(1)
        .with_reconnect(backoff)
}

async fn attach(upstream: &dyn Upstream, name: &str) -> Result<(), gateway_core::UpstreamError> {
    let callback = RecordingCallback::new().shared();
    upstream.attach(common::identity(name), callback).await
}

/// Sees that the waits between connections double. A slow machine only makes them longer.
async fn expect_backoff(proxy: &Proxy) {
    proxy.wait(|state| state.connects.len() >= 5).await;
    let connects = proxy.look(|state| state.connects.clone());
    for (n, pair) in connects.windows(2).take(4).enumerate() {
        let gap = pair[1] - pair[0];
        let least = LEAST * (1 << n) / 2;
        assert!(gap >= least, "try {} came after {gap:?}", n + 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_unauthorized_and_tried_ever_more_rarely() {
    for version in common::BOTH {
        let Some(broker) = Mosquitto::start_with("allow_anonymous false\n").await else {
            return;
        };
        let proxy = Proxy::start(broker.port()).await;
        let config = config(proxy.port(), version);
        let upstream = common::upstream(config.with_login("gateway", Secret::new("wrong")));
        let refused = attach(&*upstream, "dev").await;
        assert_eq!(
            common::kind(refused),
            ErrorKind::Unauthorized,
            "{version:?}"
        );
        // Asking again asks the broker no sooner.
        for _ in 0..20 {
            let refused = common::kind(attach(&*upstream, "dev").await);
            assert_eq!(refused, ErrorKind::Unauthorized, "{version:?}");
        }
        expect_backoff(&proxy).await;
        assert_eq!(upstream.stats().devices, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_presents_a_token_is_refused_and_changes_nothing_for_one_of_its_name() {
    let Some(broker) = Mosquitto::start_with(common::OPEN).await else {
        return;
    };
    let cloud = Cloud::start("cloud", broker.port(), true, None, &[], |_| vec![]).await;
    let upstream = common::upstream(config(broker.port(), MqttVersion::V5));
    let (ours, strangers) = (RecordingCallback::new(), RecordingCallback::new());
    let vouched = common::identity("dev").with_interest(Interest::COMMANDS);
    upstream.attach(vouched, ours.shared()).await.unwrap();
    let key = SymmetricKey::from_base64("bWFkZSB1cA==").unwrap();
    let expires = SystemTime::now() + Duration::from_secs(3600);
    let made_up = SasToken::sign("localhost/devices/dev", &key, expires);
    let token = Credential::SasToken(made_up);
    for name in ["dev", "other"] {
        let stranger = DeviceIdentity::new(common::device(name), token.clone());
        let refused = upstream.attach(stranger, strangers.shared()).await;
        assert_eq!(common::kind(refused), ErrorKind::Unauthorized);
    }
    assert_eq!(upstream.stats().devices, 1);
    while upstream.stats().subscriptions < 2 {
        tokio::task::yield_now().await;
    }
    cloud
        .publish(Message::new("devices/dev/commands", "for dev"))
        .await;
    ours.wait_for(|record| record.messages.len() == 1).await;
    assert!(strangers.record().messages.is_empty() && ours.record().ends.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_closes_at_once_is_tried_ever_more_rarely() {
    for version in common::BOTH {
        let Some(broker) = Mosquitto::start_with(common::OPEN).await else {
            return;
        };
        let proxy = Proxy::start(broker.port()).await;
        proxy.close_at_once();
        let upstream = common::upstream(config(proxy.port(), version));
        // It may see the connection in the moment that it is there.
        match attach(&*upstream, "dev").await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Disconnected),
        }
        expect_backoff(&proxy).await;
        let sent = upstream
            .send(&common::uplink(&common::device("dev"), "m"))
            .await;
        let sent = common::kind(sent);
        assert!(
            matches!(sent, ErrorKind::Disconnected | ErrorKind::UnknownDevice),
            "{sent}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_never_acknowledges_times_out_and_is_left() {
    for version in common::BOTH {
        let Some(broker) = Mosquitto::start_with(common::OPEN).await else {
            return;
        };
        let proxy = Proxy::start(broker.port()).await;
        let mut config = config(proxy.port(), version);
        config.wire.answer_timeout = Duration::from_millis(300);
        // Nothing of the gateway's own waits.
        config.topics.status = String::new();
        let upstream = common::upstream(config);
        attach(&*upstream, "dev").await.unwrap();
        proxy.mute();
        let sent = upstream
            .send(&common::uplink(&common::device("dev"), "m"))
            .await;
        let kind = common::kind(sent);
        assert!(
            matches!(kind, ErrorKind::TimedOut | ErrorKind::Disconnected),
            "{kind}"
        );
        proxy.wait(|state| state.connects.len() >= 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_says_nothing_or_is_not_there_fails_an_attach_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(silent.local_addr().unwrap().port(), MqttVersion::V5);
    config.wire.connect_timeout = Duration::from_millis(200);
    let upstream = common::upstream(config.clone());
    let result = timeout(Duration::from_secs(30), attach(&*upstream, "dev")).await;
    let error = result.expect("within its time").unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let port = {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap().port()
    };
    let upstream = common::upstream(config.with_address("127.0.0.1", port));
    let refused = attach(&*upstream, "dev").await;
    assert_eq!(common::kind(refused), ErrorKind::Disconnected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_the_broker_refuses_is_told_where_the_version_can() {
    for version in common::BOTH {
        let files = tempfile::tempdir().unwrap();
        let acl = files.path().join("acl");
        let rules = "topic readwrite devices/good/#\ntopic readwrite gateways/#\ntopic read #\n";
        std::fs::write(&acl, rules).unwrap();
        let lines = format!("{}acl_file {}\n", common::OPEN, acl.display());
        let Some(broker) = Mosquitto::start_with(&lines).await else {
            return;
        };
        let is_new = version == MqttVersion::V5;
        let filters = ["devices/+/telemetry"];
        let cloud = Cloud::start("cloud", broker.port(), is_new, None, &filters, |_| vec![]).await;
        let upstream = common::upstream(config(broker.port(), version));
        for name in ["good", "bad"] {
            attach(&*upstream, name).await.unwrap();
        }
        let bad = upstream
            .send(&common::uplink(&common::device("bad"), "bad-1"))
            .await;
        match version {
            MqttVersion::V5 => assert_eq!(common::kind(bad), ErrorKind::Unauthorized),
            // Mosquitto acknowledges and drops: the version has no other word.
            _ => bad.unwrap(),
        }
        let good = upstream
            .send(&common::uplink(&common::device("good"), "good-1"))
            .await;
        good.unwrap();
        cloud.wait(|heard| !heard.messages.is_empty()).await;
        let topics = cloud.look(|heard| {
            let topics = heard.messages.iter().map(|message| message.topic.clone());
            topics.collect::<Vec<_>>()
        });
        assert_eq!(topics, ["devices/good/telemetry"]);
        assert_eq!(upstream.stats().losses, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_would_choke_on_harms_only_itself() {
    for version in common::BOTH {
        let lines = format!("{}max_packet_size 20000\n", common::OPEN);
        let Some(broker) = Mosquitto::start_with(&lines).await else {
            return;
        };
        let mut config = config(broker.port(), version);
        if version != MqttVersion::V5 {
            // It cannot say so itself.
            config.wire.max_packet = 20_000;
        }
        let upstream = common::upstream(config);
        attach(&*upstream, "dev").await.unwrap();
        let device = common::device("dev");
        let mut large = common::uplink(&device, "large");
        large.body = vec![b'x'; 30_000].into();
        assert_eq!(
            common::kind(upstream.send(&large).await),
            ErrorKind::TooLarge
        );
        let batch = [common::uplink(&device, "beside"), large];
        assert_eq!(
            common::kind(upstream.send_batch(&batch).await),
            ErrorKind::TooLarge
        );
        if version == MqttVersion::V5 {
            for foul in ["a\nb", "a\0b", "\u{ffff}"] {
                let properties: Properties = [("name", foul)].into_iter().collect();
                let foul = common::uplink(&device, "foul").with_properties(properties);
                assert_eq!(
                    common::kind(upstream.send(&foul).await),
                    ErrorKind::Rejected
                );
            }
        }
        upstream
            .send(&common::uplink(&device, "good"))
            .await
            .unwrap();
        assert_eq!(upstream.stats().losses, 0, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_says_what_stands_in_the_way() {
    let Some(mut broker) = Mosquitto::start_with(common::OPEN).await else {
        return;
    };
    let upstream = common::upstream(config(broker.port(), MqttVersion::V5));
    attach(&*upstream, "dev").await.unwrap();
    let device = common::device("dev");
    let explanation = upstream.explain(&device).unwrap();
    assert_eq!(explanation.connection, Some(1));
    assert_eq!(explanation.links.len(), 1);
    assert_eq!(explanation.last_error, None);
    assert_eq!(upstream.explain(&common::device("other")), None);
    broker.kill();
    let lost = async {
        loop {
            let sent = upstream.send(&common::uplink(&device, "m")).await;
            if let Err(error) = sent {
                return error.kind();
            }
        }
    };
    assert_eq!(lost.await, ErrorKind::Disconnected);
    let explanation = upstream.explain(&device).unwrap();
    let kind = explanation.last_error.map(|error| error.kind);
    assert_eq!(kind, Some(ErrorKind::Disconnected));
}

/// Has no verdict on anything.
#[derive(Debug)]
struct Panics;

#[async_trait]
impl CloudCallback for Panics {
    async fn on_method(&self, _: MethodCall) -> MethodReply {
        panic!("as a test wants it")
    }
    async fn on_message(&self, _: CloudMessage) -> Disposition {
        panic!("as a test wants it")
    }
    async fn on_desired(&self, _: DesiredPatch) -> Disposition {
        panic!("as a test wants it")
    }
    async fn on_end(&self, _: SessionEnd) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_panics_deafens_no_other_device_on_its_connection() {
    let Some(broker) = Mosquitto::start_with(common::OPEN).await else {
        return;
    };
    let filters = ["cloud/answers"];
    let cloud = Cloud::start("cloud", broker.port(), true, None, &filters, |_| vec![]).await;
    let upstream = common::upstream(config(broker.port(), MqttVersion::V5));
    let good = RecordingCallback::new();
    let callbacks: [(_, Arc<dyn CloudCallback>); 2] =
        [("bad", Arc::new(Panics)), ("good", good.shared())];
    for (name, callback) in callbacks {
        let identity = common::identity(name).with_interest(Interest::COMMANDS);
        upstream.attach(identity, callback).await.unwrap();
    }
    while upstream.stats().subscriptions < 4 {
        tokio::task::yield_now().await;
    }
    let mut call = Message::new("devices/bad/methods/reboot", "");
    call.response_topic = Some("cloud/answers".to_owned());
    cloud.publish(call).await;
    let answer = cloud.find(|message| message.topic == "cloud/answers").await;
    assert_eq!(answer.user("$status"), Some("500"));
    // As many as the broker gives out unacknowledged.
    for n in 0..20 {
        let message = Message::new("devices/bad/commands", format!("bad-{n}"));
        cloud.publish(message).await;
    }
    cloud
        .publish(Message::new("devices/good/commands", "good"))
        .await;
    let came = good.wait_for(|record| record.messages.len() == 1);
    let came = timeout(Duration::from_secs(30), came).await;
    came.expect("the broker gives out more");
    assert_eq!(upstream.stats().losses, 0);
}
