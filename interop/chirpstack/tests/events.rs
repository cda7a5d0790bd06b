//! Events made with ChirpStack's types are read in both forms, and commands written for it are read
//! by them.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use chirpstack_api::gw::modulation::Parameters;
use chirpstack_api::integration::{
    AckEvent, DeviceInfo, DownlinkCommand, JoinEvent, LocationEvent, LogCode, LogEvent, LogLevel,
    StatusEvent, TxAckEvent, UplinkEvent,
};
use chirpstack_api::pbjson_types::{Struct, Timestamp, Value};
use chirpstack_api::prost::Message;
use chirpstack_api::{common, gw};
use gateway_downstream_lorawan::chirpstack::{EventKind, Format, decode, encode};
use gateway_downstream_lorawan::cloud::Told;
use gateway_downstream_lorawan::event::{DevEui, Downlink, DownlinkId, Event, Modulation};
use tokio::time::Instant;

const ITEM: &str = "2c5b3a1e-6f0e-4f5c-9f3b-0d9a2a6f1b11";

/// Reads an event in both forms, which say the same.
fn read<T: Message + serde::Serialize>(kind: EventKind, event: &T) -> Told {
    let json = serde_json::to_vec(event).unwrap();
    let json = decode(kind, Format::Json, &json).unwrap();
    let protobuf = decode(kind, Format::Protobuf, &event.encode_to_vec()).unwrap();
    assert_eq!(json, protobuf);
    json
}

fn device() -> Option<DeviceInfo> {
    Some(DeviceInfo {
        tenant_id: "52f14cd4-c6f1-4fbd-8f87-4025e1d49242".into(),
        application_id: "ca739e26-7b67-4f14-b69e-d568c22a5a75".into(),
        device_name: "thermometer".into(),
        dev_eui: "0102030405060708".into(),
        device_class_enabled: common::DeviceClass::ClassC.into(),
        tags: HashMap::from([("key".into(), "value".into())]),
        ..DeviceInfo::default()
    })
}

fn now() -> Option<Timestamp> {
    Some(Timestamp {
        seconds: 1_795_253_655,
        nanos: 775_023_000,
    })
}

fn uplink(parameters: Parameters) -> UplinkEvent {
    UplinkEvent {
        deduplication_id: "3ac7e3c4-4401-4b8d-9386-a5c902f9202d".into(),
        time: now(),
        device_info: device(),
        dev_addr: "00189440".into(),
        adr: true,
        dr: 5,
        f_cnt: 70_000,
        f_port: 10,
        confirmed: true,
        data: vec![0xaa, 0],
        object: Some(Struct {
            fields: HashMap::from([("temperature".into(), Value::from(21.5))]),
        }),
        rx_info: vec![gw::UplinkRxInfo {
            gateway_id: "0016c001f153a14c".into(),
            uplink_id: 4_217_106_255,
            gw_time: now(),
            rssi: -48,
            snr: 9.25,
            channel: 2,
            rf_chain: 1,
            location: Some(common::Location {
                latitude: 52.5,
                longitude: 13.4,
                altitude: 40.0,
                ..common::Location::default()
            }),
            context: vec![1, 2, 3, 4],
            crc_status: gw::CrcStatus::CrcOk.into(),
            ..gw::UplinkRxInfo::default()
        }],
        tx_info: Some(gw::UplinkTxInfo {
            frequency: 868_100_000,
            modulation: Some(gw::Modulation {
                parameters: Some(parameters),
            }),
        }),
        region_config_id: "eu868".into(),
        ..UplinkEvent::default()
    }
}

#[test]
fn an_uplink_is_the_same_in_both_forms_and_in_every_modulation() {
    let lora = Parameters::Lora(gw::LoraModulationInfo {
        bandwidth: 125_000,
        spreading_factor: 7,
        code_rate: gw::CodeRate::Cr45.into(),
        ..gw::LoraModulationInfo::default()
    });
    let told = read(EventKind::Up, &uplink(lora));
    let [Event::Uplink(heard)] = &told.events[..] else {
        panic!("{told:?}");
    };
    assert_eq!((heard.frame_counter, heard.port), (70_000, Some(10)));
    assert_eq!(
        heard.object.as_deref(),
        Some(&br#"{"temperature":21.5}"#[..])
    );
    assert_eq!(heard.receptions[0].snr, Some(9.25));
    let since = heard.received_at.duration_since(SystemTime::UNIX_EPOCH);
    assert_eq!(since.unwrap(), Duration::new(1_795_253_655, 775_023_000));

    let fsk = Parameters::Fsk(gw::FskModulationInfo {
        datarate: 50_000,
        ..gw::FskModulationInfo::default()
    });
    let lr_fhss = Parameters::LrFhss(gw::LrFhssModulationInfo {
        operating_channel_width: 137_000,
        code_rate: gw::CodeRate::Cr26.into(),
        ..gw::LrFhssModulationInfo::default()
    });
    for parameters in [fsk, lr_fhss] {
        let told = read(EventKind::Up, &uplink(parameters));
        let [Event::Uplink(heard)] = &told.events[..] else {
            panic!("{told:?}");
        };
        let modulation = heard.modulation.unwrap();
        assert!(
            !matches!(modulation, Modulation::Lora { .. }),
            "{modulation:?}"
        );
    }
}

#[test]
fn every_other_event_is_the_same_in_both_forms() {
    let join = JoinEvent {
        deduplication_id: "join".into(),
        time: now(),
        device_info: device(),
        dev_addr: "00189440".into(),
        ..JoinEvent::default()
    };
    assert_eq!(read(EventKind::Join, &join).events.len(), 1);
    let ack = AckEvent {
        deduplication_id: "ack".into(),
        device_info: device(),
        queue_item_id: ITEM.into(),
        acknowledged: true,
        f_cnt_down: 7,
        ..AckEvent::default()
    };
    assert_eq!(read(EventKind::Ack, &ack).events.len(), 1);
    let txack = TxAckEvent {
        downlink_id: 9,
        device_info: device(),
        queue_item_id: ITEM.into(),
        f_cnt_down: 7,
        gateway_id: "0016c001f153a14c".into(),
        ..TxAckEvent::default()
    };
    assert_eq!(read(EventKind::TxAck, &txack).events.len(), 1);
    let status = StatusEvent {
        deduplication_id: "status".into(),
        time: now(),
        device_info: device(),
        margin: -5,
        battery_level: 75.5,
        ..StatusEvent::default()
    };
    assert_eq!(read(EventKind::Status, &status).events.len(), 1);
    let location = LocationEvent {
        deduplication_id: "location".into(),
        time: now(),
        device_info: device(),
        location: Some(common::Location {
            latitude: 52.5,
            longitude: 13.4,
            ..common::Location::default()
        }),
    };
    assert_eq!(read(EventKind::Location, &location).events.len(), 1);
}

#[test]
fn every_remark_is_the_same_in_both_forms() {
    for code in 0.. {
        let Ok(known) = LogCode::try_from(code) else {
            assert_eq!(code, 12, "a new code: see whether it ends a downlink");
            return;
        };
        let log = LogEvent {
            time: now(),
            device_info: device(),
            level: LogLevel::Error.into(),
            code,
            description: "why".into(),
            context: HashMap::from([("queue_item_id".into(), ITEM.into())]),
        };
        let told = read(EventKind::Log, &log);
        let Event::Log(log) = &told.events[0] else {
            panic!("{told:?}");
        };
        assert_eq!(log.code, known.as_str_name());
    }
}

#[test]
fn a_command_is_read_by_chirpstack_in_both_forms() {
    let dev_eui = DevEui::new([1, 2, 3, 4, 5, 6, 7, 8]);
    let mut downlink = Downlink::new(dev_eui, 10, &[1, 2, 3][..], Instant::now());
    downlink.id = DownlinkId::new(ITEM);
    downlink.confirmed = true;
    let expires = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_253_655_500);
    let expected = DownlinkCommand {
        id: ITEM.into(),
        dev_eui: "0102030405060708".into(),
        confirmed: true,
        f_port: 10,
        data: vec![1, 2, 3],
        object: None,
        expires_at: Some(Timestamp {
            seconds: 1_795_253_655,
            nanos: 500_000_000,
        }),
    };
    let json = encode(&downlink, Some(expires), Format::Json);
    assert_eq!(
        serde_json::from_slice::<DownlinkCommand>(&json).unwrap(),
        expected
    );
    let protobuf = encode(&downlink, Some(expires), Format::Protobuf);
    assert_eq!(DownlinkCommand::decode(&protobuf[..]).unwrap(), expected);
}
