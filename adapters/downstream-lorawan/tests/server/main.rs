//! The network server between simulated concentrators and a hub in memory, on real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod conformance;
mod device;
mod forwarder;
mod pamoja;
mod station;
mod store;
#[path = "../support/mod.rs"]
mod support;

use std::convert::{Infallible, identity};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{
    CloudMessage, DeviceId, Disposition, Gateway, Interest, MethodCall, MethodName,
};
use gateway_downstream_lorawan::embed::ProfileConfig;
use gateway_downstream_lorawan::event::DevEui;
use gateway_downstream_lorawan::proto::Eui64;
use gateway_downstream_lorawan::proto::mac::RegionName;
use gateway_downstream_lorawan::schedule::Class;
use gateway_downstream_lorawan::server::{
    BindError, ConcentratorConfig, DeviceConfig, EmbeddedStore, ForwarderConfig, LorawanServer,
    ServerConfig, SessionStore, StationConfig, StoreError,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use device::{Device, join_request, otaa};
use forwarder::Forwarder;
use station::Station;
use store::Gate;

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
const OTAA: DevEui = DevEui::new([9; 8]);

/// A gateway with a network server.
struct Network {
    hub: MemoryUpstream,
    forwarders: SocketAddr,
    stations: SocketAddr,
    stop: CancellationToken,
    run: JoinSet<()>,
    /// Where its store is, unless somebody else keeps that.
    folder: Option<TempDir>,
}

/// Concentrators 1 to 3, and devices whose commands go to port 5; windows so late that no machine
/// misses one.
fn config(devices: Vec<DeviceConfig>) -> ServerConfig {
    let mut config = ServerConfig::new(RegionName::Eu868);
    let mut forwarders = ForwarderConfig::default();
    forwarders.listen = "127.0.0.1:0".parse().unwrap();
    config.forwarders = Some(forwarders);
    let mut stations = StationConfig::default();
    stations.listen = "127.0.0.1:0".parse().unwrap();
    stations.radios = vec![json!({})];
    config.stations = Some(stations);
    let concentrators = [1, 2, 3].map(|eui| ConcentratorConfig::new(Eui64::new(eui)));
    config.concentrators = concentrators.into();
    config.timing.rx_delay = 15;
    config.downstream.window = Duration::from_secs(15);
    config.downstream.reports.joins = false;
    for (name, class) in [("a", Class::A), ("c", Class::C)] {
        let mut profile = ProfileConfig::default();
        profile.class = class;
        profile.port = Some(5);
        config.profiles.insert(name.to_owned(), profile);
    }
    config.devices = devices;
    for device in &mut config.devices {
        device.profile.get_or_insert("a".to_owned());
    }
    config
}

fn class_c(mut device: DeviceConfig) -> DeviceConfig {
    device.profile = Some("c".to_owned());
    device
}

impl Network {
    async fn start(config: ServerConfig, folder: &TempDir) -> Self {
        let store = EmbeddedStore::open(folder.path().join("sessions")).await;
        Self::start_with(config, store.unwrap()).await
    }

    async fn start_with(config: ServerConfig, store: impl SessionStore) -> Self {
        let server = LorawanServer::builder(config).with_store(store);
        let server = server.bind().await.unwrap();
        let (forwarders, stations) = (server.forwarder_address(), server.station_address());
        let hub = MemoryUpstream::new();
        let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
        let policy = SharedAccessPolicy::new("device", key);
        let gateway = Gateway::builder(hub.clone())
            .with_credentials(HubPolicyCredentials::new(policy))
            .with_downstream("lorawan", server)
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let mut run = JoinSet::new();
        let stopped = stop.clone();
        run.spawn(async move {
            gateway.run(stopped).await.unwrap();
        });
        Self {
            hub,
            forwarders: forwarders.unwrap(),
            stations: stations.unwrap(),
            stop,
            run,
            folder: None,
        }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.run.join_next().await {
            ended.unwrap();
        }
    }

    async fn concentrator(&self, eui: u64) -> Forwarder {
        Forwarder::connect(eui, self.forwarders).await
    }

    /// Waits until the hub has a device's commands fetched.
    async fn listens(&self, device: &Device) {
        let device = name(device.dev_eui);
        self.hub.wait_listening(&device, Interest::COMMANDS).await;
    }

    /// The payloads of the first messages that the hub has, once there are so many.
    async fn data(&self, count: usize) -> Vec<Value> {
        let accepted = self.hub.wait_accepted(count).await;
        let data = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["data"].clone();
        accepted.iter().map(|message| data(&message.body)).collect()
    }
}

/// A network, a concentrator of it, and a device that it has heard and that listens since then.
async fn awake(treated: fn(DeviceConfig) -> DeviceConfig) -> (Network, Forwarder, Device) {
    let (folder, mut device) = (folder(), Device::abp(1));
    let config = config(vec![treated(device.config())]);
    let mut network = Network::start(config, &folder).await;
    network.folder = Some(folder);
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    (network, concentrator, device)
}

fn name(dev_eui: DevEui) -> DeviceId {
    DeviceId::new(dev_eui.to_string()).unwrap()
}

fn message(device: &Device, body: &'static str) -> CloudMessage {
    CloudMessage::new(name(device.dev_eui), body, Instant::now() + LONG)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn the_same_uplink_by_three_concentrators_is_one_message() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let mut concentrators = Vec::new();
    for eui in 1..=3 {
        concentrators.push(network.concentrator(eui).await);
    }
    let frame = device.uplink(b"1");
    for (concentrator, snr) in concentrators.iter().zip([-3.0, 7.5, 2.0]) {
        concentrator.push(&frame, snr).await;
    }
    network.data(1).await;
    concentrators[0].hear(&device.uplink(b"2")).await;
    assert_eq!(network.data(2).await, ["MQ==", "Mg=="]);
}

#[tokio::test]
async fn a_command_for_a_sleeper_goes_in_its_window_and_completes_with_the_radios_result() {
    let (network, concentrator, mut device) = awake(identity).await;
    let command = message(&device, "on");
    let radio = async {
        let asked = concentrator.asked().await;
        assert_eq!(asked.txpk["tmst"], 16_000_000);
        assert_eq!(asked.txpk["freq"], 868.1);
        let read = device.read(&asked.frame());
        assert_eq!((read.port, &read.payload[..]), (Some(5), &b"on"[..]));
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn a_frame_that_is_too_late_for_one_window_goes_in_the_other() {
    let (network, concentrator, device) = awake(identity).await;
    let command = message(&device, "on");
    let radio = async {
        let first = concentrator.asked().await;
        concentrator.acknowledge(&first, "TOO_LATE").await;
        let second = concentrator.asked().await;
        assert_eq!(second.txpk["tmst"], 17_000_000);
        assert_eq!(second.txpk["freq"], 869.525);
        assert_eq!(first.frame(), second.frame());
        concentrator.acknowledge(&second, "NONE").await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn a_command_that_the_device_is_to_confirm_completes_when_it_has() {
    let (network, concentrator, mut device) = awake(class_c).await;
    let mut command = message(&device, "on");
    command.properties.insert("lorawan-confirmed", "true");
    let radio = async {
        let asked = concentrator.asked().await;
        assert_eq!(
            asked.txpk["imme"], true,
            "a device of class C is sent it at once"
        );
        device.read(&asked.frame());
        concentrator.acknowledge(&asked, "NONE").await;
        concentrator.hear(&device.acknowledging(b"2")).await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

/// What becomes of a command that a sleeper is to confirm, by what it says next.
async fn confirmed_then(next: fn(&mut Device) -> Vec<u8>) -> Option<Disposition> {
    let (network, concentrator, mut device) = awake(identity).await;
    let mut command = message(&device, "on");
    command.properties.insert("lorawan-confirmed", "true");
    let radio = async {
        let asked = concentrator.asked().await;
        device.read(&asked.frame());
        concentrator.acknowledge(&asked, "NONE").await;
        concentrator.hear(&next(&mut device)).await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    settled
}

#[tokio::test]
async fn a_sleepers_next_uplink_says_whether_it_has_the_command() {
    let acknowledged = confirmed_then(|device| device.acknowledging(b"2")).await;
    assert_eq!(acknowledged, Some(Disposition::Complete));
    let unheard = confirmed_then(|device| device.uplink(b"2")).await;
    assert_eq!(unheard, Some(Disposition::Abandon));
}

#[tokio::test]
async fn what_is_heard_while_the_hub_is_away_arrives_later_and_in_order() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let concentrator = network.concentrator(1).await;
    network.hub.set_down(true);
    for payload in [b"1", b"2", b"3"] {
        concentrator.hear(&device.uplink(payload)).await;
    }
    network.hub.set_down(false);
    assert_eq!(network.data(3).await, ["MQ==", "Mg==", "Mw=="]);
}

#[tokio::test]
async fn a_concentrator_that_takes_no_downlinks_leaves_the_answer_to_another() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.hold = Duration::from_millis(500);
    let network = Network::start(config, &folder).await;
    let deaf = Forwarder::open(1, network.forwarders).await;
    let concentrator = network.concentrator(2).await;
    let name = name(device.dev_eui);
    let command = message(&device, "on");
    let radio = async {
        loop {
            // Both copies come together unless the machine sleeps between them.
            let frame = device.uplink(b"1");
            deaf.push(&frame, 9.0).await;
            concentrator.push(&frame, 1.0).await;
            if let Ok(asked) = timeout(Duration::from_secs(5), concentrator.asked()).await {
                return concentrator.acknowledge(&asked, "NONE").await;
            }
        }
    };
    let sending = async {
        network.hub.wait_listening(&name, Interest::COMMANDS).await;
        network.hub.send_message(command).await
    };
    let (settled, ()) = tokio::join!(sending, radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn a_method_is_answered_with_what_the_radio_did() {
    let (network, concentrator, mut device) = awake(class_c).await;
    let call = MethodCall::new(
        name(device.dev_eui),
        gateway_core::CorrelationId::new("call").unwrap(),
        MethodName::new("send_downlink").unwrap(),
        r#"{"data":"AQI="}"#,
        Instant::now() + LONG,
    );
    let radio = async {
        let asked = concentrator.asked().await;
        assert_eq!(device.read(&asked.frame()).payload, [1, 2]);
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let (reply, ()) = tokio::join!(network.hub.call_method(call), radio);
    assert_eq!(reply.unwrap().status, 200);
}

#[tokio::test]
async fn an_uplink_that_wants_an_acknowledgement_gets_one_without_a_command() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.rx_delay = 2;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    let frame = device.confirmed(b"1");
    // A device says it again if it hears nothing, as on a machine that sleeps through a window.
    let answer = async {
        let asked = concentrator.asked().await;
        device.read(&asked.frame())
    };
    let read = tokio::select! {
        read = answer => read,
        never = says(&concentrator, &frame) => match never {},
    };
    assert!(read.ack);
    assert_eq!(network.data(1).await, ["MQ=="]);
}

/// A device that says a frame until it is answered, as one does that wants an acknowledgement.
async fn says(concentrator: &Forwarder, frame: &[u8]) -> Infallible {
    loop {
        concentrator.push(frame, 5.0).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

#[tokio::test]
async fn an_uplink_is_acknowledged_only_when_the_hub_has_it() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.rx_delay = 2;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    network.hub.hold();
    let frame = device.confirmed(b"1");
    concentrator.push(&frame, 5.0).await;
    network.hub.wait_held(1).await;
    // Both windows pass.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!concentrator.has_been_asked());
    network.hub.release();
    network.data(1).await;
    let asked = tokio::select! {
        asked = concentrator.asked() => asked,
        never = says(&concentrator, &frame) => match never {},
    };
    assert!(device.read(&asked.frame()).ack);
    assert_eq!(network.hub.accepted().len(), 1, "it was said once");
}

#[tokio::test]
async fn a_command_waits_for_the_hubs_word_and_goes_in_the_frame_that_acknowledges() {
    let (network, concentrator, mut device) = awake(identity).await;
    network.hub.hold();
    concentrator.hear(&device.confirmed(b"2")).await;
    network.hub.wait_held(1).await;
    let command = message(&device, "on");
    let radio = async {
        // Long enough for a command that does not wait.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!concentrator.has_been_asked());
        network.hub.release();
        let asked = concentrator.asked().await;
        let read = device.read(&asked.frame());
        assert!(read.ack);
        assert_eq!(read.payload, b"on");
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn an_uplink_that_no_hub_had_before_a_restart_arrives_when_it_is_repeated() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let concentrator = network.concentrator(1).await;
    network.hub.hold();
    let frame = device.confirmed(b"1");
    concentrator.hear(&frame).await;
    network.hub.wait_held(1).await;
    drop(network);
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&frame).await;
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn what_there_is_no_room_for_is_not_acknowledged_and_arrives_when_it_is_said_again() {
    let (folder, mut one, mut other) = (folder(), Device::abp(1), Device::abp(2));
    let mut config = config(vec![one.config(), other.config()]);
    config.limits.uplinks = 1;
    config.timing.rx_delay = 2;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    network.hub.hold();
    concentrator.push(&one.uplink(b"1"), 5.0).await;
    network.hub.wait_held(1).await;
    let frame = other.confirmed(b"2");
    concentrator.push(&frame, 5.0).await;
    // Both windows pass.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!concentrator.has_been_asked());
    network.hub.release();
    let asked = tokio::select! {
        asked = concentrator.asked() => asked,
        never = says(&concentrator, &frame) => match never {},
    };
    assert!(other.read(&asked.frame()).ack);
    assert_eq!(network.data(2).await, ["MQ==", "Mg=="]);
}

#[tokio::test]
async fn a_concentrator_that_floods_does_not_drown_another() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    (config.limits.rate, config.limits.frames) = (20, 50);
    let network = Network::start(config, &folder).await;
    let flood = Forwarder::open(1, network.forwarders).await;
    for number in 0..100_u8 {
        flood.push(&[number; 30], 5.0).await;
    }
    let concentrator = network.concentrator(2).await;
    concentrator.hear(&device.uplink(b"1")).await;
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn frames_of_every_modulation_arrive_with_how_they_were_heard() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let concentrator = network.concentrator(1).await;
    let heard = [
        json!({"lsnr": 7.5, "chan": 3, "rfch": 1, "tmms": 1_261_872_018_500_u64, "ftime": 7}),
        json!({"modu": "FSK", "datr": 50_000, "codr": null, "freq": 868.8, "time": "2020-01-01T00:00:00Z"}),
        json!({"modu": "LR-FHSS", "datr": "M0CW137", "codr": "1/3", "foff": 12, "rssis": -61}),
    ];
    for fields in heard {
        concentrator.push_as(&device.uplink(b"1"), fields).await;
    }
    let accepted = network.hub.wait_accepted(3).await;
    let told = accepted.iter().map(|message| {
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        (body["dataRate"].clone(), body["receptions"][0].clone())
    });
    let gateway = "0000000000000001";
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            (
                json!(5),
                json!({"gateway": gateway, "rssi": -60, "snr": 7.5, "channel": 3, "rfChain": 1,
                       "time": "2020-01-01T00:00:00.500Z"})
            ),
            (
                json!(7),
                json!({"gateway": gateway, "rssi": -60, "channel": 0, "rfChain": 0,
                       "time": "2020-01-01T00:00:00.000Z"})
            ),
            (
                json!(8),
                json!({"gateway": gateway, "rssi": -60, "channel": 0, "rfChain": 0})
            ),
        ]
    );
}

#[tokio::test]
async fn a_message_tells_when_it_was_heard_not_when_its_copies_had_come() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.timing.hold = Duration::from_millis(500);
    let hold = config.timing.hold;
    let network = Network::start(config, &folder).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    let accepted = network.hub.wait_accepted(1).await;
    let heard_at = accepted[0].system.created_at.unwrap();
    assert!(heard_at.elapsed().unwrap() >= hold);
}

#[tokio::test]
async fn a_command_that_its_concentrator_says_nothing_of_is_given_back() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![class_c(device.config())]), &folder).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    let name = name(device.dev_eui);
    network.hub.wait_listening(&name, Interest::COMMANDS).await;
    let settled = network.hub.send_message(message(&device, "on"));
    let (settled, _) = tokio::join!(settled, concentrator.asked());
    assert_eq!(settled, Some(Disposition::Abandon));
}

#[tokio::test]
async fn a_restart_loses_no_counter_and_no_nonce() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let devices = || vec![class_c(Device::abp(1).config()), otaa(OTAA)];
    let network = Network::start(config(devices()), &folder).await;
    let concentrator = network.concentrator(1).await;
    let replayed = device.uplink(b"1");
    concentrator.hear(&replayed).await;
    concentrator.hear(&join_request(OTAA, 7)).await;
    let mut joined = Device::joined(OTAA, 7, &concentrator.asked().await.frame());
    let first = joined.uplink(b"2");
    concentrator.hear(&first).await;
    network.data(2).await;
    send_at_once(&network, &concentrator, &mut device, 0).await;
    network.stop().await;

    let network = Network::start(config(devices()), &folder).await;
    let concentrator = network.concentrator(1).await;
    for frame in [replayed, join_request(OTAA, 7), first] {
        concentrator.hear(&frame).await;
    }
    concentrator.hear(&device.uplink(b"3")).await;
    concentrator.hear(&joined.uplink(b"4")).await;
    let mut data = network.data(2).await;
    data.sort_by_key(Value::to_string);
    assert_eq!(
        data,
        ["Mw==", "NA=="],
        "what was said before is not said again"
    );
    send_at_once(&network, &concentrator, &mut device, 1).await;
}

/// Sends a command to a device of class C, which reads it with this counter.
async fn send_at_once(
    network: &Network,
    concentrator: &Forwarder,
    device: &mut Device,
    counter: u32,
) {
    network.listens(device).await;
    let command = message(device, "on");
    let radio = async {
        let asked = concentrator.asked().await;
        assert_eq!(device.read(&asked.frame()).counter, counter);
        concentrator.acknowledge(&asked, "NONE").await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
}

#[tokio::test]
async fn nobody_else_speaks_for_a_listed_concentrator_and_garbage_ends_nothing() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let mut config = config(vec![device.config()]);
    config.concentrators[2].source = Some("10.0.0.1".parse().unwrap());
    let network = Network::start(config, &folder).await;
    let mut foreign = device.uplink(b"1");
    // Unlisted, and listed but elsewhere.
    for eui in [99, 3] {
        let stranger = Forwarder::open(eui, network.forwarders).await;
        stranger.push(&foreign, 5.0).await;
    }
    let concentrator = network.concentrator(1).await;
    for garbage in [
        &b""[..],
        b"\x02",
        &[0xff; 400],
        b"\x02\0\0\0\0\0\0\0\0\0\0\x01{\"rxpk\":[{}]}",
    ] {
        concentrator.send_raw(garbage).await;
    }
    foreign[10] ^= 1;
    concentrator.push(&foreign, 5.0).await;
    concentrator.push(&device.uplink(b"2"), 5.0).await;
    assert_eq!(network.data(1).await, ["Mg=="]);
}

#[tokio::test]
async fn a_station_finds_its_way_is_heard_and_sends() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![device.config()]), &folder).await;
    let found = Station::discover(network.stations, "::1").await;
    let url = format!("ws://{}/station/0000000000000001", network.stations);
    assert_eq!(found["uri"], url);
    let refused = Station::discover(network.stations, "::99").await;
    assert!(refused["error"].is_string());

    let path = "/station/0000000000000001";
    let mut station = Station::open(network.stations, path).await.unwrap();
    station
        .say(json!({"msgtype": "version", "station": "2.0.6", "protocol": 2}))
        .await;
    assert_eq!(station.hears().await.unwrap()["msgtype"], "router_config");
    station.say(json!({"msgtype": "updf", "odd": true})).await;
    station.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    let command = message(&device, "on");
    let radio = async {
        let asked = station.hears().await.unwrap();
        assert_eq!(
            (&asked["RxDelay"], &asked["RX2DR"]),
            (&json!(15), &json!(0))
        );
        assert_eq!(asked["xtime"], (1_i64 << 54) + 7);
        let hex = asked["pdu"].as_str().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let frame: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        assert_eq!(device.read(&frame).payload, b"on");
        station
            .say(json!({"msgtype": "dntxed", "diid": asked["diid"]}))
            .await;
    };
    let (settled, ()) = tokio::join!(network.hub.send_message(command), radio);
    assert_eq!(settled, Some(Disposition::Complete));
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn a_station_that_is_not_listed_is_not_heard() {
    let folder = folder();
    let network = Network::start(config(Vec::new()), &folder).await;
    let path = "/station/0000000000000099";
    let mut station = Station::open(network.stations, path).await.unwrap();
    assert_eq!(station.hears().await, None);
    assert!(Station::open(network.stations, "/").await.is_err());
}

#[tokio::test]
async fn a_command_with_no_concentrator_to_send_it_is_given_back() {
    let (folder, mut device) = (folder(), Device::abp(1));
    let network = Network::start(config(vec![class_c(device.config())]), &folder).await;
    // It is heard, but never asks for downlinks.
    let concentrator = Forwarder::open(1, network.forwarders).await;
    concentrator.hear(&device.uplink(b"1")).await;
    network.listens(&device).await;
    let settled = network.hub.send_message(message(&device, "on")).await;
    assert_eq!(settled, Some(Disposition::Abandon));
}

#[tokio::test]
async fn two_servers_do_not_share_a_store() {
    let folder = folder();
    let path = folder.path().join("sessions");
    let first = Arc::new(EmbeddedStore::open(&path).await.unwrap());
    let second = EmbeddedStore::open(&path).await;
    assert!(matches!(second, Err(StoreError::Database(_))));
    let wrong = LorawanServer::builder(ServerConfig::new(RegionName::Eu868));
    let wrong = wrong.with_store(first).bind().await;
    assert!(matches!(wrong, Err(BindError::Config(_))));
}

#[tokio::test]
async fn nothing_is_delivered_before_it_is_stored() {
    let mut device = Device::abp(1);
    let (gate, mut asked, open) = Gate::new(false);
    let network = Network::start_with(config(vec![device.config()]), gate).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&device.uplink(b"1")).await;
    asked.recv().await.unwrap();
    // Long enough for a message that does not wait to be there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(network.hub.accepted().is_empty());
    open.add_permits(1000);
    assert_eq!(network.data(1).await, ["MQ=="]);
}

#[tokio::test]
async fn what_cannot_be_stored_is_not_done() {
    let mut device = Device::abp(1);
    let (gate, mut asked, _) = Gate::new(true);
    let devices = vec![class_c(device.config()), otaa(OTAA)];
    let network = Network::start_with(config(devices), gate).await;
    let concentrator = network.concentrator(1).await;
    concentrator.hear(&join_request(OTAA, 7)).await;
    asked.recv().await.unwrap();
    concentrator.hear(&device.uplink(b"1")).await;
    asked.recv().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(network.hub.accepted().is_empty());
    assert!(!concentrator.has_been_asked());
}

#[tokio::test]
async fn what_could_not_be_stored_arrives_when_it_is_said_again() {
    let mut device = Device::abp(1);
    let (gate, mut asked, open) = Gate::new(true);
    let fails = gate.fails.clone();
    let mut config = config(vec![device.config()]);
    config.timing.rx_delay = 2;
    let network = Network::start_with(config, gate).await;
    let concentrator = network.concentrator(1).await;
    let frame = device.confirmed(b"1");
    concentrator.push(&frame, 5.0).await;
    asked.recv().await.unwrap();
    fails.store(false, Ordering::SeqCst);
    open.add_permits(1000);
    let answer = async { while asked.recv().await.is_some() {} };
    let read = tokio::select! {
        asked = concentrator.asked() => device.read(&asked.frame()),
        never = says(&concentrator, &frame) => match never {},
        () = answer => unreachable!("the store is there as long as the network"),
    };
    assert!(read.ack);
    assert_eq!(network.data(1).await, ["MQ=="]);
}

/// As many devices as a small town has meters, each with a command that waits; the hub is 50 ms
/// away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_devices_get_their_commands_in_their_windows() {
    const DEVICES: u16 = 1000;
    const CONCENTRATORS: u16 = 8;
    let folder = folder();
    let mut devices: Vec<_> = (0..DEVICES).map(Device::abp).collect();
    let mut config = config(devices.iter().map(Device::config).collect());
    let euis = 0..u64::from(CONCENTRATORS);
    let listed = euis
        .clone()
        .map(|eui| ConcentratorConfig::new(Eui64::new(eui)));
    config.concentrators = listed.collect();
    let network = Network::start(config, &folder).await;
    network.hub.set_latency(Duration::from_millis(50));
    let mut tasks = JoinSet::new();
    for eui in euis {
        let concentrator = network.concentrator(eui).await;
        let share = usize::from(DEVICES / CONCENTRATORS);
        let mut devices = devices.split_off(devices.len() - share);
        let hub = network.hub.clone();
        tasks.spawn(async move {
            let mut commands = JoinSet::new();
            for device in &mut devices {
                concentrator.push(&device.uplink(b"1"), 5.0).await;
                let (hub, command) = (hub.clone(), message(device, "on"));
                commands.spawn(async move {
                    hub.wait_listening(&command.device, Interest::COMMANDS)
                        .await;
                    hub.send_message(command).await
                });
                // What a concentrator at its busiest hears, and no more than this machine can take.
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            for _ in 0..share {
                let asked = concentrator.asked().await;
                assert_eq!(asked.txpk["tmst"], 16_000_000, "the first window");
                concentrator.acknowledge(&asked, "NONE").await;
            }
            while let Some(settled) = commands.join_next().await {
                assert_eq!(settled.unwrap(), Some(Disposition::Complete));
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(
        network.data(DEVICES.into()).await.len(),
        usize::from(DEVICES)
    );
}
