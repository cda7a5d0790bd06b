//! What survives a restart of the simulator.

#[path = "support/mqtt.rs"]
mod mqtt;
mod support;
#[path = "support/http.rs"]
mod web;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fe2o3_amqp::sasl_profile::SaslProfile;
use hub_simulator::{C2d, HubSimulator, StartError, WhichKey};
use mqtt::{Device, Packet, Publish, QoS};
use serde_json::json;
use support::{Client, DataBody, bytes_of, soon, token};
use tokio::net::TcpSocket;
use tokio::task::{JoinSet, yield_now};
use web::Http;

#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn hub_in(directory: &Path) -> HubSimulator {
    HubSimulator::builder()
        .with_state(directory)
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn identities_keys_twins_and_queues_come_back_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let hub = hub_in(directory.path()).await;
    let keys = hub.add_device("kept");
    hub.add_devices(["gone", "disabled"]);
    hub.set_enabled("disabled", false);
    hub.remove_device("gone");
    hub.patch_desired("kept", &json!({ "rate": 5 })).unwrap();
    hub.send_c2d("kept", C2d::new("wait for me").with_message_id("m"))
        .unwrap();
    let (policy, ca) = (
        hub.policy_connection_string("iothubowner"),
        hub.ca_pem().map(str::to_owned),
    );
    drop(hub);

    let hub = hub_in(directory.path()).await;
    assert_eq!(hub.device_keys("kept"), Some(keys));
    assert_eq!(hub.device_keys("gone"), None);
    assert_eq!(hub.policy_connection_string("iothubowner"), policy);
    assert_eq!(hub.ca_pem(), ca.as_deref());
    assert_eq!(hub.twin("kept")["desired"]["rate"], 5);
    assert_eq!(hub.twin("kept")["desired"]["$version"], 2);
    let mut device = Client::connect_tls(&hub, SaslProfile::Anonymous).await;
    device
        .authorize(&hub.device_connection_string("kept"), "kept")
        .await;
    let mut receiver = device.receiver("/devices/kept/messages/devicebound").await;
    let delivery = soon(receiver.recv::<DataBody>()).await.unwrap();
    assert_eq!(bytes_of(&delivery.message().body), b"wait for me");
}

#[tokio::test]
async fn whatever_a_twin_takes_however_deep_comes_back_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let hub = hub_in(directory.path()).await;
    hub.add_device("deep");
    let nested = |objects, arrays| {
        let arrays = (0..arrays).fold(json!(1), |inner, _| json!([inner]));
        (0..objects).fold(arrays, |inner, _| json!({ "k": inner }))
    };
    for objects in 1..12 {
        for arrays in 0..126 {
            // What is too deep is refused.
            drop(hub.patch_desired("deep", &nested(objects, arrays)));
            let apart = json!({ format!("{objects}-{arrays}"): nested(objects - 1, arrays) });
            drop(hub.patch_desired("deep", &apart));
        }
    }
    let before = hub.twin("deep");
    hub.stop().await.unwrap();
    let hub = hub_in(directory.path()).await;
    assert_eq!(hub.twin("deep"), before);
}

#[tokio::test]
async fn a_policys_revoked_key_stays_revoked_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let hub = hub_in(directory.path()).await;
    let revoked = hub.policy_connection_string("service");
    let keys = hub.regenerate_policy_key("service", WhichKey::Primary);
    drop(hub);

    let hub = hub_in(directory.path()).await;
    assert_eq!(hub.policy_keys("service"), keys);
    assert_ne!(hub.policy_connection_string("service"), revoked);
}

#[tokio::test]
async fn what_changes_is_stored_without_being_asked() {
    let directory = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let hub = hub_in(directory.path()).await;
    let keys = hub.add_device("dev1");
    // As after a power cut: a copy of the database, taken while the hub runs.
    let stored = async {
        loop {
            // The store's task has its turn.
            tokio::task::yield_now().await;
            let from = directory.path().join("hub.redb");
            std::fs::copy(from, copy.path().join("hub.redb")).unwrap();
            let restarted = HubSimulator::builder().with_state(copy.path());
            // A copy may catch the file in the middle of a commit.
            let Ok(hub) = restarted.start().await else {
                continue;
            };
            if let Some(found) = hub.device_keys("dev1") {
                break found;
            }
        }
    };
    assert_eq!(soon(stored).await, keys);
}

#[tokio::test]
async fn a_directory_in_use_is_refused_with_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let _first = hub_in(directory.path()).await;
    let second = HubSimulator::builder()
        .with_state(directory.path())
        .start()
        .await;
    let error = second.unwrap_err();
    assert!(matches!(error, StartError::Store(_)));
    assert!(error.to_string().contains("another simulator"), "{error}");
}

/// Reports one thing after the other until the hub is gone; `told` is the version that it told last.
#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn report(mut device: Device, told: Arc<AtomicU64>) {
    device
        .subscribe("$iothub/twin/res/#", QoS::AtMostOnce)
        .await;
    for number in 1.. {
        let topic = format!("$iothub/twin/PATCH/properties/reported/?$rid={number}");
        let body = json!({ "number": number }).to_string();
        let report = Publish::new(topic, QoS::AtMostOnce, body);
        if device
            .wire
            .try_send(&Packet::Publish(report))
            .await
            .is_err()
        {
            return;
        }
        let Some(Packet::Publish(answer)) = device.wire.next().await else {
            return;
        };
        let (_, version) = answer.topic.split_once("$version=").unwrap();
        told.store(version.parse().unwrap(), Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_device_was_told_is_stored_when_the_hub_stops_or_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let builder = HubSimulator::builder().with_tls(false);
        builder.with_state(directory.path()).start().await.unwrap()
    };
    for round in 0..40 {
        let hub = start().await;
        let told = Arc::new(AtomicU64::new(0));
        let device = Device::connect(&hub, "d").await;
        let mut reporting = JoinSet::new();
        reporting.spawn(report(device, Arc::clone(&told)));
        // Somewhere within a report, and within the store's intervals.
        let some = async {
            let first = loop {
                match told.load(Ordering::SeqCst) {
                    0 => tokio::task::yield_now().await,
                    first => break first,
                }
            };
            while told.load(Ordering::SeqCst) < first + round * 7 {
                tokio::task::yield_now().await;
            }
        };
        soon(some).await;
        if round % 2 == 0 {
            drop(hub);
        } else {
            hub.stop().await.unwrap();
        }
        soon(reporting.join_next()).await.unwrap().unwrap();
        let hub = start().await;
        let (told, stored) = (told.load(Ordering::SeqCst), hub.reported("d"));
        assert!(stored["$version"].as_u64() >= Some(told), "{told} {stored}");
        hub.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_hub_that_stops_stores_those_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let [one, two] = ["one.test", "two.test"].map(|host| {
            let builder = HubSimulator::builder().with_tls(false).with_host(host);
            builder.with_state(directory.path().join(host))
        });
        let one = one.start().await.unwrap();
        let two = two.beside(&one).start().await.unwrap();
        (one, two)
    };
    let (one, two) = start().await;
    let keys = two.add_device("d");
    let mut device = Device::connect(&two, "d").await;
    one.stop().await.unwrap();
    device.closed().await;
    drop(two);
    let (_one, two) = start().await;
    assert_eq!(two.device_keys("d"), Some(keys));
}

/// Removes the device `d` as soon as its hub is there.
async fn remove(address: SocketAddr, host: &'static str, token: String) {
    let reach = || async {
        let socket = TcpSocket::new_v4().expect("a socket");
        // From another address: a connection must not meet itself on the port that the hub takes.
        socket
            .bind(([127, 0, 0, 2], 0).into())
            .expect("an address of this machine");
        socket.connect(address).await
    };
    while reach().await.is_err() {
        yield_now().await;
    }
    let mut http = Http::connect_to(address, host).await;
    let headers = [&*format!("Authorization: {token}"), "If-Match: *"];
    while http.ask("DELETE", "/devices/d", &headers, b"").await.status != 204 {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_that_is_removed_while_its_hub_starts_stays_gone() {
    let directory = tempfile::tempdir().unwrap();
    let stored = |host: &str| {
        let builder = HubSimulator::builder().with_tls(false).with_host(host);
        builder.with_state(directory.path().join(host))
    };
    let (one, two) = ("one.test", "two.test");
    let mut first = stored(one).start().await.unwrap();
    let address = first.https_addr();
    for _ in 0..20 {
        let second = stored(two).beside(&first).start().await.unwrap();
        let tokens = [&first, &second].map(|hub| {
            hub.add_device("d");
            token(&hub.policy_connection_string("iothubowner"))
        });
        let [of_first, of_second] = tokens;
        first.stop().await.unwrap();
        drop(second);

        let mut removing = JoinSet::new();
        removing.spawn(remove(address, one, of_first));
        let builder = stored(one).with_https_address(address);
        first = builder.start().await.unwrap();
        removing.spawn(remove(address, two, of_second));
        let second = stored(two).beside(&first).start().await.unwrap();
        soon(removing.join_all()).await;
        first.stop().await.unwrap();
        drop(second);

        let builder = stored(one).with_https_address(address);
        first = builder.start().await.unwrap();
        let second = stored(two).beside(&first).start().await.unwrap();
        let found = [&first, &second].map(|hub| hub.device_keys("d"));
        assert_eq!(found, [None, None]);
    }
}
