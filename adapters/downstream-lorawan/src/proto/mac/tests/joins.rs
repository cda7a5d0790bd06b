use proptest::prelude::*;

use super::super::*;
use super::device::*;
use crate::proto::Eui64;
use crate::proto::store::DeviceRecord;

fn with_otaa() -> Network {
    let mut network = network();
    network.insert(DeviceProfile::otaa(EUI, APP_KEY), None);
    network
}

fn join(network: &mut Network, nonce: u16) -> Join {
    match hear(network, join_request(nonce, APP_KEY)) {
        Ok(Heard::Join(join)) => join,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_joins_and_is_understood() {
    let mut network = with_otaa();
    let join = join(&mut network, 7);
    let (mut device, accept) = Device::joined(7, &join.accept.frame);
    assert_eq!(device.address, join.dev_addr);
    assert_eq!((accept.rx_delay, accept.dl_settings.rx2_dr), (1, 0));
    let windows: Vec<_> = join
        .accept
        .windows
        .iter()
        .map(|w| (w.delay.as_secs(), w.frequency))
        .collect();
    assert_eq!(windows, [(5, 868_100_000), (6, 869_525_000)]);
    let uplink = heard(&mut network, device.uplink(3, b"hello"));
    assert_eq!(
        (&uplink.payload[..], uplink.port, uplink.first),
        (&b"hello"[..], Some(3), true)
    );
    assert!(!heard(&mut network, device.uplink(3, b"again")).first);
}

#[test]
fn a_dev_nonce_is_never_taken_twice_not_even_after_a_restart() {
    let mut network = with_otaa();
    let first = join(&mut network, 7);
    let again = Err(Refusal::NonceUsed(EUI));
    assert_eq!(hear(&mut network, join_request(7, APP_KEY)), again);
    let stored = serde_json::to_string(&network.record(EUI).unwrap()).unwrap();

    let record: DeviceRecord = serde_json::from_str(&stored).unwrap();
    let mut network = super::device::network();
    network.insert(DeviceProfile::otaa(EUI, APP_KEY), Some(record));
    assert_eq!(hear(&mut network, join_request(7, APP_KEY)), again);
    let second = join(&mut network, 6);
    // Nor is a JoinNonce: the keys differ.
    let numbers = [(7, first), (6, second)].map(|(nonce, join)| {
        let (_, accept) = Device::joined(nonce, &join.accept.frame);
        accept.join_nonce
    });
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn a_new_key_ends_the_sessions_of_the_old_one_and_lets_its_dev_nonces_come_again() {
    let mut network = with_otaa();
    let (mut device, _) = Device::joined(7, &join(&mut network, 7).accept.frame);
    heard(&mut network, device.uplink(1, b"a"));
    join(&mut network, 8);
    let stored = serde_json::to_value(network.record(EUI).unwrap()).unwrap();
    let restart = |app_key, stored| {
        let record: DeviceRecord = serde_json::from_value(stored).unwrap();
        let mut network = super::device::network();
        network.insert(DeviceProfile::otaa(EUI, app_key), Some(record));
        network
    };

    let new_key = crate::proto::Key::new([0x2c; 16]);
    let mut network = restart(new_key, stored.clone());
    assert!(hear(&mut network, device.uplink(1, b"b")).is_err());
    assert!(network.addresses.is_empty());
    for nonce in [7, 0] {
        assert!(hear(&mut network, join_request(nonce, new_key)).is_ok());
    }
    // Its device may have kept the last number of the old key's.
    assert_eq!(network.record(EUI).unwrap().next_join_nonce, 5);

    // Stored before there were marks.
    let mut old = stored;
    assert!(
        old.as_object_mut()
            .unwrap()
            .remove("app_key_mark")
            .is_some()
    );
    let mut network = restart(APP_KEY, old);
    assert!(!heard(&mut network, device.uplink(1, b"c")).first);
}

#[test]
fn a_device_that_has_used_all_its_joins_joins_with_a_new_key() {
    let mut network = with_otaa();
    join(&mut network, 7);
    let mut record = network.remove(EUI).unwrap();
    record.next_join_nonce = 1 << 24;
    network.insert(DeviceProfile::otaa(EUI, APP_KEY), Some(record.clone()));
    let exhausted = Err(Refusal::Exhausted(EUI));
    assert_eq!(hear(&mut network, join_request(8, APP_KEY)), exhausted);
    let new_key = crate::proto::Key::new([0x2c; 16]);
    network.insert(DeviceProfile::otaa(EUI, new_key), Some(record));
    assert!(hear(&mut network, join_request(8, new_key)).is_ok());
}

#[test]
fn a_device_that_refuses_a_join_nonce_that_is_not_above_its_last_joins() {
    // As LoRaMac-node has it, before the first.
    let mut last = 0;
    let mut network = with_otaa();
    for nonce in 0..3 {
        let join = join(&mut network, nonce);
        let (_, accept) = Device::joined(nonce, &join.accept.frame);
        assert!(accept.join_nonce > last);
        last = accept.join_nonce;
    }
}

#[test]
fn a_device_that_counts_its_nonces_may_not_go_back() {
    let mut profile = DeviceProfile::otaa(EUI, APP_KEY);
    profile.activation = Activation::Otaa {
        app_key: APP_KEY,
        join_eui: Some(JOIN_EUI),
        nonces: NonceRule::Higher,
    };
    let mut network = network();
    network.insert(profile, None);
    join(&mut network, 7);
    assert_eq!(
        hear(&mut network, join_request(6, APP_KEY)),
        Err(Refusal::NonceUsed(EUI))
    );
    join(&mut network, 8);
}

#[test]
fn a_join_with_another_key_or_name_is_refused_and_changes_nothing() {
    let mut network = with_otaa();
    let before = network.record(EUI);
    let forged = join_request(7, crate::proto::Key::new([0; 16]));
    assert_eq!(hear(&mut network, forged), Err(Refusal::JoinMic(EUI)));
    assert_eq!(network.record(EUI), before);

    let mut profile = DeviceProfile::otaa(EUI, APP_KEY);
    profile.activation = Activation::Otaa {
        app_key: APP_KEY,
        join_eui: Some(Eui64::new(1)),
        nonces: NonceRule::New,
    };
    network.insert(profile, None);
    let request = join_request(7, APP_KEY);
    assert_eq!(
        hear(&mut network, request.clone()),
        Err(Refusal::UnknownDevice(EUI))
    );
    network.remove(EUI);
    assert_eq!(
        hear(&mut network, request),
        Err(Refusal::UnknownDevice(EUI))
    );
}

#[test]
fn the_session_before_lives_until_the_new_one_is_used() {
    let mut network = with_otaa();
    let (mut old, _) = Device::joined(1, &join(&mut network, 1).accept.frame);
    heard(&mut network, old.uplink(1, b"a"));
    // The answer is lost: the device goes on as before.
    let (mut new, _) = Device::joined(2, &join(&mut network, 2).accept.frame);
    assert!(!heard(&mut network, old.uplink(1, b"b")).first);
    assert!(heard(&mut network, new.uplink(1, b"c")).first);
    assert!(hear(&mut network, old.uplink(1, b"d")).is_err());
    assert_eq!(network.addresses.len(), 1);
}

#[test]
fn a_device_of_class_c_that_joins_anew_is_sent_nothing_in_the_session_that_it_gave_up() {
    let mut network = network();
    network.insert(DeviceProfile::otaa(EUI, APP_KEY).with_class(Class::C), None);
    let (mut old, _) = Device::joined(1, &join(&mut network, 1).accept.frame);
    heard(&mut network, old.uplink(1, b"a"));
    let on = Message::new(1, 1, "on");
    network.send(EUI, &on).unwrap();
    let (mut new, _) = Device::joined(2, &join(&mut network, 2).accept.frame);
    assert_eq!(network.send(EUI, &on), Err(SendError::NoWindow(EUI)));
    assert_eq!(network.room(EUI), None);
    heard(&mut network, new.uplink(1, b"b"));
    let sent = network.send(EUI, &on).unwrap();
    assert_eq!(new.read(&sent.frame).payload, b"on");
}

#[test]
fn a_device_that_is_to_join_is_not_heard_in_the_session_that_it_had_without() {
    let mut network = network();
    let mut device = Device::abp(0x2600_0001);
    network.insert(device.profile(EUI), None);
    heard(&mut network, device.uplink(1, b"a"));
    let record = network.record(EUI);
    network.insert(DeviceProfile::otaa(EUI, APP_KEY), record);
    assert!(hear(&mut network, device.uplink(1, b"b")).is_err());
    assert!(network.addresses.is_empty());
}

#[test]
fn a_join_that_was_never_used_leaves_nothing_behind() {
    let mut network = with_otaa();
    for nonce in 0..20 {
        join(&mut network, nonce);
    }
    assert_eq!(network.addresses.len(), 1);
    network.remove(EUI);
    assert!(network.addresses.is_empty() && network.is_empty());
}

#[test]
fn a_session_survives_a_restart_before_and_after_its_first_use() {
    let mut network = with_otaa();
    let (mut device, _) = Device::joined(1, &join(&mut network, 1).accept.frame);
    for round in 0..3 {
        let record = network.remove(EUI).unwrap();
        network = super::device::network();
        network.insert(DeviceProfile::otaa(EUI, APP_KEY), Some(record));
        let frame = device.uplink(1, b"x");
        let uplink = heard(&mut network, frame.clone());
        assert_eq!((uplink.counter, uplink.first), (round, round == 0));
        assert!(matches!(hear(&mut network, frame), Ok(Heard::Repeat(_))));
    }
}

#[test]
fn extra_channels_are_told_with_the_join() {
    let region = Region::new(RegionName::Eu868)
        .with_channels(&[867_100_000, 867_300_000])
        .unwrap();
    let config = NetworkConfig::new(&region)
        .with_net_id([0, 0, 0x13])
        .with_delay(5);
    let mut network = Network::new(region, config);
    network.insert(DeviceProfile::otaa(EUI, APP_KEY), None);
    let join = join(&mut network, 1);
    let (_, accept) = Device::joined(1, &join.accept.frame);
    assert_eq!(join.accept.frame.len(), 33);
    let Some(lrwn::CFList::Channels(channels)) = accept.cflist else {
        panic!("{accept:?}")
    };
    assert_eq!(
        channels.iter().take(3).copied().collect::<Vec<_>>(),
        [867_100_000, 867_300_000, 0]
    );
    assert_eq!(accept.rx_delay, 5);
    // NetID 000013 is of type 0: its address begins with seven bits, 0010011.
    assert_eq!(join.dev_addr.bytes()[0] >> 1, 0x13);
}

proptest! {
    #[test]
    fn a_join_with_a_flipped_bit_is_refused(nonce: u16, bit in 0..23 * 8_usize) {
        let mut network = with_otaa();
        let mut request = join_request(nonce, APP_KEY).to_vec();
        request[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(hear(&mut network, request.into()).is_err());
        prop_assert_eq!(network.record(EUI), Some(DeviceRecord::new(EUI)));
    }
}
