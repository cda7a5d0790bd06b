//! The network server: counters only go up, frames fit the air, whatever is on it.
//!
//! Each step is a frame of anybody's, or one that a device has signed, with any content; a frame
//! that was taken once is never taken as new again.
#![no_main]

use std::time::Duration;

use gateway_downstream_lorawan::event::{DevAddr, DevEui};
use gateway_downstream_lorawan::proto::mac::{
    Activation, Class, Collected, DeviceProfile, Heard, Message, Network, NetworkConfig, Region,
    RegionName,
};
use gateway_downstream_lorawan::proto::{ConcentratorClock, Eui64, Key, Reception};
use libfuzzer_sys::fuzz_target;
use lrwn::{AES128Key, MACVersion, Payload, PhyPayload};

const DEVICE: DevEui = DevEui::new([1; 8]);
const ADDRESS: [u8; 4] = [1, 2, 3, 4];
const JOINER: DevEui = DevEui::new([8, 7, 6, 5, 4, 3, 2, 1]);
const KEY: [u8; 16] = [3; 16];

fn network() -> Network {
    let region = Region::new(RegionName::Eu868);
    let config = NetworkConfig::new(&region);
    let mut network = Network::new(region, config);
    let activation = Activation::Abp {
        dev_addr: DevAddr::new(ADDRESS),
        nwk_s_key: Key::new(KEY),
        app_s_key: Key::new(KEY),
        reset_allowed: false,
    };
    network.insert(DeviceProfile::new(DEVICE, activation).with_class(Class::C), None);
    network.insert(DeviceProfile::otaa(JOINER, Key::new(KEY)), None);
    network
}

/// Signs a frame as the device would; one that is no frame stays as it is.
fn signed(bytes: &[u8], expected: u32) -> Vec<u8> {
    let key = AES128Key::from_bytes(KEY);
    let sign = || {
        let mut phy = PhyPayload::from_slice(bytes).ok()?;
        match &mut phy.payload {
            Payload::MACPayload(payload) => {
                payload.fhdr.devaddr = lrwn::DevAddr::from_be_bytes(ADDRESS);
                payload.fhdr.f_cnt = expected.checked_add(payload.fhdr.f_cnt & 3)?;
                phy.set_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, &key, &key).ok()?;
            }
            Payload::JoinRequest(_) => phy.set_join_request_mic(&key).ok()?,
            _ => return None,
        }
        phy.to_vec().ok()
    };
    sign().unwrap_or_else(|| bytes.to_vec())
}

fuzz_target!(|steps: Vec<(bool, u8, Vec<u8>)>| {
    let mut network = network();
    for (honest, data_rate, bytes) in steps.into_iter().take(64) {
        let before = network.session(DEVICE).expect("a session").clone();
        let frame = match honest {
            true => signed(&bytes, before.next_f_cnt_up),
            false => bytes,
        };
        let clock = ConcentratorClock::Forwarder(0);
        let reception = Reception::new(Eui64::new(2), 868_100_000, data_rate % 16, clock)
            .with_signal(-60.0, f32::from(data_rate) - 128.0);
        let heard = network.hear(&Collected::new(frame.into(), reception), Duration::MAX);
        let after = network.session(DEVICE).expect("a session").clone();
        match heard {
            Ok(Heard::Uplink(uplink)) if uplink.dev_eui == DEVICE => {
                assert!(uplink.counter >= before.next_f_cnt_up);
                assert_eq!(after.next_f_cnt_up, uplink.counter + 1);
                assert!(uplink.payload.len() <= 255);
            }
            Ok(Heard::Join(join)) => assert!(matches!(join.accept.frame.len(), 17 | 33)),
            Ok(_) => assert_eq!(after.next_f_cnt_up, before.next_f_cnt_up),
            Err(_) => assert_eq!(after, before),
        }
        let message = Message::new(1, data_rate, vec![0; data_rate.into()]).with_confirmed(honest);
        let sent = [
            network.answer(DEVICE, Some(&message), honest).ok().flatten(),
            network.answer(DEVICE, None, honest).ok().flatten(),
            network.send(DEVICE, &message).ok(),
        ];
        for sent in sent.into_iter().flatten() {
            assert!((12..=255).contains(&sent.frame.len()) && !sent.windows.is_empty());
        }
        let last = network.session(DEVICE).expect("a session");
        assert!(last.next_f_cnt_down >= after.next_f_cnt_down);
    }
});
