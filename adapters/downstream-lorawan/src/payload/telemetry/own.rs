//! This crate's own JSON.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use gateway_core::rfc3339;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Reading, normalized, object, problem, to_json};
use crate::event::{
    Battery, DevAddr, DevEui, Event, Location, LogLevel, Modulation, Reception, Uplink,
};

/// Writes an uplink.
///
/// ```json
/// {"devEui":"70b3d57ed0000001","devAddr":"01020304","receivedAt":"2026-01-01T00:00:00.000Z",
///  "port":1,"frameCounter":4,"confirmed":false,"adr":true,
///  "data":"qgA=","object":{"temperature":21.5},"normalized":{"air":{"temperature":21.5}},"warnings":["battery low"],
///  "codecError":"the codec took longer than it may",
///  "dataRate":5,"frequency":868100000,"modulation":{"lora":{"spreadingFactor":7,"bandwidth":125000}},
///  "receptions":[{"gateway":"0016c001f1500812","rssi":-48,"snr":9.0,"channel":0,"rfChain":1,
///                 "time":"2026-01-01T00:00:00.000Z",
///                 "location":{"latitude":52.5,"longitude":13.4,"altitude":40.0}}]}
/// ```
///
/// `data` is the payload in base64 and always there; `object` is what the codec, or else the network
/// server, made of it, and `codecError` tells why there is none; `normalized` is the codec's too. What
/// is not known is left out.
#[must_use]
pub fn uplink(uplink: &Uplink, reading: &Reading) -> Bytes {
    let warnings = match reading {
        Some(Ok(decoded)) => &decoded.warnings[..],
        _ => &[],
    };
    let codec_error = match reading {
        Some(Err(error)) => Some(problem(error)),
        _ => None,
    };
    to_json(&UplinkJson {
        dev_eui: uplink.dev_eui,
        dev_addr: uplink.dev_addr,
        received_at: rfc3339(uplink.received_at),
        port: uplink.port,
        frame_counter: uplink.frame_counter,
        confirmed: uplink.confirmed,
        adr: uplink.adr,
        data: BASE64_STANDARD.encode(&uplink.payload),
        object: object(uplink, reading),
        normalized: normalized(reading),
        warnings,
        codec_error,
        data_rate: uplink.data_rate,
        frequency: uplink.frequency,
        modulation: uplink.modulation.map(modulation),
        receptions: uplink.receptions.iter().map(reception).collect(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UplinkJson<'a> {
    dev_eui: DevEui,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_addr: Option<DevAddr>,
    received_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u8>,
    frame_counter: u32,
    confirmed: bool,
    adr: bool,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    normalized: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    codec_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_rate: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modulation: Option<ModulationJson>,
    receptions: Vec<ReceptionJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReceptionJson<'a> {
    gateway: &'a str,
    rssi: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    snr: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rf_chain: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Value>,
}

fn reception(reception: &Reception) -> ReceptionJson<'_> {
    ReceptionJson {
        gateway: &reception.gateway,
        rssi: reception.rssi,
        snr: reception.snr,
        channel: reception.channel,
        rf_chain: reception.rf_chain,
        time: reception.time.map(rfc3339),
        location: reception.location.as_ref().map(location),
    }
}

fn location(place: &Location) -> Value {
    let Location {
        latitude,
        longitude,
        altitude,
    } = place;
    match altitude {
        Some(altitude) => {
            json!({"latitude": latitude, "longitude": longitude, "altitude": altitude})
        }
        None => json!({"latitude": latitude, "longitude": longitude}),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
enum ModulationJson {
    Lora {
        spreading_factor: u8,
        bandwidth: u32,
    },
    Fsk {
        bit_rate: u32,
    },
    LrFhss {
        channel_width: u32,
        coding_rate: String,
    },
}

fn modulation(modulation: Modulation) -> ModulationJson {
    match modulation {
        Modulation::Lora {
            spreading_factor,
            bandwidth,
        } => ModulationJson::Lora {
            spreading_factor,
            bandwidth,
        },
        Modulation::Fsk { bit_rate } => ModulationJson::Fsk { bit_rate },
        Modulation::LrFhss {
            channel_width,
            coding_rate,
        } => ModulationJson::LrFhss {
            channel_width,
            coding_rate: coding_rate.to_string(),
        },
    }
}

/// Writes what else is told of a device; none for uplinks, and for what only concerns a downlink.
///
/// Each has `devEui` and a member that names the event: `{"join":{"devAddr"}}`,
/// `{"status":{"margin","battery"}}` with the battery in percent, `"external"` or `"unknown"`,
/// `{"location":{"latitude","longitude","altitude"}}`, `{"log":{"level","code","description"}}`;
/// all but the log have `receivedAt`.
#[must_use]
pub fn report(event: &Event) -> Option<Bytes> {
    let (at, name, content) = match event {
        Event::Join(join) => (
            Some(join.received_at),
            "join",
            json!({"devAddr": join.dev_addr}),
        ),
        Event::Status(status) => {
            let battery = match status.battery {
                Battery::External => json!("external"),
                Battery::Percent(percent) => json!(percent),
                Battery::Unknown => json!("unknown"),
            };
            let content = json!({"margin": status.margin, "battery": battery});
            (Some(status.received_at), "status", content)
        }
        Event::Located(located) => (Some(located.at), "location", location(&located.location)),
        Event::Log(log) => {
            let level = match log.level {
                LogLevel::Info => "info",
                LogLevel::Warning => "warning",
                LogLevel::Error => "error",
            };
            let content = json!({"level": level, "code": log.code, "description": log.description});
            (None, "log", content)
        }
        _ => return None,
    };
    let mut body = json!({"devEui": event.dev_eui(), name: content});
    if let Some(at) = at {
        body["receivedAt"] = rfc3339(at).into();
    }
    Some(to_json(&body))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::event::{Join, Status};
    use crate::payload::{CodecError, Decoded};

    fn sample() -> Uplink {
        let dev_eui = "70b3d57ed0000001".parse().unwrap();
        let mut uplink = Uplink::new(dev_eui, 4, 1, &[0xaa, 0][..])
            .with_dev_addr(DevAddr::new([1, 2, 3, 4]))
            .with_reception(Reception::new("0016c001f1500812", -48, Some(9.0)));
        uplink.received_at = UNIX_EPOCH + Duration::from_millis(1_767_225_600_250);
        uplink.modulation = Some(Modulation::Lora {
            spreading_factor: 7,
            bandwidth: 125_000,
        });
        uplink
    }

    fn parsed(body: &Bytes) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn what_a_network_server_made_of_a_payload_is_left_out_where_it_is_too_long_for_a_message() {
        let mut sent = sample();
        for (length, is_there) in [(Decoded::MAX_SIZE, true), (Decoded::MAX_SIZE + 1, false)] {
            let object = format!("\"{}\"", " ".repeat(length - 2));
            sent.object = Some(object.into());
            let body = parsed(&uplink(&sent, &None));
            assert_eq!(body["data"], "qgA=");
            assert_eq!(body.get("object").is_some(), is_there, "{length}");
        }
    }

    #[test]
    fn an_uplink_has_its_payload_and_what_the_codec_made_of_it() {
        let mut decoded = Decoded::new(r#"{"t":21.50}"#).with_warnings(vec!["low".to_owned()]);
        decoded.normalized = Some(r#"[{"air":1}]"#.into());
        let expected = json!({
            "devEui": "70b3d57ed0000001", "devAddr": "01020304",
            "receivedAt": "2026-01-01T00:00:00.250Z",
            "port": 1, "frameCounter": 4, "confirmed": false, "adr": false,
            "data": "qgA=", "object": {"t": 21.5}, "normalized": [{"air": 1}],
            "warnings": ["low"],
            "modulation": {"lora": {"spreadingFactor": 7, "bandwidth": 125000}},
            "receptions": [{"gateway": "0016c001f1500812", "rssi": -48, "snr": 9.0}],
        });
        assert_eq!(parsed(&uplink(&sample(), &Some(Ok(decoded)))), expected);
    }

    #[test]
    fn a_codec_that_failed_loses_nothing_but_the_object() {
        let body = parsed(&uplink(&sample(), &Some(Err(CodecError::TimedOut))));
        assert_eq!(body["data"], "qgA=");
        assert_eq!(body["codecError"], "the codec took longer than it may");
        assert!(body.get("object").is_none());
    }

    #[test]
    fn an_object_that_is_no_json_does_not_spoil_the_rest() {
        let mut bad = sample();
        bad.object = Some("{".into());
        let body = parsed(&uplink(&bad, &None));
        assert!(body.get("object").is_none());
        bad.object = Some(r#"{"ok":1}"#.into());
        assert_eq!(parsed(&uplink(&bad, &None))["object"], json!({"ok": 1}));
    }

    #[test]
    fn joins_and_status_are_told_and_outcomes_are_not() {
        let dev_eui = DevEui::new([1; 8]);
        let mut status = Status::new(dev_eui, Battery::Percent(50.0), -3);
        status.received_at = UNIX_EPOCH;
        let body = report(&Event::Status(status)).unwrap();
        let expected = json!({
            "devEui": "0101010101010101", "receivedAt": "1970-01-01T00:00:00.000Z",
            "status": {"margin": -3, "battery": 50.0},
        });
        assert_eq!(parsed(&body), expected);
        let join = Join::new(dev_eui, DevAddr::new([1, 2, 3, 4]));
        let body = parsed(&report(&Event::Join(join)).unwrap());
        assert_eq!(body["join"], json!({"devAddr": "01020304"}));
        assert_eq!(report(&Event::Uplink(sample())), None);
    }
}
