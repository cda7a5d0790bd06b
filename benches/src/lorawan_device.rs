//! A device with a session that it was made with, as far as uplinks go.

use anyhow::{Context, Result};
use gateway_downstream_lorawan::event::{DevAddr, DevEui};
use gateway_downstream_lorawan::proto::Key;
use gateway_downstream_lorawan::server::{AbpConfig, DeviceConfig};
use lrwn::{
    AES128Key, FCtrl, FHDR, FRMPayload, FType, MACCommandSet, MACPayload, MACVersion, MHDR, Major,
    Payload, PhyPayload,
};

/// Every device's key: what a key costs does not depend on it.
pub const KEY: [u8; 16] = [0x2b; 16];
/// Five temperatures in Cayenne's format: 20 bytes, a usual payload.
pub const PAYLOAD: [u8; 20] = [
    1, 0x67, 0, 215, 2, 0x67, 0, 216, 3, 0x67, 0, 217, 4, 0x67, 0, 218, 5, 0x67, 0, 219,
];
/// What a device's maker would write to read it.
pub const SCRIPT: &str = r#"
    function decodeUplink(input) {
        var data = {};
        for (var at = 0; at < input.bytes.length; at += 4) {
            data["temperature_" + input.bytes[at]] = (input.bytes[at + 2] << 8 | input.bytes[at + 3]) / 10;
        }
        return {data: data};
    }"#;

/// The EUI of the n-th device.
#[must_use]
pub fn dev_eui(number: usize) -> DevEui {
    DevEui::new((number as u64).to_be_bytes())
}

/// The number of a device by its name at the hub.
#[must_use]
pub fn number(name: &str) -> Option<usize> {
    usize::from_str_radix(name, 16).ok()
}

/// The address of the n-th device.
#[must_use]
pub fn dev_addr(number: usize) -> DevAddr {
    DevAddr::new((number as u32).to_be_bytes())
}

/// The configuration of the n-th device.
#[must_use]
pub fn config(number: usize) -> DeviceConfig {
    let key = || Key::new(KEY);
    DeviceConfig::abp(
        dev_eui(number),
        AbpConfig::new(dev_addr(number), key(), key()),
    )
}

/// Makes the frame of a device's uplink.
///
/// # Errors
/// It does not fit a frame.
pub fn frame(number: usize, counter: u32) -> Result<Vec<u8>> {
    let payload = MACPayload {
        fhdr: FHDR {
            devaddr: lrwn::DevAddr::from_be_bytes(dev_addr(number).bytes()),
            f_ctrl: FCtrl::default(),
            f_cnt: counter,
            f_opts: MACCommandSet::new(Vec::new()),
        },
        f_port: Some(1),
        frm_payload: Some(FRMPayload::Raw(PAYLOAD.to_vec())),
    };
    let mut phy = PhyPayload {
        mhdr: MHDR {
            f_type: FType::UnconfirmedDataUp,
            major: Major::LoRaWANR1,
        },
        payload: Payload::MACPayload(payload),
        mic: None,
    };
    let key = AES128Key::from_bytes(KEY);
    let signed = phy
        .encrypt_frm_payload(&key)
        .and_then(|()| phy.set_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, &key, &key))
        .and_then(|()| phy.to_vec());
    signed.ok().context("the frame cannot be made")
}
