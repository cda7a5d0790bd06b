//! A packet forwarder and a Basics Station that are not ours: PyPI's `pamoja-gateway`, by
//! `interop/pamoja/peer.py`. Where it is not installed (`interop/README.md` says how), these tests
//! say that they test nothing; with `REQUIRE_PAMOJA` set, they fail.

mod support;

use std::time::Duration;

use bytes::Bytes;
use gateway_downstream_lorawan::event::DevEui;
use gateway_downstream_lorawan::proto::gwmp::{Body, Datagram, TxOutcome, TxRequest};
use gateway_downstream_lorawan::proto::mac::{Region, RegionName};
use gateway_downstream_lorawan::proto::station::discovery::{Answer, Question};
use gateway_downstream_lorawan::proto::station::{Downlink, Message, RouterConfig};
use gateway_downstream_lorawan::proto::{
    ConcentratorClock, Eui64, Modulation, Transmission, TxWindow,
};
use serde_json::json;
use support::{Peer, bytes, hex};

/// The peer's concentrator.
const GATEWAY: Eui64 = Eui64::new(0xb827_ebff_fe01_0203);
/// A data frame, and a join-request with every field its own.
const DATA: &str = "40f17dbe4982020001030795437876f02b11ff0d";
const JOIN: &str = "00010000d07ed5b37030051c000ba30400d12d78563412";

fn peer() -> Option<Peer> {
    let python = "peer.venv/bin/python";
    Peer::start("pamoja", python, python, "peer.py", "REQUIRE_PAMOJA")
}

fn transmission(clock: ConcentratorClock) -> Transmission {
    let window = |delay, frequency, data_rate, spreading_factor| TxWindow {
        delay: Duration::from_secs(delay),
        frequency,
        data_rate,
        modulation: Modulation::Lora {
            spreading_factor,
            bandwidth: 125_000,
        },
        power: 14,
    };
    Transmission {
        dev_eui: DevEui::new([1, 2, 3, 4, 5, 6, 7, 8]),
        gateway: GATEWAY,
        clock: Some(clock),
        windows: vec![window(1, 868_100_000, 3, 9), window(2, 869_525_000, 0, 12)],
        frame: Bytes::from_static(&[0x60, 1, 2, 3]),
    }
}

#[test]
fn a_foreign_forwarders_frames_are_heard_and_its_acknowledgements_understood() {
    let Some(mut peer) = peer() else {
        return;
    };
    let mut ask = |request| bytes(&peer.ask(&request), "datagram");
    let pull = Datagram::decode(&ask(json!({"request": "pull"}))).unwrap();
    assert_eq!((pull.gateway, pull.body.clone()), (GATEWAY, Body::PullData));

    let push = ask(json!({"request": "push", "frames": [DATA, JOIN]}));
    let push = Datagram::decode(&push).unwrap();
    let Body::PushData(data) = &push.body else {
        panic!("{push:?}")
    };
    let frames: Vec<_> = data
        .packets
        .iter()
        .map(|packet| hex(&packet.frame))
        .collect();
    assert_eq!(frames, [DATA, JOIN, JOIN]);
    let region = Region::new(RegionName::Eu868);
    let heard = data.packets[0].reception(GATEWAY, &region).unwrap();
    assert_eq!((heard.frequency, heard.data_rate), (868_100_000, 3));
    assert_eq!((heard.rssi, heard.snr), (-97.0, -3.2));
    assert_eq!(heard.clock, ConcentratorClock::Forwarder(3_512_348_611));
    assert_eq!(
        data.packets[2].modulation,
        Modulation::Fsk { bit_rate: 50_000 }
    );
    assert_eq!(
        data.status.as_ref().and_then(|status| status.heard),
        Some(2)
    );
    assert!(data.odd.is_empty());

    for (status, outcome) in [
        ("NONE", TxOutcome::Sent),
        ("TOO_LATE", TxOutcome::TooLate),
        ("COLLISION_PACKET", TxOutcome::Collision),
        ("GPS_UNLOCKED", TxOutcome::NoGps),
    ] {
        let ack = Datagram::decode(&ask(json!({"request": "tx_ack", "status": status})));
        assert_eq!(ack.unwrap().body, Body::TxAck(outcome), "{status}");
    }

    for (datagram, kind) in [(pull, "PullAck"), (push, "PushAck")] {
        let answer = datagram.acknowledgement().unwrap();
        let read = peer.ask(&json!({"request": "read", "datagram": hex(&answer)}));
        assert_eq!(read["kind"], kind);
        assert_eq!(read["token"], u16::from_be_bytes(datagram.token));
    }
}

#[test]
fn a_foreign_forwarder_reads_what_it_shall_send() {
    let Some(mut peer) = peer() else {
        return;
    };
    let transmission = transmission(ConcentratorClock::Forwarder(u32::MAX));
    let request = TxRequest::new(&transmission, &transmission.windows[0]).unwrap();
    let datagram = request.encode([0, 0xab]);
    assert_eq!(
        peer.ask(&json!({"request": "read", "datagram": hex(&datagram)})),
        json!({
            "kind": "PullResp", "token": 0xab, "timestamp": 999_999, "frequency": 868_100_000,
            "spreading_factor": 9, "bandwidth": 125_000, "power": 14, "inverted": true,
            "frame": "60010203",
        })
    );
}

#[test]
fn a_foreign_stations_frames_are_put_together_again() {
    let Some(mut peer) = peer() else {
        return;
    };
    for frame in [DATA, JOIN, "e00102030405060708090a0b"] {
        let answer = peer.ask(&json!({"request": "heard", "frame": frame}));
        let message = Message::decode(answer["message"].as_str().unwrap());
        let Ok(Message::Uplink(uplink)) = message else {
            panic!("{message:?}")
        };
        assert_eq!(hex(&uplink.frame), frame);
        assert_eq!((uplink.xtime, uplink.rctx), ((1 << 54) + 5, 1));
        assert_eq!((uplink.rssi, uplink.snr), (-60.0, 5.25));
    }
}

#[test]
fn a_foreign_station_finds_its_way_and_reads_what_it_is_told() {
    let Some(mut peer) = peer() else {
        return;
    };
    let question = peer.ask(&json!({"request": "discovery"}));
    let question = Question::decode(question["question"].as_str().unwrap()).unwrap();
    assert_eq!(question.router, GATEWAY);
    let endpoint = Answer::endpoint(GATEWAY, "ws://host:3001/1").encode();
    let read = peer.ask(&json!({"request": "router", "answer": endpoint}));
    assert_eq!(read["uri"], "ws://host:3001/1");
    let refusal = Answer::refusal(GATEWAY, "not here").encode();
    let read = peer.ask(&json!({"request": "router", "answer": refusal}));
    assert_eq!(read["error"], "not here");

    let config = RouterConfig::new(&Region::new(RegionName::Eu868), vec![json!({})]).unwrap();
    let read = peer.ask(&json!({"request": "station", "message": config.encode()}));
    assert_eq!(read["region"], "EU863");

    let clock = ConcentratorClock::Station {
        xtime: (1 << 54) + 5,
        rctx: 1,
    };
    let message = Downlink::new(&transmission(clock), 77).unwrap().encode();
    assert_eq!(
        peer.ask(&json!({"request": "station", "message": message})),
        json!({
            "kind": "dnmsg", "class": "0", "diid": 77, "frame": "60010203", "rx_delay": 1,
            "rx1": [3, 868_100_000], "rx2": [0, 869_525_000], "xtime": (1_i64 << 54) + 5,
            "rctx": 1,
        })
    );
}
