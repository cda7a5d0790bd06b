use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;

use super::super::*;
use super::device::{EUI, NOW, reception, with_device};
use crate::proto::gwmp::{Body, Datagram};

const HOLD: Duration = Duration::from_millis(200);
/// Until the second window of a device whose first one comes after five seconds.
const KNOWN: Duration = Duration::from_secs(6);

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn what_three_concentrators_heard_is_one_frame_with_the_best_first() {
    let mut collector = Collector::new(HOLD, KNOWN, 10);
    let frame = Bytes::from_static(b"frame");
    assert_eq!(
        collector.hear(at(0), frame.clone(), reception(1, -3.0)),
        CopyKind::First
    );
    assert_eq!(
        collector.hear(at(50), frame.clone(), reception(2, 7.0)),
        CopyKind::Another
    );
    assert_eq!(
        collector.hear(at(199), frame.clone(), reception(3, 6.0)),
        CopyKind::Another
    );
    assert_eq!(collector.next_at(), Some(HOLD));
    assert_eq!(collector.next(at(199)), None);
    let collected = collector.next(at(200)).unwrap();
    assert_eq!(collected.best, reception(2, 7.0));
    assert_eq!(collected.others, [reception(1, -3.0), reception(3, 6.0)]);
    assert_eq!(collector.next(at(1000)), None);
}

#[test]
fn a_copy_that_comes_late_is_not_taken_for_the_devices_own() {
    let mut collector = Collector::new(HOLD, KNOWN, 10);
    let frame = Bytes::from_static(b"frame");
    collector.hear(at(0), frame.clone(), reception(1, 1.0));
    assert!(collector.next(at(200)).is_some());
    assert_eq!(
        collector.hear(at(5999), frame.clone(), reception(2, 1.0)),
        CopyKind::Late
    );
    // From now on the device may have sent it again.
    assert_eq!(
        collector.hear(at(6000), frame, reception(1, 1.0)),
        CopyKind::First
    );
}

#[test]
fn a_concentrator_counts_once_with_its_best() {
    let mut collected = Collected::new(Bytes::new(), reception(1, 1.0));
    for (gateway, snr) in [
        (1, 3.0),
        (1, 2.0),
        (2, 2.0),
        (2, 5.0),
        (2, 4.0),
        (3, -1.0),
        (3, 0.0),
    ] {
        collected.add(reception(gateway, snr));
    }
    assert_eq!(collected.best, reception(2, 5.0));
    assert_eq!(collected.others, [reception(1, 3.0), reception(3, 0.0)]);
}

#[test]
fn a_flood_of_frames_is_held_up_to_a_bound() {
    let mut collector = Collector::new(HOLD, KNOWN, 3);
    for number in 0..3_u8 {
        let frame = Bytes::from(vec![number]);
        assert_eq!(
            collector.hear(at(0), frame, reception(1, 1.0)),
            CopyKind::First
        );
    }
    let more = Bytes::from_static(&[9]);
    assert_eq!(
        collector.hear(at(0), more.clone(), reception(1, 1.0)),
        CopyKind::Overflow
    );
    assert_eq!(std::iter::from_fn(|| collector.next(at(200))).count(), 3);
    // Those that were handed out make room, the oldest first.
    for (frame, kind) in [
        (more, CopyKind::First),
        (Bytes::from_static(&[1]), CopyKind::Late),
        (Bytes::from_static(&[0]), CopyKind::First),
    ] {
        assert_eq!(collector.hear(at(300), frame, reception(1, 1.0)), kind);
    }
}

#[test]
fn concentrators_beyond_the_thirty_second_are_not_kept() {
    let mut collected = Collected::new(Bytes::new(), reception(0, 1.0));
    for gateway in 1..100 {
        collected.add(reception(gateway, 1.0));
    }
    assert_eq!(collected.gateways(), 32);
}

#[test]
fn the_answer_goes_through_the_concentrator_that_heard_best() {
    let (mut network, mut device) = with_device();
    let mut collected = Collected::new(device.uplink(1, b"x"), reception(1, -3.0));
    collected.add(reception(2, 7.0));
    network.hear(&collected, NOW).unwrap();
    let message = Message::new(1, 1, &b"y"[..]);
    let sent = network.answer(EUI, Some(&message), false).unwrap().unwrap();
    assert_eq!(sent.gateway.get(), 2);
}

#[test]
fn what_three_packet_forwarders_send_is_one_uplink_before_and_after_a_restart() {
    let (mut network, mut device) = with_device();
    let mut collector = Collector::new(HOLD, KNOWN, 10);
    for round in 0..3_u32 {
        let frame = device.uplink(1, b"once");
        let start = at(u64::from(round) * 10_000);
        for gateway in 1..=3_u8 {
            let data = base64::engine::general_purpose::STANDARD.encode(&frame);
            let json = serde_json::json!({"rxpk": [{
                "tmst": 5, "freq": 868.1, "modu": "LORA", "datr": "SF7BW125", "codr": "4/5",
                "rssi": -60, "lsnr": gateway, "data": data,
            }]});
            let mut datagram = vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, gateway];
            datagram.extend(json.to_string().bytes());
            let datagram = Datagram::decode(&datagram).unwrap();
            let Body::PushData(pushed) = &datagram.body else {
                panic!("{datagram:?}")
            };
            let reception = pushed.packets[0].reception(datagram.gateway, network.region());
            collector.hear(start, pushed.packets[0].frame.clone(), reception.unwrap());
        }
        let collected = collector.next(start + HOLD).unwrap();
        assert_eq!((collected.gateways(), collected.best.gateway.get()), (3, 3));
        assert_eq!(collector.next(start + HOLD), None);
        let Ok(Heard::Uplink(uplink)) = network.hear(&collected, NOW) else {
            panic!()
        };
        assert_eq!((uplink.counter, &uplink.payload[..]), (round, &b"once"[..]));

        let record = network.record(EUI);
        network = super::device::network();
        network.insert(device.profile(EUI), record);
        assert!(matches!(
            network.hear(&collected, NOW),
            Ok(Heard::Repeat(_))
        ));
    }
}
