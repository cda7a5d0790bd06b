//! The JSON of the Azure IoT Edge LoRaWAN Starter Kit, for those who come from there.

use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use gateway_core::rfc3339;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Reading, object, problem, to_json};
use crate::event::{Modulation, Uplink};

/// Writes an uplink under the starter kit's names: `data` is what the codec made of the payload, or
/// else the payload in base64 in `data.value`; a codec's failure is in `data.error`. `rawdata` is the payload in base64, `freq` in MHz, `edgets` in milliseconds
/// since 1970, `eui` in capitals; the radio's values are the first reception's.
///
/// What the kit has from its concentrators alone differs: `time` is when the frame was heard, in RFC
/// 3339, if the concentrator knows, not its own count of microseconds; there is no `tmms`; `chan` is
/// the channel, not the data rate; `gatewayid` is the concentrator, as `stationeui`, since no IoT Edge
/// device is between; `fcnt` has 32 bits. `dupmsg` is not there: copies are dropped.
///
/// Source: Azure/iotedge-lorawan-starterkit, `LoRaDeviceTelemetry.cs`, `UndecodedPayload.cs`,
/// `DecodingFailedPayload.cs`.
#[must_use]
pub fn uplink(uplink: &Uplink, reading: &Reading) -> Bytes {
    let best = uplink.receptions.first();
    let (modu, datr) = match uplink.modulation {
        Some(Modulation::Lora {
            spreading_factor,
            bandwidth,
        }) => {
            let datr = format!("SF{spreading_factor}BW{}", bandwidth / 1000);
            (Some("LORA"), Some(datr))
        }
        Some(Modulation::Fsk { bit_rate }) => (Some("FSK"), Some(bit_rate.to_string())),
        Some(Modulation::LrFhss { .. }) => (Some("LR-FHSS"), None),
        None => (None, None),
    };
    let rawdata = BASE64_STANDARD.encode(&uplink.payload);
    let data = match (object(uplink, reading), reading) {
        (Some(object), _) => Data::Object(object),
        (None, Some(Err(error))) => Data::Failure {
            error: problem(error),
        },
        (None, _) => Data::Undecoded { value: &rawdata },
    };
    let since_epoch = uplink.received_at.duration_since(UNIX_EPOCH);
    to_json(&UplinkJson {
        time: best.and_then(|reception| reception.time).map(rfc3339),
        freq: uplink.frequency.map(|hertz| f64::from(hertz) / 1e6),
        chan: best.and_then(|reception| reception.channel),
        rfch: best.and_then(|reception| reception.rf_chain),
        modu,
        datr,
        rssi: best.map(|reception| reception.rssi),
        lsnr: best.and_then(|reception| reception.snr),
        data,
        port: uplink.port,
        fcnt: uplink.frame_counter,
        edgets: since_epoch.unwrap_or_default().as_millis() as u64,
        rawdata: &rawdata,
        eui: uplink.dev_eui.to_string().to_uppercase(),
        gatewayid: best.map(|reception| &*reception.gateway),
        stationeui: best.map(|reception| &*reception.gateway),
    })
}

#[derive(Serialize)]
struct UplinkJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    freq: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chan: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rfch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modu: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rssi: Option<i16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lsnr: Option<f32>,
    data: Data<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u8>,
    fcnt: u32,
    edgets: u64,
    rawdata: &'a str,
    eui: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gatewayid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stationeui: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Object(&'a RawValue),
    Undecoded { value: &'a str },
    Failure { error: String },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::event::Reception;
    use crate::payload::{CodecError, Decoded};

    #[test]
    fn an_uplink_has_the_starter_kits_names() {
        let dev_eui = "70b3d57ed0000001".parse().unwrap();
        let mut sample = Uplink::new(dev_eui, 4, 1, &[0xaa, 0][..]).with_reception(Reception::new(
            "aabb",
            -48,
            Some(9.0),
        ));
        sample.received_at = UNIX_EPOCH + Duration::from_millis(1500);
        sample.frequency = Some(868_300_000);
        sample.modulation = Some(Modulation::Lora {
            spreading_factor: 7,
            bandwidth: 125_000,
        });
        let body = uplink(&sample, &Some(Ok(Decoded::new(r#"{"value":1}"#))));
        let expected = json!({
            "freq": 868.3, "modu": "LORA", "datr": "SF7BW125", "rssi": -48, "lsnr": 9.0,
            "data": {"value": 1}, "port": 1, "fcnt": 4, "edgets": 1500, "rawdata": "qgA=",
            "eui": "70B3D57ED0000001", "gatewayid": "aabb", "stationeui": "aabb",
        });
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
        let body = uplink(&sample, &Some(Err(CodecError::Busy)));
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            body["data"],
            json!({"error": "the codec has too much to do"})
        );
        assert_eq!(body["rawdata"], "qgA=");
        let body: Value = serde_json::from_slice(&uplink(&sample, &None)).unwrap();
        assert_eq!(body["data"], json!({"value": "qgA="}));
    }
}
