//! ChirpStack's events and commands, as its documentation and its protobuf definitions have them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, SystemTime};

use gateway_downstream_lorawan::chirpstack::{EventKind, Format, decode, encode};
use gateway_downstream_lorawan::cloud::{DecodeError, Told};
use gateway_downstream_lorawan::event::{
    Battery, DevEui, DeviceAck, Downlink, DownlinkFailed, DownlinkId, Event, FailureReason,
    LogLevel, Modulation, TransmitAck, Uplink,
};
use serde_json::{Value, json};
use tokio::time::Instant;

const DEV_EUI: DevEui = DevEui::new([1, 2, 3, 4, 5, 6, 7, 8]);
const ITEM: &str = "2c5b3a1e-6f0e-4f5c-9f3b-0d9a2a6f1b11";

fn device() -> Value {
    json!({
        "tenantId": "52f14cd4-c6f1-4fbd-8f87-4025e1d49242",
        "tenantName": "ChirpStack",
        "applicationId": "ca739e26-7b67-4f14-b69e-d568c22a5a75",
        "applicationName": "Test",
        "deviceProfileId": "605d08d4-65f5-4d2c-8a5a-3d2457662f79",
        "deviceName": "thermometer",
        "devEui": "0102030405060708",
        "tags": {"key": "value"},
    })
}

fn read(kind: EventKind, body: &Value) -> Result<Told, DecodeError> {
    let body = body.to_string();
    // Behind the kind's place among the target's.
    let kinds = ["up", "join", "ack", "txack", "log", "status", "location"];
    let place = kinds
        .iter()
        .position(|known| known.parse().is_ok_and(|known: EventKind| known == kind));
    let place = place.expect("the target knows it") as u8;
    fuzz_seeds::keep("lorawan_chirpstack", &[&[place], body.as_bytes()].concat());
    decode(kind, Format::Json, body.as_bytes())
}

/// Reads an event that tells one thing.
fn one(kind: EventKind, body: &Value) -> Event {
    let mut events = read(kind, body).unwrap().events;
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

fn up() -> Value {
    json!({
        "deduplicationId": "3ac7e3c4-4401-4b8d-9386-a5c902f9202d",
        "time": "2026-11-21T09:34:15.775023+00:00",
        "deviceInfo": device(),
        "devAddr": "00189440",
        "dr": 5,
        "fCnt": 4,
        "fPort": 1,
        "confirmed": true,
        "data": "qgA=",
        "object": {"temperature": 21.5},
        "rxInfo": [
            {"gatewayId": "0016c001f153a14c", "uplinkId": 4217106255u32, "rssi": -95, "snr": -2.5,
             "context": "E3OWOQ==", "metadata": {"region_name": "eu868"}, "crcStatus": "CRC_OK"},
            {"gatewayId": "0016c001f153a14d", "uplinkId": 4217106256u32, "rssi": -48, "snr": 9,
             "channel": 2, "rfChain": 1, "gwTime": "2026-11-21T09:34:15.5+00:00",
             "location": {"latitude": 52.5, "longitude": 13.4, "altitude": 40}},
        ],
        "txInfo": {"frequency": 868_100_000, "modulation":
            {"lora": {"bandwidth": 125_000, "spreadingFactor": 7, "codeRate": "CR_4_5"}}},
        "regionConfigId": "eu868",
    })
}

#[test]
fn an_uplink_keeps_all_that_chirpstack_says_of_it() {
    let told = read(EventKind::Up, &up()).unwrap();
    assert_eq!(told.dev_eui, DEV_EUI);
    assert_eq!(
        told.route.application,
        "ca739e26-7b67-4f14-b69e-d568c22a5a75"
    );
    let id = told.id.unwrap();
    assert!(id.ends_with("3ac7e3c4-4401-4b8d-9386-a5c902f9202d"), "{id}");
    let [Event::Uplink(uplink)] = &told.events[..] else {
        panic!("{:?}", told.events);
    };
    uplink.validate().unwrap();
    assert_eq!(uplink.dev_addr.unwrap().to_string(), "00189440");
    assert_eq!((uplink.port, uplink.frame_counter), (Some(1), 4));
    assert!(uplink.confirmed && !uplink.adr);
    assert_eq!(uplink.payload, [0xaa, 0][..]);
    assert_eq!(
        uplink.object.as_deref(),
        Some(&br#"{"temperature":21.5}"#[..])
    );
    let since = uplink.received_at.duration_since(SystemTime::UNIX_EPOCH);
    assert_eq!(since.unwrap().subsec_micros(), 775_023);
    assert_eq!(
        (uplink.data_rate, uplink.frequency),
        (Some(5), Some(868_100_000))
    );
    let lora = Modulation::Lora {
        spreading_factor: 7,
        bandwidth: 125_000,
    };
    assert_eq!(uplink.modulation, Some(lora));
    let best = &uplink.receptions[0];
    assert_eq!(
        (&*best.gateway, best.rssi, best.snr),
        ("0016c001f153a14d", -48, Some(9.0))
    );
    assert_eq!((best.channel, best.rf_chain), (Some(2), Some(1)));
    assert_eq!(best.location.unwrap().latitude, 52.5);
    assert!(best.time.is_some());
    assert_eq!(uplink.receptions.len(), 2);
    let id = uplink.deduplication_id.as_deref();
    assert_eq!(id, Some("3ac7e3c4-4401-4b8d-9386-a5c902f9202d"));
}

#[test]
fn fields_at_their_default_may_be_left_out() {
    let body = json!({"deviceInfo": {
        "applicationId": "ca739e26-7b67-4f14-b69e-d568c22a5a75", "devEui": "0102030405060708"}});
    let Event::Uplink(uplink) = one(EventKind::Up, &body) else {
        panic!("it is no uplink");
    };
    assert_eq!((uplink.port, uplink.frame_counter), (None, 0));
    assert!(!uplink.confirmed && uplink.payload.is_empty());
    let Event::DeviceAck(ack) = one(EventKind::Ack, &body) else {
        panic!("it is no acknowledgement");
    };
    assert!(!ack.acknowledged);
}

#[test]
fn a_payload_that_is_encrypted_end_to_end_is_not_taken_for_a_plain_one() {
    let mut body = up();
    body["joinServerContext"] = json!({"sessionKeyId": "AXA50tHUZRGSpXDVqj7mkA=="});
    let refused = read(EventKind::Up, &body);
    assert!(
        matches!(refused, Err(DecodeError::Encrypted)),
        "{refused:?}"
    );
}

#[test]
fn more_concentrators_than_an_uplink_may_list_cost_the_worst_of_them_only() {
    let mut body = up();
    let heard = |at: i32| json!({"gatewayId": at.to_string(), "rssi": -100, "snr": at});
    body["rxInfo"] = (0..100).map(heard).collect();
    let Event::Uplink(uplink) = one(EventKind::Up, &body) else {
        panic!("it is no uplink");
    };
    uplink.validate().unwrap();
    assert_eq!(uplink.receptions.len(), Uplink::MAX_RECEPTIONS);
    assert_eq!(uplink.receptions[0].gateway, "99");
}

#[test]
fn numbers_that_are_none_cost_no_uplink() {
    let mut body = up();
    body["rxInfo"][0]["snr"] = Value::Null;
    body["rxInfo"][1]["location"]["altitude"] = Value::Null;
    let Event::Uplink(uplink) = one(EventKind::Up, &body) else {
        panic!("it is no uplink");
    };
    let ratios = uplink.receptions.iter().map(|heard| heard.snr);
    assert!(ratios.eq([Some(9.0), None]));
}

#[test]
fn what_became_of_a_downlink_bears_its_id() {
    let body = json!({"deviceInfo": device(), "queueItemId": ITEM, "acknowledged": true,
        "fCntDown": 7});
    let mut expected = DeviceAck::new(DEV_EUI, DownlinkId::new(ITEM), true);
    expected.frame_counter = Some(7);
    assert_eq!(one(EventKind::Ack, &body), Event::DeviceAck(expected));

    let body = json!({"downlinkId": 9, "deviceInfo": device(), "queueItemId": ITEM, "fCntDown": 8,
        "gatewayId": "0016c001f153a14c", "txInfo": {"frequency": 868_100_000, "power": 16}});
    let mut expected = TransmitAck::new(DEV_EUI, DownlinkId::new(ITEM), Ok(()));
    expected.frame_counter = Some(8);
    expected.gateway = Some("0016c001f153a14c".into());
    assert_eq!(one(EventKind::TxAck, &body), Event::TransmitAck(expected));
}

#[test]
fn a_remark_on_the_end_of_a_downlink_ends_it() {
    for (code, reason) in [
        ("DOWNLINK_PAYLOAD_SIZE", FailureReason::TooLong),
        ("EXPIRED", FailureReason::Expired),
        ("F_CNT_DOWN", FailureReason::Other),
    ] {
        let body = json!({"deviceInfo": device(), "level": "ERROR", "code": code,
            "description": "discarded", "context": {"queue_item_id": ITEM}});
        let events = read(EventKind::Log, &body).unwrap().events;
        let failed = DownlinkFailed::new(DEV_EUI, DownlinkId::new(ITEM), reason);
        assert_eq!(events[1..], [Event::DownlinkFailed(failed)]);
    }
    // ChirpStack tries that one again.
    let body = json!({"deviceInfo": device(), "level": "ERROR", "code": "DOWNLINK_GATEWAY",
        "description": "TOO_LATE"});
    let Event::Log(log) = one(EventKind::Log, &body) else {
        panic!("it is no remark");
    };
    assert_eq!(
        (log.level, &*log.code),
        (LogLevel::Error, "DOWNLINK_GATEWAY")
    );
}

#[test]
fn joins_status_and_locations_are_read() {
    let body = json!({"deduplicationId": "a", "deviceInfo": device(), "devAddr": "00189440"});
    assert!(matches!(one(EventKind::Join, &body), Event::Join(join)
        if join.dev_addr.to_string() == "00189440"));
    let body = json!({"deviceInfo": device(), "margin": 6, "batteryLevel": 75.5});
    assert!(
        matches!(one(EventKind::Status, &body), Event::Status(status)
        if status.battery == Battery::Percent(75.5) && status.margin == 6)
    );
    let body = json!({"deviceInfo": device(), "externalPowerSource": true});
    assert!(
        matches!(one(EventKind::Status, &body), Event::Status(status)
        if status.battery == Battery::External)
    );
    let body = json!({"deviceInfo": device(), "location": {"latitude": 1.5, "longitude": -2.5}});
    assert!(
        matches!(one(EventKind::Location, &body), Event::Located(located)
        if located.location.longitude == -2.5)
    );
}

#[test]
fn names_that_could_lead_a_command_astray_are_refused() {
    for (member, value) in [
        ("applicationId", "../other"),
        ("applicationId", "+"),
        ("applicationId", ""),
        ("devEui", "#"),
    ] {
        let mut body = up();
        body["deviceInfo"][member] = value.into();
        assert!(read(EventKind::Up, &body).is_err(), "{value:?} was taken");
    }
    assert!("down".parse::<EventKind>().is_err());
}

#[test]
fn a_downlink_is_written_as_chirpstack_reads_it() {
    let mut downlink = Downlink::new(DEV_EUI, 10, &[1, 2, 3][..], Instant::now());
    downlink.id = DownlinkId::new(ITEM);
    downlink.confirmed = true;
    let expires = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_253_655_500);
    let body: Value =
        serde_json::from_slice(&encode(&downlink, Some(expires), Format::Json)).unwrap();
    let expected = json!({"devEui": "0102030405060708", "confirmed": true, "fPort": 10,
        "data": "AQID", "id": ITEM, "expiresAt": "2026-11-21T09:34:15.500Z"});
    assert_eq!(body, expected);
}
