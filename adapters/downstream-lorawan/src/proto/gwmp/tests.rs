use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::event::DevEui;

use super::super::mac::{Region, RegionName};
use super::super::radio::{CodingRate, ConcentratorClock, Modulation, Transmission, TxWindow};
use super::*;

fn push(json: &[u8]) -> Vec<u8> {
    let mut datagram = vec![2, 0xab, 0xcd, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    datagram.extend_from_slice(json);
    datagram
}

fn pushed(json: &Value) -> PushData {
    match Datagram::decode(&push(json.to_string().as_bytes()))
        .unwrap()
        .body
    {
        Body::PushData(data) => data,
        other => panic!("{other:?}"),
    }
}

fn packet(change: &[(&str, Value)]) -> Value {
    let mut packet = json!({
        "tmst": 3_512_348_611_u32, "chan": 2, "rfch": 0, "freq": 866.349_812, "stat": 1,
        "modu": "LORA", "datr": "SF7BW125", "codr": "4/6", "rssi": -35, "lsnr": 5.1,
        "size": 4, "data": "AQIDBA==",
    });
    for (key, value) in change {
        packet[*key] = value.clone();
    }
    packet
}

#[test]
fn a_frame_is_read_as_it_was_heard() {
    let data = pushed(&json!({"rxpk": [packet(&[])]}));
    let [packet] = &data.packets[..] else {
        panic!("{data:?}")
    };
    assert_eq!(packet.frame, Bytes::from_static(&[1, 2, 3, 4]));
    assert_eq!(packet.timestamp, Some(3_512_348_611));
    assert_eq!(packet.frequency, 866_349_812);
    assert_eq!(
        packet.modulation,
        Modulation::Lora {
            spreading_factor: 7,
            bandwidth: 125_000
        }
    );
    assert_eq!(packet.coding_rate, Some(CodingRate { data: 4, of: 6 }));
    assert_eq!((packet.rssi, packet.snr), (Some(-35.0), Some(5.1)));
    assert_eq!(packet.crc, CrcStatus::Good);
}

#[test]
fn one_odd_packet_costs_no_other_and_not_the_acknowledgement() {
    let json = json!({"rxpk": [
        packet(&[]),
        packet(&[("data", json!("***"))]),
        packet(&[("datr", json!({"sf": 7}))]),
        17,
        packet(&[("datr", json!(50_000)), ("modu", json!("FSK"))]),
    ], "stat": {"rxnb": "many"}});
    let datagram = Datagram::decode(&push(json.to_string().as_bytes())).unwrap();
    assert_eq!(datagram.acknowledgement(), Some([2, 0xab, 0xcd, 1]));
    let Body::PushData(data) = datagram.body else {
        panic!("{datagram:?}")
    };
    assert_eq!(data.packets.len(), 2);
    assert_eq!(data.odd.len(), 4);
    assert_eq!(
        data.odd.iter().map(|odd| odd.part).collect::<Vec<_>>(),
        ["rxpk", "rxpk", "rxpk", "stat"]
    );
}

#[test]
fn json_that_cannot_be_read_is_acknowledged_all_the_same() {
    let datagram = Datagram::decode(&push(b"{\"rxpk\":[")).unwrap();
    assert!(datagram.acknowledgement().is_some());
    assert!(matches!(datagram.body, Body::PushData(PushData { odd, .. }) if odd.len() == 1));
}

#[test]
fn every_form_of_base64_is_read() {
    let bytes = [0xfb, 0xff, 0xbf, 0x01];
    for data in ["+/+/AQ==", "+/+/AQ", "-_-_AQ==", "-_-_AQ"] {
        let data = pushed(&json!({"rxpk": [packet(&[("data", json!(data))])]}));
        assert_eq!(data.packets[0].frame, &bytes[..]);
    }
}

#[test]
fn other_modulations_are_read() {
    let read = |change: &[(&str, Value)]| {
        let data = pushed(&json!({"rxpk": [packet(change)]}));
        data.packets.first().map(|packet| packet.modulation)
    };
    let fsk = Modulation::Fsk { bit_rate: 50_000 };
    assert_eq!(
        read(&[("modu", json!("FSK")), ("datr", json!(50_000))]),
        Some(fsk)
    );
    let hopping = read(&[
        ("modu", json!("LR-FHSS")),
        ("datr", json!("M0CW137")),
        ("codr", json!("4/6")),
    ]);
    let width = Modulation::LrFhss {
        channel_width: 137_000,
        coding_rate: CodingRate { data: 4, of: 6 },
    };
    assert_eq!(hopping, Some(width));
    assert_eq!(Region::new(RegionName::Eu868).data_rate(&width), Some(9));
    for datr in ["SF7", "SF7BW99999999", "SFxBW125", "M0", ""] {
        assert_eq!(read(&[("datr", json!(datr))]), None, "{datr}");
    }
}

#[test]
fn what_newer_forwarders_add_is_read_and_what_is_unknown_ignored() {
    let data = pushed(&json!({"rxpk": [packet(&[
        ("jver", json!(2)), ("brd", json!(1)), ("aesk", json!(0)), ("mid", json!(8)),
        ("foff", json!(-120)), ("rssis", json!(-37)), ("ftime", json!(123_456)),
        ("tmms", json!(1_234_567_890_123_u64)), ("nobody", json!({"knows": [1]})),
    ])], "stat": {"time": "2014-01-12 08:59:28 GMT", "lati": 46.24, "temp": 23.2, "rxnb": 2}}));
    let packet = &data.packets[0];
    assert_eq!(packet.board, Some(1));
    assert_eq!(packet.frequency_offset, Some(-120));
    assert_eq!(packet.signal_rssi, Some(-37.0));
    assert_eq!(packet.fine_time, Some(123_456));
    assert_eq!(packet.gps_time, Some(1_234_567_890_123));
    let status = data.status.unwrap();
    assert_eq!((status.temperature, status.heard), (Some(23.2), Some(2)));
}

#[test]
fn of_several_antennas_the_best_is_told() {
    let mut packet = packet(&[(
        "rsig",
        json!([
            {"ant": 0, "chan": 7, "rssic": -101, "lsnr": -2.5},
            {"ant": 1, "chan": 8, "rssic": -98, "lsnr": 4.0},
        ]),
    )]);
    for key in ["rssi", "lsnr", "chan"] {
        packet.as_object_mut().unwrap().remove(key);
    }
    let data = pushed(&json!({"rxpk": [packet]}));
    let packet = &data.packets[0];
    assert_eq!(
        (packet.rssi, packet.snr, packet.channel),
        (Some(-98.0), Some(4.0), Some(8))
    );
}

#[test]
fn a_frame_is_neither_empty_nor_longer_than_the_air_allows() {
    for data in [String::new(), base64::encode(&[0; 256])] {
        let data = pushed(&json!({"rxpk": [packet(&[("data", json!(data))])]}));
        assert_eq!((data.packets.len(), data.odd.len()), (0, 1));
    }
}

#[test]
fn zeros_after_the_json_and_strange_letters_in_it_do_no_harm() {
    let mut json = br#"{"stat":{"desc":"caf"#.to_vec();
    json.extend(b"\xe9\",\"rxnb\":2}}\0\0");
    let Body::PushData(data) = Datagram::decode(&push(&json)).unwrap().body else {
        panic!()
    };
    assert_eq!(data.status.and_then(|status| status.heard), Some(2));
}

#[test]
fn what_is_not_of_this_protocol_is_refused() {
    assert_eq!(Datagram::decode(&[]), Err(DatagramError::TooShort));
    assert_eq!(
        Datagram::decode(&[2, 0, 0, 2, 1]),
        Err(DatagramError::TooShort)
    );
    assert_eq!(Datagram::decode(&[1; 20]), Err(DatagramError::Version(1)));
    assert_eq!(
        Datagram::decode(&[2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]),
        Err(DatagramError::Kind(3))
    );
}

fn outcome(json: &str) -> (TxOutcome, Option<[u8; 4]>) {
    let mut bytes = vec![2, 1, 2, 5, 1, 2, 3, 4, 5, 6, 7, 8];
    bytes.extend_from_slice(json.as_bytes());
    let datagram = Datagram::decode(&bytes).unwrap();
    let answer = datagram.acknowledgement();
    match datagram.body {
        Body::TxAck(outcome) => (outcome, answer),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_became_of_a_downlink_is_told() {
    let table = [
        ("", TxOutcome::Sent),
        ("\0", TxOutcome::Sent),
        ("{}", TxOutcome::Sent),
        (r#"{"txpk_ack":{"error":"NONE"}}"#, TxOutcome::Sent),
        (
            r#"{"txpk_ack":{"warn":"TX_POWER","value":20}}"#,
            TxOutcome::SentWithPower(20),
        ),
        (r#"{"txpk_ack":{"error":"TOO_LATE"}}"#, TxOutcome::TooLate),
        (r#"{"txpk_ack":{"error":"TOO_EARLY"}}"#, TxOutcome::TooEarly),
        (
            r#"{"txpk_ack":{"error":"COLLISION_PACKET"}}"#,
            TxOutcome::Collision,
        ),
        (
            r#"{"txpk_ack":{"error":"COLLISION_BEACON"}}"#,
            TxOutcome::Collision,
        ),
        (r#"{"txpk_ack":{"error":"TX_FREQ"}}"#, TxOutcome::Frequency),
        (r#"{"txpk_ack":{"error":"TX_POWER"}}"#, TxOutcome::Power),
        (r#"{"txpk_ack":{"error":"GPS_UNLOCKED"}}"#, TxOutcome::NoGps),
        (
            r#"{"txpk_ack":{"error":"BUSY"}}"#,
            TxOutcome::Other("BUSY".into()),
        ),
    ];
    for (json, expected) in table {
        assert_eq!(outcome(json), (expected, None), "{json}");
    }
    assert!(matches!(outcome("{").0, TxOutcome::Other(_)));
    assert!(outcome("").0.is_sent() && !outcome("{").0.is_sent());
}

fn transmission(clock: Option<ConcentratorClock>) -> (Transmission, TxWindow) {
    let window = TxWindow {
        delay: Duration::from_secs(1),
        frequency: 868_100_000,
        data_rate: 5,
        modulation: Modulation::Lora {
            spreading_factor: 7,
            bandwidth: 125_000,
        },
        power: 14,
    };
    let transmission = Transmission {
        dev_eui: DevEui::new([1; 8]),
        gateway: Eui64::new(2),
        clock,
        windows: vec![window],
        frame: Bytes::from_static(&[1, 2, 3, 4]),
    };
    (transmission, window)
}

fn written(request: &TxRequest) -> Value {
    let datagram = request.encode([7, 9]);
    assert_eq!(datagram[..4], [2, 7, 9, 3]);
    serde_json::from_slice::<Value>(&datagram[4..]).unwrap()["txpk"].clone()
}

#[test]
fn a_window_is_counted_from_the_uplink_on_a_counter_that_wraps() {
    let (transmission, window) = transmission(Some(ConcentratorClock::Forwarder(u32::MAX)));
    let request = TxRequest::new(&transmission, &window).unwrap();
    assert_eq!(
        written(&request),
        json!({
            "imme": false, "tmst": 999_999, "freq": 868.1, "rfch": 0, "powe": 14, "modu": "LORA",
            "datr": "SF7BW125", "codr": "4/5", "ipol": true, "ncrc": true, "size": 4, "data": "AQIDBA==",
        })
    );
}

#[test]
fn without_a_window_a_frame_goes_at_once() {
    let (transmission, mut window) = transmission(None);
    window.modulation = Modulation::Fsk { bit_rate: 50_000 };
    let request = written(&TxRequest::new(&transmission, &window).unwrap());
    assert_eq!(request["imme"], true);
    assert_eq!(request.get("tmst"), None);
    assert_eq!(request["datr"], 50_000);
    assert_eq!(request["fdev"], 25_000);
}

#[test]
fn a_forwarder_is_not_asked_to_follow_a_stations_clock() {
    let (transmission, window) =
        transmission(Some(ConcentratorClock::Station { xtime: 1, rctx: 0 }));
    assert_eq!(TxRequest::new(&transmission, &window), None);
}

proptest! {
    #[test]
    fn whatever_was_heard_is_read_back(frame in prop::collection::vec(any::<u8>(), 1..=255), tmst: u32) {
        let packet = packet(&[("data", json!(base64::encode(&frame))), ("tmst", json!(tmst))]);
        let data = pushed(&json!({"rxpk": [packet]}));
        prop_assert_eq!(&data.packets[0].frame[..], &frame[..]);
        prop_assert_eq!(data.packets[0].timestamp, Some(tmst));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(datagram) = Datagram::decode(&bytes) {
            prop_assert_eq!(datagram.acknowledgement().is_none(), matches!(datagram.body, Body::TxAck(_)));
        }
    }
}
