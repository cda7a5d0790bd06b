use std::time::Duration;

use bytes::Bytes;

use super::super::*;
use super::device::*;
use crate::event::DevEui;
use crate::proto::{ConcentratorClock, Eui64};

fn message(id: u64, payload: &'static [u8]) -> Message {
    Message::new(id, 10, payload)
}

#[test]
fn a_message_goes_in_the_windows_after_an_uplink() {
    let (mut network, mut device) = with_device();
    heard(&mut network, device.uplink(1, b"x"));
    let sent = network
        .answer(EUI, Some(&message(1, b"on")), true)
        .unwrap()
        .unwrap();
    assert_eq!(sent.clock, Some(ConcentratorClock::Forwarder(7)));
    let windows: Vec<_> = (sent.windows.iter())
        .map(|window| (window.delay.as_secs(), window.frequency, window.data_rate))
        .collect();
    assert_eq!(windows, [(1, 868_100_000, 5), (2, 869_525_000, 0)]);
    let read = device.read(&sent.frame);
    assert_eq!((read.port, &read.payload[..]), (Some(10), &b"on"[..]));
    assert!(read.more && !read.confirmed && !read.ack);
}

#[test]
fn a_window_is_used_once_and_nothing_is_sent_without_need() {
    let (mut network, mut device) = with_device();
    let on = message(1, b"on");
    assert_eq!(
        network.answer(EUI, Some(&on), false),
        Err(SendError::NoWindow(EUI))
    );
    assert!(!heard(&mut network, device.uplink(1, b"x")).answer_due);
    assert_eq!(network.answer(EUI, None, false), Ok(None));
    answer(&mut network, &on);
    assert_eq!(
        network.answer(EUI, Some(&on), false),
        Err(SendError::NoWindow(EUI))
    );
    let stranger = DevEui::new([9; 8]);
    assert_eq!(
        network.answer(stranger, None, false),
        Err(SendError::NoSession(stranger))
    );
}

#[test]
fn a_message_that_fits_only_a_window_that_has_passed_leaves_the_other_to_the_acknowledgement() {
    let (mut network, mut device) = with_device();
    let say = Say {
        confirmed: true,
        ..Say::default()
    };
    let uplink = heard(&mut network, device.say(Some(1), b"x", say));
    assert!(network.settle(EUI, uplink.counter, uplink.mic, true));
    let long = message(1, &[0; 100]);
    let second = Duration::from_millis(1500);
    let none = Err(SendError::NoWindow(EUI));
    assert_eq!(network.answer_from(second, EUI, Some(&long), false), none);
    let sent = network.answer_from(second, EUI, None, false);
    let sent = sent.unwrap().unwrap();
    let windows = sent.windows.iter().map(|window| window.delay.as_secs());
    assert_eq!(windows.collect::<Vec<_>>(), [2]);
    assert!(device.read(&sent.frame).ack);
    heard(&mut network, device.uplink(1, b"x"));
    let late = Duration::from_millis(2001);
    let on = message(2, b"on");
    assert_eq!(network.answer_from(late, EUI, Some(&on), false), none);
    // Nothing is to be said, whether it can be or not.
    assert_eq!(network.answer_from(late, EUI, None, false), Ok(None));
}

#[test]
fn counters_of_downlinks_go_up_and_survive_a_restart() {
    let (mut network, mut device) = with_device();
    for counter in 0..4 {
        heard(&mut network, device.uplink(1, b"x"));
        let sent = answer(&mut network, &message(1, b"on"));
        assert_eq!(device.read(&sent.frame).counter, counter);
        let record = network.record(EUI);
        network = super::device::network();
        network.insert(device.profile(EUI), record);
    }
}

#[test]
fn an_acknowledgement_tells_that_a_confirmed_message_has_arrived() {
    let (mut network, mut device) = with_device();
    heard(&mut network, device.uplink(1, b"x"));
    let sent = answer(&mut network, &message(7, b"on").with_confirmed(true));
    assert!(device.read(&sent.frame).confirmed);
    let ack = Say {
        ack: true,
        ..Say::default()
    };
    let uplink = heard(&mut network, device.say(None, &[], ack.clone()));
    let arrived = Delivery {
        id: 7,
        acknowledged: true,
    };
    assert_eq!(uplink.delivery, Some(arrived));
    assert_eq!(
        heard(&mut network, device.say(None, &[], ack)).delivery,
        None
    );
}

#[test]
fn a_confirmed_message_that_was_not_acknowledged_is_sent_again_with_its_counter() {
    let (mut network, mut device) = with_device();
    let on = message(7, b"on").with_confirmed(true);
    heard(&mut network, device.uplink(1, b"x"));
    let first = device.read(&answer(&mut network, &on).frame);
    let lost = Delivery {
        id: 7,
        acknowledged: false,
    };
    assert_eq!(
        heard(&mut network, device.uplink(1, b"x")).delivery,
        Some(lost)
    );
    let second = device.read(&answer(&mut network, &on).frame);
    assert_eq!((first.counter, second.counter), (0, 0));

    // Another text never has the same counter, whatever number it is given.
    heard(&mut network, device.uplink(1, b"x"));
    let other = answer(&mut network, &message(7, b"off").with_confirmed(true));
    assert_eq!(device.read(&other.frame).counter, 1);
    // Nor has the same text one that others came after.
    heard(&mut network, device.uplink(1, b"x"));
    assert_eq!(device.read(&answer(&mut network, &on).frame).counter, 2);
}

#[test]
fn an_uplink_that_is_repeated_shows_that_its_confirmed_answer_was_lost() {
    let (mut network, mut device) = with_device();
    let confirmed = Say {
        confirmed: true,
        ..Say::default()
    };
    let frame = device.say(Some(1), b"x", confirmed);
    let uplink = heard(&mut network, frame.clone());
    assert!(network.settle(EUI, 0, uplink.mic, true));
    let on = message(7, b"on").with_confirmed(true);
    let first = answer(&mut network, &on);
    let Ok(Heard::Repeat(repeat)) = hear(&mut network, frame) else {
        panic!()
    };
    let lost = Delivery {
        id: 7,
        acknowledged: false,
    };
    assert_eq!(repeat.delivery, Some(lost));
    let second = device.read(&answer(&mut network, &on).frame);
    assert!(second.ack);
    assert_eq!(device.read(&first.frame).counter, second.counter);
}

#[test]
fn a_message_that_does_not_fit_the_data_rate_is_refused_with_what_would() {
    let (mut network, mut device) = with_device();
    let slow = |frame| {
        let mut reception = reception(1, 5.0);
        reception.data_rate = 0;
        Collected::new(frame, reception)
    };
    network.hear(&slow(device.uplink(1, b"x")), NOW).unwrap();
    assert_eq!(network.room(EUI), Some(51));
    let of = |length: usize| Message::new(1, 10, vec![0; length]);
    let refused = network.answer(EUI, Some(&of(52)), false);
    assert_eq!(refused, Err(SendError::TooLong { max: 51 }));
    assert_eq!(network.session(EUI).unwrap().next_f_cnt_down, 0);
    // The window is open still.
    assert_eq!(answer(&mut network, &of(51)).windows.len(), 2);

    heard(&mut network, device.uplink(1, b"x"));
    assert_eq!(network.room(EUI), Some(242));
    // The first window alone is fast enough.
    assert_eq!(answer(&mut network, &of(242)).windows.len(), 1);
}

#[test]
fn commands_give_way_to_a_message_that_leaves_no_room() {
    let (mut network, mut device) = with_device();
    let asks = Say {
        options: vec![0x02],
        ..Say::default()
    };
    heard(&mut network, device.say(None, &[], asks.clone()));
    let sent = answer(&mut network, &Message::new(1, 10, vec![0; 242]));
    let frame = device.read(&sent.frame);
    assert_eq!((frame.options.len(), frame.payload.len()), (0, 242));
    heard(&mut network, device.say(None, &[], asks));
    let sent = answer(&mut network, &Message::new(1, 10, vec![0; 239]));
    assert_eq!(device.read(&sent.frame).options.len(), 3);
}

#[test]
fn ports_that_are_not_for_applications_are_refused() {
    let (mut network, mut device) = with_device();
    heard(&mut network, device.uplink(1, b"x"));
    for port in [0, 224, 255] {
        let refused = network.answer(EUI, Some(&Message::new(1, port, Bytes::new())), false);
        assert_eq!(refused, Err(SendError::Port(port)));
    }
    let sent = answer(&mut network, &Message::new(1, 223, Bytes::new()));
    let read = device.read(&sent.frame);
    assert_eq!((read.port, read.payload.len()), (Some(223), 0));
}

#[test]
fn class_c_hears_at_once_when_it_has_spoken() {
    let (mut network, mut device) = with_device();
    let on = message(1, b"on");
    assert_eq!(network.send(EUI, &on), Err(SendError::NotClassC(EUI)));
    network.insert(device.profile(EUI).with_class(Class::C), None);
    assert_eq!(network.send(EUI, &on), Err(SendError::NoWindow(EUI)));
    assert_eq!(network.room(EUI), None);
    heard(&mut network, device.uplink(1, b"x"));
    let confirmed = on.clone().with_confirmed(true);
    let sent = network.send(EUI, &confirmed).unwrap();
    assert_eq!((sent.clock, sent.gateway), (None, Eui64::new(1)));
    let [window] = sent.windows[..] else { panic!() };
    assert_eq!((window.frequency, window.data_rate), (869_525_000, 0));
    assert_eq!(device.read(&sent.frame).payload, b"on");
    assert_eq!(network.room(EUI), Some(51));
    // One confirmed message at a time: an acknowledgement names none.
    assert_eq!(network.send(EUI, &confirmed), Err(SendError::Waiting(1)));
    network.send(EUI, &on).unwrap();
    assert_eq!(network.give_up(EUI), Some(1));
    assert_eq!(network.give_up(EUI), None);
    network.send(EUI, &confirmed).unwrap();
}

#[test]
fn what_class_c_is_sent_at_once_takes_no_acknowledgement_its_window() {
    let (mut network, mut device) = with_device();
    network.insert(device.profile(EUI).with_class(Class::C), None);
    let say = Say {
        confirmed: true,
        ..Say::default()
    };
    let frame = device.say(Some(1), b"x", say);
    let uplink = heard(&mut network, frame.clone());
    let on = message(1, b"on").with_confirmed(true);
    let sent = network.send(EUI, &on).unwrap();
    assert!(!device.read(&sent.frame).ack);
    // A device that repeats itself before it has its acknowledgement may well have heard the other.
    let Ok(Heard::Repeat(repeat)) = hear(&mut network, frame) else {
        panic!()
    };
    assert_eq!(repeat.delivery, None);
    assert!(network.settle(EUI, 0, uplink.mic, true));
    let sent = network.answer(EUI, None, false).unwrap().unwrap();
    let read = device.read(&sent.frame);
    assert!(read.ack && read.payload.is_empty());
    assert_eq!((sent.windows.len(), read.counter), (2, 1));
}

#[test]
fn what_class_c_is_sent_at_once_has_nothing_that_belongs_in_a_window() {
    let (mut network, mut device) = with_device();
    network.insert(device.profile(EUI).with_class(Class::C), None);
    let say = Say {
        confirmed: true,
        ..Say::default()
    };
    let uplink = heard(&mut network, device.say(Some(1), b"x", say));
    assert!(network.settle(EUI, 0, uplink.mic, true));
    network.ask_status(EUI);
    let sent = network.send(EUI, &message(1, b"on")).unwrap();
    let read = device.read(&sent.frame);
    assert!(!read.ack && read.options.is_empty());
    let sent = network.answer(EUI, None, false).unwrap().unwrap();
    let read = device.read(&sent.frame);
    assert!(read.ack);
    assert_eq!(read.options, [0x06]);
}

#[test]
fn an_uplink_that_was_on_its_way_says_nothing_of_what_class_c_was_sent_meanwhile() {
    let (mut network, mut device) = with_device();
    network.insert(device.profile(EUI).with_class(Class::C), None);
    heard(&mut network, device.uplink(1, b"x"));
    let on_its_way = device.uplink(1, b"y");
    let on = message(1, b"on").with_confirmed(true);
    network.send(EUI, &on).unwrap();
    assert_eq!(heard(&mut network, on_its_way).delivery, None);
    let say = Say {
        ack: true,
        ..Say::default()
    };
    let delivery = heard(&mut network, device.say(Some(1), b"z", say)).delivery;
    assert!(delivery.unwrap().acknowledged);
}

#[test]
fn us915_answers_on_its_own_channels() {
    let region = Region::new(RegionName::Us915).with_sub_band(2).unwrap();
    let config = NetworkConfig::new(&region);
    let mut network = Network::new(region, config);
    let mut device = Device::abp(1);
    network.insert(device.profile(EUI), None);
    let mut heard_by = reception(1, 5.0);
    // Channel 9 at SF10: the first window is on 923.3 + 0.6 MHz at SF10/500 kHz.
    (heard_by.frequency, heard_by.data_rate) = (904_100_000, 0);
    network
        .hear(&Collected::new(device.uplink(1, b"x"), heard_by), NOW)
        .unwrap();
    let sent = answer(&mut network, &message(1, b"on"));
    let windows: Vec<_> = sent
        .windows
        .iter()
        .map(|window| (window.frequency, window.data_rate))
        .collect();
    assert_eq!(windows, [(923_900_000, 10), (923_300_000, 8)]);
}
