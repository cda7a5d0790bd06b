use super::super::*;
use super::device::*;

const ADR: Say = Say {
    confirmed: false,
    ack: false,
    adr: true,
    adr_ack_req: false,
    options: Vec::new(),
};

fn slow(network: &mut Network, device: &mut Device, options: &[u8]) -> Uplink {
    let say = Say {
        options: options.to_vec(),
        ..ADR
    };
    let mut reception = reception(1, 10.0);
    reception.data_rate = 0;
    match network.hear(
        &Collected::new(device.say(Some(1), b"x", say), reception),
        NOW,
    ) {
        Ok(Heard::Uplink(uplink)) => uplink,
        other => panic!("{other:?}"),
    }
}

fn asked(network: &mut Network, device: &mut Device) -> Vec<u8> {
    let sent = network.answer(EUI, None, false).unwrap().unwrap();
    device.read(&sent.frame).options
}

/// Data rate 5, power step 1, all channels that the device has, each frame once.
const FASTER: [u8; 5] = [0x03, 0x51, 0x07, 0x00, 0x61];

#[test]
fn a_device_with_a_good_signal_is_told_to_be_faster() {
    let (mut network, mut device) = with_device();
    for _ in 0..19 {
        assert!(!slow(&mut network, &mut device, &[]).answer_due);
    }
    assert!(slow(&mut network, &mut device, &[]).answer_due);
    assert_eq!(asked(&mut network, &mut device), FASTER);
    assert_eq!(network.session(EUI).unwrap().power_step, 0);
    assert!(!slow(&mut network, &mut device, &[0x03, 0x07]).answer_due);
    assert_eq!(network.session(EUI).unwrap().power_step, 1);
}

#[test]
fn a_device_that_no_join_has_told_the_extra_channels_is_asked_for_none_of_them() {
    let region = Region::new(RegionName::Eu868);
    let extra = [867_100_000, 867_300_000, 867_500_000];
    let region = region.with_channels(&extra).unwrap();
    let config = NetworkConfig::new(&region);
    let mut network = Network::new(region, config);
    let mut device = Device::abp(1);
    network.insert(device.profile(EUI), None);
    for _ in 0..20 {
        slow(&mut network, &mut device, &[]);
    }
    assert_eq!(asked(&mut network, &mut device), FASTER);
}

#[test]
fn a_device_that_does_not_answer_is_told_three_times() {
    let (mut network, mut device) = with_device();
    for _ in 0..19 {
        slow(&mut network, &mut device, &[]);
    }
    for _ in 0..3 {
        assert!(slow(&mut network, &mut device, &[]).answer_due);
        assert_eq!(asked(&mut network, &mut device), FASTER);
    }
    assert!(!slow(&mut network, &mut device, &[]).answer_due);
}

#[test]
fn a_device_that_refuses_is_left_alone_until_there_is_a_new_history() {
    let (mut network, mut device) = with_device();
    for _ in 0..20 {
        slow(&mut network, &mut device, &[]);
    }
    asked(&mut network, &mut device);
    assert!(!slow(&mut network, &mut device, &[0x03, 0x05]).answer_due);
    assert_eq!(network.session(EUI).unwrap().power_step, 0);
    for _ in 0..19 {
        assert!(!slow(&mut network, &mut device, &[]).answer_due);
    }
    assert!(slow(&mut network, &mut device, &[]).answer_due);
}

#[test]
fn a_device_that_falls_back_by_itself_is_taken_to_be_at_full_power() {
    let (mut network, mut device) = with_device();
    for _ in 0..20 {
        slow(&mut network, &mut device, &[]);
    }
    asked(&mut network, &mut device);
    slow(&mut network, &mut device, &[0x03, 0x07]);
    let fast = device.say(Some(1), b"x", ADR);
    heard(&mut network, fast);
    assert_eq!(network.session(EUI).unwrap().power_step, 1);
    for _ in 0..20 {
        slow(&mut network, &mut device, &[]);
    }
    // As before, and no step of power more.
    assert_eq!(asked(&mut network, &mut device), FASTER);
}

#[test]
fn a_device_without_adr_is_left_as_it_is() {
    let (mut network, mut device) = with_device();
    network.insert(device.profile(EUI).with_adr(false), None);
    for _ in 0..30 {
        assert!(!slow(&mut network, &mut device, &[]).answer_due);
    }
}

#[test]
fn a_device_that_doubts_its_network_hears_a_word() {
    let (mut network, mut device) = with_device();
    let doubts = Say {
        adr_ack_req: true,
        ..ADR
    };
    assert!(heard(&mut network, device.say(Some(1), b"x", doubts)).answer_due);
    let sent = network.answer(EUI, None, false).unwrap().unwrap();
    let read = device.read(&sent.frame);
    assert_eq!((read.port, read.options.len()), (None, 0));
}

#[test]
fn a_device_that_is_asked_tells_how_it_is() {
    let (mut network, mut device) = with_device();
    network.ask_status(EUI);
    assert!(heard(&mut network, device.uplink(1, b"x")).answer_due);
    assert_eq!(asked(&mut network, &mut device), [0x06]);
    let tells = Say {
        options: vec![0x06, 254, 0x3e],
        ..Say::default()
    };
    let uplink = heard(&mut network, device.say(None, &[], tells));
    let status = DeviceStatus {
        battery: 254,
        margin: -2,
    };
    assert_eq!((uplink.status, uplink.answer_due), (Some(status), false));
}

#[test]
fn us915_devices_are_told_the_sub_band_once() {
    let region = Region::new(RegionName::Us915).with_sub_band(2).unwrap();
    let config = NetworkConfig::new(&region);
    let mut network = Network::new(region, config);
    let mut device = Device::abp(1);
    network.insert(device.profile(EUI), None);
    let uplink = |network: &mut Network, device: &mut Device, options: &[u8]| {
        let say = Say {
            options: options.to_vec(),
            ..Say::default()
        };
        let mut reception = reception(1, -10.0);
        (reception.frequency, reception.data_rate) = (903_900_000, 2);
        match network.hear(
            &Collected::new(device.say(Some(1), b"x", say), reception),
            NOW,
        ) {
            Ok(Heard::Uplink(uplink)) => uplink.answer_due,
            other => panic!("{other:?}"),
        }
    };
    assert!(uplink(&mut network, &mut device, &[]));
    // All narrow channels off and wide channel 65 on, then narrow channels 8 to 15 on.
    let told = [0x03, 0x20, 0x02, 0x00, 0x71, 0x03, 0x20, 0x00, 0xff, 0x01];
    assert_eq!(asked(&mut network, &mut device), told);
    assert!(!uplink(
        &mut network,
        &mut device,
        &[0x03, 0x07, 0x03, 0x07]
    ));
    assert!(network.session(EUI).unwrap().channels_told);
    assert!(!uplink(&mut network, &mut device, &[]));
}

#[test]
fn devices_on_all_channels_of_us915_and_au915_are_told_to_be_faster() {
    // All narrow channels and the eight wide ones.
    for (name, frequency, told) in [
        (
            RegionName::Us915,
            902_300_000,
            [0x03, 0x32, 0xff, 0x00, 0x61],
        ),
        (
            RegionName::Au915,
            915_200_000,
            [0x03, 0x51, 0xff, 0x00, 0x61],
        ),
    ] {
        let region = Region::new(name);
        let config = NetworkConfig::new(&region);
        let mut network = Network::new(region, config);
        let mut device = Device::abp(1);
        network.insert(device.profile(EUI), None);
        let mut reception = reception(1, 10.0);
        (reception.frequency, reception.data_rate) = (frequency, 0);
        for count in 1..=20 {
            let frame = device.say(Some(1), b"x", ADR);
            match network.hear(&Collected::new(frame, reception.clone()), NOW) {
                Ok(Heard::Uplink(uplink)) => assert_eq!(uplink.answer_due, count == 20),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(asked(&mut network, &mut device), told);
    }
}

#[test]
fn channel_plans_that_do_not_fit_their_region_are_refused() {
    let eu = || Region::new(RegionName::Eu868);
    assert_eq!(eu().with_sub_band(1).unwrap_err(), RegionError::SubBand(1));
    assert_eq!(
        eu().with_channels(&[1]).unwrap_err(),
        RegionError::Channel(1)
    );
    assert!(eu().with_channels(&[867_100_000; 6]).is_err());
    let us = || Region::new(RegionName::Us915);
    assert!(us().with_sub_band(9).is_err() && us().with_sub_band(0).is_err());
    assert!(us().with_channels(&[904_100_000]).is_err());
}
