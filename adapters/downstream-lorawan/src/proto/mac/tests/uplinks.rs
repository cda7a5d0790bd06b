use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::*;
use super::device::*;
use crate::event::{DevAddr, DevEui};

#[test]
fn a_counter_goes_on_through_its_32_bits() {
    let (mut network, mut device) = with_device();
    let counters = [
        0, 5, 16_000, 30_000, 46_000, 62_000, 65_535, 65_536, 70_000, 86_000,
    ];
    for counter in counters {
        device.next_up = counter;
        assert_eq!(heard(&mut network, device.uplink(1, b"x")).counter, counter);
    }
}

#[test]
fn a_replayed_frame_never_arrives() {
    let (mut network, mut device) = with_device();
    let frames: Vec<Bytes> = (0..5).map(|_| device.uplink(1, b"x")).collect();
    for frame in &frames {
        heard(&mut network, frame.clone());
    }
    for frame in &frames[..4] {
        assert_eq!(
            hear(&mut network, frame.clone()),
            Err(Refusal::Mic(device.address))
        );
    }
    assert!(matches!(
        hear(&mut network, frames[4].clone()),
        Ok(Heard::Repeat(_))
    ));
    assert_eq!(network.session(EUI).unwrap().next_f_cnt_up, 5);
}

#[test]
fn a_frame_far_ahead_is_refused_and_changes_nothing() {
    let (mut network, mut device) = with_device();
    device.next_up = 16_385;
    assert!(hear(&mut network, device.uplink(1, b"x")).is_err());
    device.next_up = 0;
    heard(&mut network, device.uplink(1, b"x"));
}

#[test]
fn what_a_device_repeats_is_answered_again_and_not_delivered_again() {
    let (mut network, mut device) = with_device();
    let say = Say {
        confirmed: true,
        ..Say::default()
    };
    let frame = device.say(Some(1), b"x", say);
    let uplink = heard(&mut network, frame.clone());
    assert!(uplink.answer_due);
    // Nobody has taken it yet.
    assert_eq!(network.answer(EUI, None, false), Ok(None));
    assert!(network.settle(EUI, uplink.counter, uplink.mic, true));
    let first = network.answer(EUI, None, false).unwrap().unwrap();
    let Ok(Heard::Repeat(repeat)) = hear(&mut network, frame) else {
        panic!()
    };
    assert!(repeat.answer_due);
    let second = network.answer(EUI, None, false).unwrap().unwrap();
    assert!(device.read(&first.frame).ack);
    let read = device.read(&second.frame);
    assert_eq!((read.ack, read.counter), (true, 1));
}

#[test]
fn what_was_lost_is_handed_out_again_when_its_device_repeats_it() {
    let (mut network, mut device) = with_device();
    let say = Say {
        confirmed: true,
        ..Say::default()
    };
    let frame = device.say(Some(1), b"x", say);
    let mic = heard(&mut network, frame.clone()).mic;
    let repeated = hear(&mut network, frame.clone());
    assert!(matches!(repeated, Ok(Heard::Repeat(_))), "it is in hand");
    assert!(!network.settle(EUI, 0, mic, false));
    assert_eq!(heard(&mut network, frame.clone()).payload, b"x"[..]);
    // A restart forgets who had it.
    let record = network.record(EUI);
    network.insert(device.profile(EUI), record);
    assert_eq!(heard(&mut network, frame.clone()).counter, 0);
    assert!(network.settle(EUI, 0, mic, true));
    let record = network.record(EUI);
    network.insert(device.profile(EUI), record);
    let Ok(Heard::Repeat(repeat)) = hear(&mut network, frame) else {
        panic!("it was taken, and handed out again")
    };
    assert!(repeat.answer_due);
    let answer = network.answer(EUI, None, false).unwrap().unwrap();
    assert!(device.read(&answer.frame).ack);
}

#[test]
fn a_word_on_an_older_uplink_acknowledges_nothing() {
    let (mut network, mut device) = with_device();
    let say = Say {
        confirmed: true,
        ..Say::default()
    };
    let older = heard(&mut network, device.say(Some(1), b"x", say.clone()));
    let last = heard(&mut network, device.say(Some(1), b"y", say));
    assert!(!network.settle(EUI, 0, older.mic, true));
    assert!(!network.settle(EUI, 1, older.mic, true));
    assert_eq!(network.answer(EUI, None, false), Ok(None));
    assert!(network.settle(EUI, 1, last.mic, true));
}

#[test]
fn devices_that_share_an_address_are_told_apart_by_their_keys() {
    let (mut network, mut one) = with_device();
    let mut other = Device::abp(0x0101_0101);
    other.nwk_s_key = lrwn::AES128Key::from_bytes([9; 16]);
    let name = DevEui::new([9; 8]);
    network.insert(other.profile(name), None);
    assert_eq!(heard(&mut network, one.uplink(1, b"x")).dev_eui, EUI);
    assert_eq!(heard(&mut network, other.uplink(1, b"x")).dev_eui, name);
    network.remove(EUI);
    assert_eq!(heard(&mut network, other.uplink(1, b"x")).dev_eui, name);
    assert!(hear(&mut network, one.uplink(1, b"x")).is_err());
}

#[test]
fn a_device_that_forgets_its_counters_is_followed_only_if_that_is_allowed() {
    let (mut network, mut device) = with_device();
    for _ in 0..3 {
        heard(&mut network, device.uplink(1, b"x"));
    }
    device.next_up = 0;
    let frame = device.uplink(1, b"x");
    assert!(hear(&mut network, frame.clone()).is_err());

    allow_reset(&mut network, &device);
    assert_eq!(heard(&mut network, frame).counter, 0);
    assert_eq!(network.session(EUI).unwrap().next_f_cnt_up, 1);
}

/// Lets a device begin its counters anew, with what is remembered of it.
fn allow_reset(network: &mut Network, device: &Device) {
    let mut profile = device.profile(EUI);
    if let Activation::Abp { reset_allowed, .. } = &mut profile.activation {
        *reset_allowed = true;
    }
    let record = network.record(EUI);
    network.insert(profile, record);
}

#[test]
fn a_device_that_begins_anew_with_the_counter_of_its_last_frame_is_heard() {
    let (mut network, mut device) = with_device();
    allow_reset(&mut network, &device);
    let say = Say {
        confirmed: true,
        ..Say::default()
    };
    let before = heard(&mut network, device.say(Some(1), b"x", say.clone()));
    assert!(network.settle(EUI, 0, before.mic, true));
    answer(&mut network, &Message::new(1, 1, &b"on"[..]));
    // Also after a restart of the network.
    allow_reset(&mut network, &device);
    device.next_up = 0;
    let frame = device.say(Some(1), b"y", say);
    let anew = heard(&mut network, frame.clone());
    assert_eq!((anew.counter, &anew.payload[..]), (0, &b"y"[..]));
    assert_ne!(anew.mic, before.mic);
    assert_eq!(network.session(EUI).unwrap().next_f_cnt_down, 0);
    // What was said of the frame before says nothing of this one.
    assert!(!network.settle(EUI, 0, before.mic, true));
    assert_eq!(network.answer(EUI, None, false), Ok(None));
    assert!(matches!(hear(&mut network, frame), Ok(Heard::Repeat(_))));
    assert!(network.settle(EUI, 0, anew.mic, true));
    let sent = network.answer(EUI, None, false).unwrap().unwrap();
    assert!(device.read(&sent.frame).ack);
}

#[test]
fn a_device_that_begins_anew_with_the_counter_of_its_last_frame_is_not_acknowledged_unheard() {
    let (mut network, mut device) = with_device();
    let say = Say {
        confirmed: true,
        ..Say::default()
    };
    let frame = device.say(Some(1), b"x", say.clone());
    let before = heard(&mut network, frame.clone());
    device.next_up = 0;
    let anew = device.say(Some(1), b"y", say);
    let refused = Err(Refusal::Mic(device.address));
    assert_eq!(hear(&mut network, anew.clone()), refused);
    // Nor does it get in the way of the word on the one before.
    assert!(network.settle(EUI, 0, before.mic, true));
    assert_eq!(hear(&mut network, anew), refused);
    assert!(matches!(hear(&mut network, frame), Ok(Heard::Repeat(_))));
    let sent = network.answer(EUI, None, false).unwrap().unwrap();
    assert!(device.read(&sent.frame).ack);
}

#[test]
fn an_abp_device_keeps_its_counters_and_begins_anew_with_new_keys() {
    let (mut network, mut device) = with_device();
    heard(&mut network, device.uplink(1, b"x"));
    let record = network.record(EUI);
    network.insert(device.profile(EUI), record.clone());
    assert_eq!(network.session(EUI).unwrap().next_f_cnt_up, 1);
    device.app_s_key = lrwn::AES128Key::from_bytes([7; 16]);
    network.insert(device.profile(EUI), record);
    assert_eq!(network.session(EUI).unwrap().next_f_cnt_up, 0);
}

#[test]
fn an_abp_device_that_was_heard_before_listens_as_the_network_is_configured_now() {
    let (mut before, mut device) = with_device();
    heard(&mut before, device.uplink(1, b"x"));
    let region = Region::new(RegionName::Eu868);
    let mut config = NetworkConfig::new(&region).with_delay(5);
    config.windows.rx1_offset = 2;
    config.windows.rx2_data_rate = 3;
    config.windows.rx2_frequency = 869_000_000;
    let mut network = Network::new(region, config);
    network.insert(device.profile(EUI), before.record(EUI));
    assert_eq!(heard(&mut network, device.uplink(1, b"y")).counter, 1);
    let sent = answer(&mut network, &Message::new(1, 1, &b"on"[..]));
    let windows = sent.windows.iter();
    let windows =
        windows.map(|window| (window.delay.as_secs(), window.frequency, window.data_rate));
    assert_eq!(
        windows.collect::<Vec<_>>(),
        [(5, 868_100_000, 3), (6, 869_000_000, 3)]
    );
}

#[test]
fn frames_of_others_are_refused_with_the_reason() {
    let (mut network, mut device) = with_device();
    let stranger = Device::abp(0x0202_0202).uplink(1, b"x");
    let unknown = Refusal::UnknownAddress(DevAddr::new([2; 4]));
    assert_eq!(hear(&mut network, stranger), Err(unknown));
    let refused = |network: &mut Network, bytes: &'static [u8]| {
        hear(network, Bytes::from_static(bytes)).unwrap_err()
    };
    assert_eq!(refused(&mut network, &[]), Refusal::Malformed);
    assert_eq!(refused(&mut network, &[0x40; 8]), Refusal::Malformed);
    assert_eq!(refused(&mut network, &[0xe0, 1, 2]), Refusal::Kind);
    assert_eq!(refused(&mut network, &[0x60; 12]), Refusal::Kind);
    assert_eq!(refused(&mut network, &[0x40; 256]), Refusal::Malformed);
    let mixed = Say {
        options: vec![2],
        ..Say::default()
    };
    // Commands are in one place or the other.
    let frame = device.say(Some(0), &[2], mixed);
    assert_eq!(hear(&mut network, frame), Err(Refusal::Malformed));
    assert_eq!(network.session(EUI).unwrap().next_f_cnt_up, 0);
}

#[test]
fn a_device_that_asks_for_the_time_and_its_signal_is_answered_once_each() {
    for in_payload in [false, true] {
        let (mut network, mut device) = with_device();
        let asks = vec![0x0d, 0x02, 0x0d, 0x02];
        let frame = if in_payload {
            device.say(Some(0), &asks, Say::default())
        } else {
            let say = Say {
                options: asks,
                ..Say::default()
            };
            device.say(None, &[], say)
        };
        let mut collected = Collected::new(frame, reception(1, 5.0));
        collected.add(reception(2, 2.0));
        let now = NOW + Duration::from_millis(500);
        let Ok(Heard::Uplink(uplink)) = network.hear(&collected, now) else {
            panic!()
        };
        assert!(uplink.answer_due && uplink.port.is_none() && uplink.payload.is_empty());
        let answer = network.answer(EUI, None, false).unwrap().unwrap();
        let options = device.read(&answer.frame).options;
        // SF7 needs -7.5 dB: 12 above. 2020 began 1,261,872,018 s after the GPS epoch.
        let mut expected = vec![0x02, 12, 2, 0x0d];
        expected.extend(1_261_872_018_u32.to_le_bytes());
        expected.push(128);
        assert_eq!(options, expected);
    }
}

#[test]
fn a_frame_with_reserved_bits_is_refused() {
    let (mut network, mut device) = with_device();
    let frame = device.uplink(1, b"x");
    for bit in 2..5 {
        let mut changed = frame.to_vec();
        changed[0] |= 1 << bit;
        assert_eq!(hear(&mut network, changed.into()), Err(Refusal::Malformed));
    }
    heard(&mut network, frame);
}

proptest! {
    #[test]
    fn a_flipped_bit_never_arrives(
        payload in prop::collection::vec(any::<u8>(), 0..40),
        bit: prop::sample::Index,
    ) {
        let (mut network, mut device) = with_device();
        let mut frame = device.uplink(2, &payload).to_vec();
        let bit = bit.index(frame.len() * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(hear(&mut network, frame.into()).is_err());
        prop_assert_eq!(network.session(EUI).unwrap().next_f_cnt_up, 0);
    }

    #[test]
    fn what_is_said_arrives_as_it_was_said(
        payload in prop::collection::vec(any::<u8>(), 0..=222),
        port in 1..=255_u8,
        counter in 0..16_384_u32,
    ) {
        let (mut network, mut device) = with_device();
        device.next_up = counter;
        let uplink = heard(&mut network, device.uplink(port, &payload));
        prop_assert_eq!((&uplink.payload[..], uplink.port), (&payload[..], Some(port)));
    }

    #[test]
    fn any_commands_do_no_harm(commands in prop::collection::vec(any::<u8>(), 0..=222)) {
        let (mut network, mut device) = with_device();
        heard(&mut network, device.say(Some(0), &commands, Say::default()));
        if let Some(sent) = network.answer(EUI, None, false).unwrap() {
            prop_assert!(device.read(&sent.frame).options.len() <= 15);
        }
    }
}
