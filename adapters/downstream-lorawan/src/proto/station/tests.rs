use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::event::DevEui;

use super::super::Eui64;
use super::super::id::to_hex;
use super::super::mac::{Region, RegionName};
use super::super::radio::{ConcentratorClock, Modulation, Transmission, TxWindow};
use super::discovery::{Answer, Question};
use super::*;

const XTIME: i64 = 0x41_0000_1234_5678; // above 2^53

fn with_radio(mut message: Value) -> String {
    let radio = json!({
        "RefTime": 1_600_000_000.123, "DR": 5, "Freq": 868_100_000,
        "upinfo": {"rctx": 1, "xtime": XTIME, "gpstime": 0, "fts": -1, "rssi": -60, "snr": 9.25,
                   "rxtime": 1_600_000_000.2},
    });
    let message_fields = message.as_object_mut().unwrap();
    message_fields.extend(radio.as_object().unwrap().clone());
    message.to_string()
}

fn uplink(message: Value) -> Option<Uplink> {
    match Message::decode(&with_radio(message)) {
        Ok(Message::Uplink(uplink)) => Some(uplink),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

#[test]
fn a_data_frame_is_put_together_as_it_was_on_air() {
    let uplink = uplink(json!({
        "msgtype": "updf", "MHdr": 0x40, "DevAddr": -2_130_640_639, "FCtrl": 0x82, "FCnt": 0x0102,
        "FOpts": "0307", "FPort": 5, "FRMPayload": "DEADbeef", "MIC": -1,
    }))
    .unwrap();
    assert_eq!(
        to_hex(&uplink.frame),
        "40010101818202010307".to_owned() + "05deadbeef" + "ffffffff"
    );
    let reception = uplink.reception(Eui64::new(7));
    assert_eq!(
        reception.clock,
        ConcentratorClock::Station {
            xtime: XTIME,
            rctx: 1
        }
    );
    assert_eq!((reception.rssi, reception.snr), (-60.0, 9.25));
    assert_eq!((reception.data_rate, reception.frequency), (5, 868_100_000));
}

#[test]
fn a_frame_without_a_port_has_none() {
    let data = |port: i32, payload: &str| {
        uplink(json!({
            "msgtype": "updf", "MHdr": 0x40, "DevAddr": 1, "FCtrl": 0, "FCnt": 1, "FOpts": "",
            "FPort": port, "FRMPayload": payload, "MIC": 0,
        }))
    };
    assert_eq!(data(-1, "").unwrap().frame.len(), 12);
    assert_eq!(data(0, "").unwrap().frame.len(), 13);
    assert!(data(-1, "00").is_none());
    assert!(data(-2, "").is_none());
    assert!(data(256, "").is_none());
    assert!(data(1, "0").is_none());
    assert!(data(1, &"00".repeat(243)).is_none());
    assert!(data(1, &"00".repeat(242)).is_some());
}

#[test]
fn a_join_request_is_put_together_as_it_was_on_air() {
    for (join, dev) in [("JoinEui", "DevEui"), ("JoinEUI", "DevEUI")] {
        let uplink = uplink(json!({
            "msgtype": "jreq", "MHdr": 0, join: "70-B3-D5-7E-D0-00-00-01",
            dev: "00-04-A3-0B-00-1C-05-30", "DevNonce": 0x2dd1, "MIC": 0x1234_5678,
        }))
        .unwrap();
        assert_eq!(
            to_hex(&uplink.frame),
            "00010000d07ed5b37030051c000ba30400d12d78563412"
        );
    }
}

#[test]
fn what_is_proprietary_is_handed_on_as_it_is() {
    let uplink = uplink(json!({"msgtype": "propdf", "FRMPayload": "e0010203"})).unwrap();
    assert_eq!(uplink.frame, &[0xe0, 1, 2, 3][..]);
}

#[test]
fn what_else_a_station_says_is_understood() {
    let decode = |json: Value| Message::decode(&json.to_string()).unwrap();
    let Message::Version(version) = decode(json!({
        "msgtype": "version", "station": "2.0.6(linux/std)", "firmware": "1.0",
        "protocol": 2, "features": "rmtsh gps",
    })) else {
        panic!()
    };
    assert_eq!((version.protocol, &version.features[..]), (2, "rmtsh gps"));
    let sent = json!({"msgtype": "dntxed", "seqno": 9, "diid": 9, "DR": 3, "Freq": 869_525_000,
                      "DevEui": "::1", "rctx": 0, "xtime": XTIME, "txtime": 1.5, "gpstime": 0});
    let Message::Transmitted(sent) = decode(sent) else {
        panic!()
    };
    assert_eq!((sent.id, sent.data_rate), (9, Some(3)));
    assert!(matches!(
        decode(json!({"msgtype": "dntxed", "seqno": 8})),
        Message::Transmitted(Transmitted { id: 8, .. })
    ));
    assert!(Message::decode(r#"{"msgtype":"dntxed"}"#).is_err());
    assert_eq!(
        decode(json!({"msgtype": "timesync", "txtime": 12})),
        Message::TimeSync { txtime: 12 }
    );
    assert_eq!(
        decode(json!({"msgtype": "rmtsh"})),
        Message::Other("rmtsh".into())
    );
    assert!(Message::decode("[]").is_err());
    assert_eq!(
        time_answer(12, Duration::from_micros(34)),
        r#"{"msgtype":"timesync","txtime":12,"gpstime":34}"#
    );
}

fn window(delay: u64, frequency: u32, data_rate: u8) -> TxWindow {
    TxWindow {
        delay: Duration::from_secs(delay),
        frequency,
        data_rate,
        modulation: Modulation::Fsk { bit_rate: 50_000 },
        power: 14,
    }
}

fn transmission(clock: Option<ConcentratorClock>, windows: Vec<TxWindow>) -> Transmission {
    Transmission {
        dev_eui: DevEui::new([1, 2, 3, 4, 5, 6, 7, 8]),
        gateway: Eui64::new(2),
        clock,
        windows,
        frame: Bytes::from_static(&[0x60, 0xff]),
    }
}

#[test]
fn a_station_is_given_both_windows_and_its_own_clock() {
    let clock = ConcentratorClock::Station {
        xtime: XTIME,
        rctx: 1,
    };
    let windows = vec![window(5, 868_100_000, 5), window(6, 869_525_000, 0)];
    let message = Downlink::new(&transmission(Some(clock), windows), 77).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&message.encode()).unwrap(),
        json!({
            "msgtype": "dnmsg", "DevEui": "01-02-03-04-05-06-07-08", "dC": 0, "diid": 77,
            "pdu": "60ff", "priority": 0, "RxDelay": 5, "RX1DR": 5, "RX1Freq": 868_100_000,
            "RX2DR": 0, "RX2Freq": 869_525_000, "xtime": XTIME, "rctx": 1,
        })
    );
}

#[test]
fn a_second_window_alone_is_counted_as_a_first_one() {
    let clock = ConcentratorClock::Station { xtime: 1, rctx: 0 };
    let message = Downlink::new(
        &transmission(Some(clock), vec![window(2, 869_525_000, 0)]),
        1,
    );
    let message: Value = serde_json::from_str(&message.unwrap().encode()).unwrap();
    assert_eq!(
        (&message["RxDelay"], &message["RX1DR"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(message.get("RX2DR"), None);
}

#[test]
fn class_c_goes_at_once_in_the_second_windows_way() {
    let message = Downlink::new(&transmission(None, vec![window(0, 869_525_000, 0)]), 1);
    let message: Value = serde_json::from_str(&message.unwrap().encode()).unwrap();
    assert_eq!(
        (&message["dC"], &message["RX2Freq"]),
        (&json!(2), &json!(869_525_000))
    );
    assert_eq!(message.get("RX1Freq"), None);
    assert_eq!(message.get("xtime"), None);
}

#[test]
fn a_station_is_not_asked_to_do_what_it_cannot() {
    let forwarder = Some(ConcentratorClock::Forwarder(1));
    let station = Some(ConcentratorClock::Station { xtime: 1, rctx: 0 });
    assert_eq!(
        Downlink::new(&transmission(forwarder, vec![window(1, 1, 0)]), 1),
        None
    );
    assert_eq!(Downlink::new(&transmission(station, vec![]), 1), None);
    assert_eq!(
        Downlink::new(&transmission(station, vec![window(16, 1, 0)]), 1),
        None
    );
}

#[test]
fn a_station_is_sent_to_its_endpoint_or_refused() {
    let station = Eui64::new(1);
    for question in [
        r#"{"router":"::1"}"#,
        r#"{"router":1}"#,
        r#"{"router":"00-00-00-00-00-00-00-01"}"#,
    ] {
        assert_eq!(Question::decode(question).unwrap().router, station);
    }
    assert!(Question::decode(r#"{"router":"one"}"#).is_err());
    let answer: Value =
        serde_json::from_str(&Answer::endpoint(station, "ws://host/1").encode()).unwrap();
    assert_eq!(answer["uri"], "ws://host/1");
    assert_eq!(answer.get("error"), None);
    let answer: Value = serde_json::from_str(&Answer::refusal(station, "no").encode()).unwrap();
    assert_eq!((&answer["error"], answer.get("uri")), (&json!("no"), None));
}

#[test]
fn a_station_is_told_its_region() {
    let config = RouterConfig::new(&Region::new(RegionName::Us915), vec![json!({})]).unwrap();
    let config: Value = serde_json::from_str(&config.with_net_ids(vec![19]).encode()).unwrap();
    assert_eq!(config["msgtype"], "router_config");
    assert_eq!(config["region"], "US902");
    assert_eq!(config["hwspec"], "sx1301/1");
    assert_eq!(config["NetID"], json!([19]));
    assert_eq!(config["JoinEui"], Value::Null);
    let rates = config["DRs"].as_array().unwrap();
    assert_eq!(rates.len(), 16);
    assert_eq!(rates[0], json!([10, 125, 0]));
    assert_eq!(rates[4], json!([8, 500, 0]));
    assert_eq!(rates[7], json!([-1, 0, 0]));
    assert_eq!(rates[8], json!([12, 500, 1]));
    let asia = RouterConfig::new(&Region::new(RegionName::As923), vec![json!({})]).unwrap();
    let asia: Value = serde_json::from_str(&asia.encode()).unwrap();
    assert_eq!(asia["region"], "AS923-1");
    let eu = RouterConfig::new(&Region::new(RegionName::Eu868), vec![json!({})]).unwrap();
    let eu: Value = serde_json::from_str(&eu.encode()).unwrap();
    assert_eq!(eu["DRs"][7], json!([0, 0, 0]));
    assert!(RouterConfig::new(&Region::new(RegionName::Ism2400), vec![]).is_none());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        if let Ok(Message::Uplink(uplink)) = Message::decode(&text) {
            prop_assert!(!uplink.frame.is_empty() && uplink.frame.len() <= 255);
        }
    }
}
