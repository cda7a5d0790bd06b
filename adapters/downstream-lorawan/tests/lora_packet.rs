//! Frames made and read by an implementation that is not ours: npm's `lora-packet`, by
//! `interop/lora-packet/peer.js`. Where it is not installed (`npm ci` there), these tests say that
//! they test nothing; with `REQUIRE_LORA_PACKET` set, they fail.

mod support;

use std::time::Duration;

use bytes::Bytes;
use gateway_downstream_lorawan::event::DevEui;
use gateway_downstream_lorawan::proto::mac::{
    Activation, Collected, DeviceProfile, Heard, Message, Network, NetworkConfig, Refusal, Region,
    RegionName, Uplink,
};
use gateway_downstream_lorawan::proto::{ConcentratorClock, Eui64, Key, Reception};
use serde_json::{Value, json};
use support::{Peer, bytes, hex};

const DEV_EUI: &str = "0004a30b001c0530";
const JOIN_EUI: &str = "70b3d57ed0000001";
const APP_KEY: &str = "2b7e151628aed2a6abf7158809cf4f3c";
const NONCE: &str = "2dd1";

fn peer() -> Option<Peer> {
    let needs = "node_modules/lora-packet";
    Peer::start(
        "lora-packet",
        needs,
        "node",
        "peer.js",
        "REQUIRE_LORA_PACKET",
    )
}

/// A device whose frames the peer makes.
struct Device {
    dev_addr: String,
    nwk_s_key: String,
    app_s_key: String,
}

impl Device {
    fn abp() -> Self {
        Self {
            dev_addr: "49be7df1".to_owned(),
            nwk_s_key: "44024241ed4ce9a68c6a8bc055233fd3".to_owned(),
            app_s_key: "ec925802ae430ca77fd3dd73cb2cc588".to_owned(),
        }
    }

    fn profile(&self) -> DeviceProfile {
        let activation = Activation::Abp {
            dev_addr: self.dev_addr.parse().expect("an address"),
            nwk_s_key: self.nwk_s_key.parse().expect("a key"),
            app_s_key: self.app_s_key.parse().expect("a key"),
            reset_allowed: false,
        };
        DeviceProfile::new(dev_eui(), activation)
    }

    fn uplink(&self, peer: &mut Peer, counter: u32, payload: &str, ack: bool) -> Bytes {
        bytes(
            &peer.ask(&json!({
                "request": "uplink", "devAddr": self.dev_addr, "nwkSKey": self.nwk_s_key,
                "appSKey": self.app_s_key, "counter": counter, "port": 7, "payload": payload,
                "confirmed": true, "ack": ack,
            })),
            "frame",
        )
    }

    fn read(&self, peer: &mut Peer, frame: &[u8], counter: u32) -> Value {
        peer.ask(&json!({
            "request": "downlink", "frame": hex(frame), "nwkSKey": self.nwk_s_key,
            "appSKey": self.app_s_key, "counter": counter,
        }))
    }
}

fn dev_eui() -> DevEui {
    DEV_EUI.parse().expect("an EUI")
}

fn network(profile: DeviceProfile) -> Network {
    let region = Region::new(RegionName::Eu868)
        .with_channels(&[867_100_000, 867_300_000])
        .expect("EU868 takes channels");
    let config = NetworkConfig::new(&region);
    let mut network = Network::new(region, config);
    network.insert(profile, None);
    network
}

fn hear(network: &mut Network, frame: Bytes) -> Result<Heard, Refusal> {
    let clock = ConcentratorClock::Forwarder(0);
    let reception = Reception::new(Eui64::new(1), 868_100_000, 5, clock).with_signal(-60.0, 5.0);
    let now = Duration::from_secs(1_577_836_800);
    network.hear(&Collected::new(frame, reception), now)
}

fn uplink(network: &mut Network, frame: Bytes) -> Uplink {
    match hear(network, frame) {
        Ok(Heard::Uplink(uplink)) => uplink,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_foreign_device_joins_speaks_and_listens() {
    let Some(mut peer) = peer() else {
        return;
    };
    let key: Key = APP_KEY.parse().unwrap();
    let mut network = network(DeviceProfile::otaa(dev_eui(), key));
    let request = peer.ask(&json!({
        "request": "join", "joinEui": JOIN_EUI, "devEui": DEV_EUI, "nonce": NONCE,
        "appKey": APP_KEY,
    }));
    let Ok(Heard::Join(join)) = hear(&mut network, bytes(&request, "frame")) else {
        panic!("no join")
    };
    let accept = peer.ask(&json!({
        "request": "accept", "frame": hex(&join.accept.frame), "appKey": APP_KEY, "nonce": NONCE,
    }));
    assert_eq!(accept["signed"], true);
    assert_eq!(accept["devAddr"], join.dev_addr.to_string());
    assert_eq!(accept["rxDelay"], 1);
    // 8,671,000 and 8,673,000 times 100 Hz.
    assert_eq!(accept["channels"], json!(["844f18", "8456e8"]));

    let text = |field: &str| accept[field].as_str().unwrap().to_owned();
    let device = Device {
        dev_addr: text("devAddr"),
        nwk_s_key: text("nwkSKey"),
        app_s_key: text("appSKey"),
    };
    let heard = uplink(&mut network, device.uplink(&mut peer, 0, "c0ffee", false));
    assert_eq!(
        (hex(&heard.payload), heard.port),
        ("c0ffee".to_owned(), Some(7))
    );
    assert!(network.settle(dev_eui(), heard.counter, heard.mic, true));
    let message = Message::new(1, 9, &b"on"[..]).with_confirmed(true);
    let sent = network.answer(dev_eui(), Some(&message), true);
    let sent = sent.unwrap().unwrap();
    assert_eq!(
        device.read(&mut peer, &sent.frame, 0),
        json!({
            "signed": true, "direction": "down", "confirmed": true, "ack": true, "more": true,
            "counter": 0, "port": 9, "options": "", "payload": hex(b"on"),
        })
    );
    let heard = uplink(&mut network, device.uplink(&mut peer, 1, "00", true));
    assert!(heard.delivery.is_some_and(|delivery| delivery.acknowledged));
}

#[test]
fn a_foreign_devices_counter_goes_over_its_16_bits() {
    let Some(mut peer) = peer() else {
        return;
    };
    let device = Device::abp();
    let mut network = network(device.profile());
    let mut record = network.remove(dev_eui()).unwrap();
    let session = record.session.as_mut().unwrap();
    (session.next_f_cnt_up, session.next_f_cnt_down) = (0x0001_fffe, 0x0002_ffff);
    network.insert(device.profile(), Some(record));

    for (counter, down) in [(0x0001_ffff, 0x0002_ffff), (0x0002_0000, 0x0003_0000)] {
        let heard = uplink(
            &mut network,
            device.uplink(&mut peer, counter, "beef", false),
        );
        assert_eq!(
            (heard.counter, hex(&heard.payload)),
            (counter, "beef".to_owned())
        );
        let message = Message::new(1, 9, &b"on"[..]);
        let sent = network.answer(dev_eui(), Some(&message), false);
        let sent = sent.unwrap().unwrap();
        let read = device.read(&mut peer, &sent.frame, down);
        assert_eq!(read["signed"], true);
        assert_eq!(read["payload"], hex(b"on"));
        assert_eq!(read["counter"], down & 0xffff);
    }
    // What was said before is not heard again.
    let old = device.uplink(&mut peer, 0x0001_ffff, "beef", false);
    assert!(hear(&mut network, old).is_err());
}
