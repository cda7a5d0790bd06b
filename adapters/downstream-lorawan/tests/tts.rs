//! The Things Stack's messages, as its documentation has them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use gateway_downstream_lorawan::cloud::{DecodeError, Told};
use gateway_downstream_lorawan::event::{
    DevEui, DeviceAck, Downlink, DownlinkFailed, DownlinkId, Event, FailureReason, Modulation,
    Priority, TransmitAck,
};
use gateway_downstream_lorawan::tts::{clear, decode, push};
use serde_json::{Value, json};
use tokio::time::Instant;

const DEV_EUI: DevEui = DevEui::new([0x70, 0xb3, 0xd5, 0x7e, 0xd0, 0, 0, 1]);

fn message(key: &str, value: &Value) -> Value {
    json!({
        "end_device_ids": {
            "device_id": "dev1",
            "application_ids": {"application_id": "app1"},
            "dev_eui": "70B3D57ED0000001",
            "join_eui": "8000000000000003",
            "dev_addr": "00BCB929",
        },
        "correlation_ids": ["gs:uplink:01HX", "as:up:01E0WZGT6Y7657CPFPE5WEYDSQ"],
        "received_at": "2026-11-21T12:00:00.123456789Z",
        key: value,
    })
}

fn read(body: &Value) -> Result<Told, DecodeError> {
    let body = body.to_string();
    fuzz_seeds::keep("lorawan_tts", body.as_bytes());
    decode(body.as_bytes())
}

fn events(key: &str, value: &Value) -> Vec<Event> {
    read(&message(key, value)).unwrap().events
}

fn uplink() -> Value {
    json!({
        "session_key_id": "AXA50tHUZRGSpXDVqj7mkA==",
        "f_port": 1,
        "f_cnt": 70_000,
        "frm_payload": "gkHe",
        "decoded_payload": {"temperature": 1.0},
        "rx_metadata": [
            {"gateway_ids": {"gateway_id": "gtw2", "eui": "9C5C8E00001A05C5"}, "rssi": -110,
             "snr": -4.2, "uplink_token": "eyJ0"},
            {"gateway_ids": {"gateway_id": "gtw1"}, "time": "2026-11-21T12:00:00Z",
             "timestamp": 2_463_457_000u32, "rssi": -35, "channel_rssi": -35, "snr": 5.2,
             "channel_index": 2, "location": {"latitude": 37.97, "longitude": 23.72, "altitude": 2,
             "source": "SOURCE_REGISTRY"}},
        ],
        "settings": {"data_rate": {"lora": {"bandwidth": 125_000, "spreading_factor": 7,
            "coding_rate": "4/5"}}, "frequency": "868300000"},
        "received_at": "2026-11-21T12:00:00Z",
        "confirmed": true,
        "consumed_airtime": "0.056576s",
        "network_ids": {"net_id": "000013", "tenant_id": "ttn"},
    })
}

#[test]
fn an_uplink_keeps_all_that_the_things_stack_says_of_it() {
    let told = read(&message("uplink_message", &uplink())).unwrap();
    assert_eq!(told.dev_eui, DEV_EUI);
    assert_eq!(
        (&*told.route.application, &*told.route.device),
        ("app1", "dev1")
    );
    let [Event::Uplink(uplink)] = &told.events[..] else {
        panic!("{:?}", told.events);
    };
    uplink.validate().unwrap();
    assert_eq!((uplink.port, uplink.frame_counter), (Some(1), 70_000));
    assert_eq!(uplink.payload, [0x82, 0x41, 0xde][..]);
    assert_eq!(
        uplink.object.as_deref(),
        Some(&br#"{"temperature":1.0}"#[..])
    );
    assert_eq!(uplink.frequency, Some(868_300_000));
    let lora = Modulation::Lora {
        spreading_factor: 7,
        bandwidth: 125_000,
    };
    assert_eq!(uplink.modulation, Some(lora));
    assert!(uplink.confirmed);
    assert_eq!(uplink.dev_addr.unwrap().to_string(), "00bcb929");
    let gateways = uplink.receptions.iter().map(|heard| &*heard.gateway);
    assert!(gateways.eq(["gtw1", "9c5c8e00001a05c5"]));
    assert_eq!(uplink.receptions[0].location.unwrap().altitude, Some(2.0));
}

#[test]
fn numbers_that_are_none_cost_no_uplink() {
    let mut body = uplink();
    body["rx_metadata"][0]["snr"] = "NaN".into();
    body["rx_metadata"][1]["rssi"] = Value::Null;
    let told = events("uplink_message", &body);
    let [Event::Uplink(uplink)] = &told[..] else {
        panic!("{told:?}");
    };
    let ratios = uplink.receptions.iter().map(|heard| heard.snr);
    assert!(ratios.eq([Some(5.2), None]));
}

#[test]
fn the_correlation_id_names_the_message_at_the_hub() {
    let told = read(&message("uplink_message", &uplink())).unwrap();
    let [Event::Uplink(uplink)] = &told.events[..] else {
        panic!("{:?}", told.events);
    };
    let id = "01E0WZGT6Y7657CPFPE5WEYDSQ";
    assert_eq!(uplink.deduplication_id.as_deref(), Some(id));
    assert!(told.id.unwrap().ends_with(id));
}

#[test]
fn the_outcomes_of_our_downlinks_are_known_by_their_correlation_id() {
    let downlink = json!({"f_port": 15, "f_cnt": 3, "frm_payload": "vu8=", "confirmed": true,
        "correlation_ids": ["as:downlink:01E1", "iot-gateway:c2d-1"]});
    let id = DownlinkId::new("c2d-1");
    let mut sent = TransmitAck::new(DEV_EUI, id.clone(), Ok(()));
    sent.frame_counter = Some(3);
    assert_eq!(
        events("downlink_sent", &downlink),
        [Event::TransmitAck(sent)]
    );
    let mut acknowledged = DeviceAck::new(DEV_EUI, id.clone(), true);
    acknowledged.frame_counter = Some(3);
    assert_eq!(
        events("downlink_ack", &downlink),
        [Event::DeviceAck(acknowledged)]
    );
    let failure = json!({"downlink": downlink, "error": {"namespace": "pkg/networkserver",
        "name": "application_downlink_too_long", "code": 3}});
    let failed = DownlinkFailed::new(DEV_EUI, id.clone(), FailureReason::TooLong);
    assert_eq!(
        events("downlink_failed", &failure),
        [Event::DownlinkFailed(failed)]
    );
    let invalidated = json!({"downlinks": [downlink], "last_f_cnt_down": 42});
    let failed = DownlinkFailed::new(DEV_EUI, id, FailureReason::Other);
    let told = events("downlink_queue_invalidated", &invalidated);
    assert_eq!(told, [Event::DownlinkFailed(failed)]);
}

#[test]
fn only_the_last_refusal_of_a_device_ends_a_downlink() {
    let nack = |attempt: u32| {
        json!({"correlation_ids": ["iot-gateway:c2d-1"],
            "confirmed_retry": {"attempt": attempt, "max_attempts": 3}})
    };
    // The next attempt is the third of three.
    assert_eq!(events("downlink_nack", &nack(3)), []);
    let refused = DeviceAck::new(DEV_EUI, DownlinkId::new("c2d-1"), false);
    assert_eq!(
        events("downlink_nack", &nack(4)),
        [Event::DeviceAck(refused)]
    );
}

#[test]
fn what_is_told_of_others_downlinks_or_is_of_no_use_is_nothing() {
    let others = json!({"f_port": 1, "correlation_ids": ["my-correlation-id"]});
    for (key, value) in [
        ("downlink_sent", &others),
        ("downlink_queued", &others),
        (
            "service_data",
            &json!({"service": "lora-cloud-device-management-v1"}),
        ),
    ] {
        assert_eq!(events(key, value), [], "{key}");
    }
}

#[test]
fn joins_and_locations_are_read() {
    let joined = events("join_accept", &json!({"session_key_id": "AXBS"}));
    assert!(matches!(&joined[..], [Event::Join(join)] if join.dev_eui == DEV_EUI));
    let solved = json!({"service": "alcsync", "location": {"latitude": 1.5, "longitude": 2.5}});
    let located = events("location_solved", &solved);
    assert!(matches!(&located[..], [Event::Located(located)] if located.location.latitude == 1.5));
}

#[test]
fn what_cannot_be_served_is_refused() {
    let mut encrypted = uplink();
    encrypted["app_s_key"] = json!({"encrypted_key": "QgA="});
    let refused = read(&message("uplink_message", &encrypted));
    assert!(
        matches!(refused, Err(DecodeError::Encrypted)),
        "{refused:?}"
    );
    let mut nameless = message("uplink_message", &uplink());
    nameless["end_device_ids"]["dev_eui"] = Value::Null;
    assert!(read(&nameless).is_err());
    let mut astray = message("uplink_message", &uplink());
    astray["end_device_ids"]["device_id"] = "dev1/down/push".into();
    assert!(matches!(read(&astray), Err(DecodeError::Name)));
}

#[test]
fn a_downlink_is_written_as_the_things_stack_reads_it() {
    let mut downlink = Downlink::new(DEV_EUI, 15, &[0xbe, 0xef][..], Instant::now());
    downlink.id = DownlinkId::new("4711");
    downlink.confirmed = true;
    downlink.priority = Priority::High;
    let body: Value = serde_json::from_slice(&push(&downlink)).unwrap();
    let expected = json!({"downlinks": [{"f_port": 15, "frm_payload": "vu8=", "confirmed": true,
        "priority": "HIGH", "correlation_ids": ["iot-gateway:4711"],
        "confirmed_retry": {"attempt": 1, "max_attempts": 1}}]});
    assert_eq!(body, expected);
    assert_eq!(clear(), &br#"{"downlinks":[]}"#[..]);
}
