//! A device, as far as these tests need one.

use std::time::Duration;

use bytes::Bytes;
use lrwn::{
    AES128Key, EUI64, FCtrl, FHDR, FRMPayload, FType, JoinRequestPayload, JoinType, MACCommand,
    MACCommandSet, MACPayload, MACVersion, MHDR, Major, NetID, Payload, PhyPayload, keys,
};

use super::super::*;
use crate::event::{DevAddr, DevEui};
use crate::proto::{ConcentratorClock, Eui64, Key, Reception, Transmission};

pub(super) const EUI: DevEui = DevEui::new([1, 2, 3, 4, 5, 6, 7, 8]);
pub(super) const APP_KEY: Key = Key::new([0x2b; 16]);
pub(super) const JOIN_EUI: Eui64 = Eui64::new(0x70b3_d57e_d000_0001);
/// 2020-01-01.
pub(super) const NOW: Duration = Duration::from_secs(1_577_836_800);

pub(super) struct Device {
    pub(super) address: DevAddr,
    pub(super) nwk_s_key: AES128Key,
    pub(super) app_s_key: AES128Key,
    pub(super) next_up: u32,
    pub(super) next_down: u32,
}

/// What an uplink may say beside its payload.
#[derive(Default, Clone)]
pub(super) struct Say {
    pub(super) confirmed: bool,
    pub(super) ack: bool,
    pub(super) adr: bool,
    pub(super) adr_ack_req: bool,
    pub(super) options: Vec<u8>,
}

/// A downlink as the device reads it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) counter: u32,
    pub(super) confirmed: bool,
    pub(super) ack: bool,
    pub(super) more: bool,
    pub(super) port: Option<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) options: Vec<u8>,
}

fn header(f_type: FType) -> MHDR {
    MHDR {
        f_type,
        major: Major::LoRaWANR1,
    }
}

pub(super) fn join_request(nonce: u16, app_key: Key) -> Bytes {
    let mut phy = PhyPayload {
        mhdr: header(FType::JoinRequest),
        payload: Payload::JoinRequest(JoinRequestPayload {
            join_eui: EUI64::from_be_bytes(JOIN_EUI.get().to_be_bytes()),
            dev_eui: EUI64::from_be_bytes(EUI.bytes()),
            dev_nonce: nonce,
        }),
        mic: None,
    };
    phy.set_join_request_mic(&AES128Key::from_bytes(app_key.expose()))
        .unwrap();
    phy.to_vec().unwrap().into()
}

impl Device {
    pub(super) fn abp(address: u32) -> Self {
        Self {
            address: DevAddr::new(address.to_be_bytes()),
            nwk_s_key: AES128Key::from_bytes([1; 16]),
            app_s_key: AES128Key::from_bytes([2; 16]),
            next_up: 0,
            next_down: 0,
        }
    }

    pub(super) fn profile(&self, dev_eui: DevEui) -> DeviceProfile {
        let activation = Activation::Abp {
            dev_addr: self.address,
            nwk_s_key: Key::new(self.nwk_s_key.to_bytes()),
            app_s_key: Key::new(self.app_s_key.to_bytes()),
            reset_allowed: false,
        };
        DeviceProfile::new(dev_eui, activation)
    }

    /// Reads the answer to a join.
    pub(super) fn joined(nonce: u16, accept: &[u8]) -> (Self, lrwn::JoinAcceptPayload) {
        let key = AES128Key::from_bytes(APP_KEY.expose());
        let join_eui = EUI64::from_be_bytes(JOIN_EUI.get().to_be_bytes());
        let mut phy = PhyPayload::from_slice(accept).unwrap();
        phy.decrypt_join_accept_payload(&key).unwrap();
        let signed = phy.validate_join_accept_mic(JoinType::Join, &join_eui, nonce, &key);
        assert!(signed.unwrap());
        let Payload::JoinAccept(accept) = phy.payload else {
            panic!("{phy:?}")
        };
        let (net_id, number): (NetID, u32) = (accept.home_netid, accept.join_nonce);
        let device = Self {
            address: DevAddr::new(accept.devaddr.to_be_bytes()),
            nwk_s_key: keys::get_f_nwk_s_int_key(false, &key, &net_id, &join_eui, number, nonce)
                .unwrap(),
            app_s_key: keys::get_app_s_key(false, &key, &net_id, &join_eui, number, nonce).unwrap(),
            next_up: 0,
            next_down: 0,
        };
        (device, accept)
    }

    pub(super) fn uplink(&mut self, port: u8, payload: &[u8]) -> Bytes {
        self.say(Some(port), payload, Say::default())
    }

    pub(super) fn say(&mut self, port: Option<u8>, payload: &[u8], say: Say) -> Bytes {
        let key = match port {
            Some(0) => &self.nwk_s_key,
            _ => &self.app_s_key,
        };
        let mut phy = PhyPayload {
            mhdr: header(match say.confirmed {
                true => FType::ConfirmedDataUp,
                false => FType::UnconfirmedDataUp,
            }),
            payload: Payload::MACPayload(MACPayload {
                fhdr: FHDR {
                    devaddr: lrwn::DevAddr::from_be_bytes(self.address.bytes()),
                    f_ctrl: FCtrl {
                        adr: say.adr,
                        adr_ack_req: say.adr_ack_req,
                        ack: say.ack,
                        ..FCtrl::default()
                    },
                    f_cnt: self.next_up,
                    f_opts: MACCommandSet::new(vec![MACCommand::Raw(say.options)]),
                },
                f_port: port,
                frm_payload: (!payload.is_empty()).then(|| FRMPayload::Raw(payload.to_vec())),
            }),
            mic: None,
        };
        phy.encrypt_frm_payload(key).unwrap();
        let nwk = &self.nwk_s_key;
        phy.set_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, nwk, nwk)
            .unwrap();
        self.next_up = self.next_up.wrapping_add(1);
        phy.to_vec().unwrap().into()
    }

    /// Reads a downlink: its counter is the expected one, or the last one again.
    pub(super) fn read(&mut self, frame: &[u8]) -> Read {
        let mut phy = PhyPayload::from_slice(frame).unwrap();
        let Payload::MACPayload(payload) = &phy.payload else {
            panic!("{phy:?}")
        };
        let low = payload.fhdr.f_cnt as u16;
        let again = self.next_down > 0 && low == (self.next_down - 1) as u16;
        let counter = match again {
            true => self.next_down - 1,
            false => self.next_down + u32::from(low.wrapping_sub(self.next_down as u16)),
        };
        if let Payload::MACPayload(payload) = &mut phy.payload {
            payload.fhdr.f_cnt = counter;
        }
        let nwk = self.nwk_s_key;
        assert!(
            phy.validate_downlink_data_mic(MACVersion::LoRaWAN1_0, 0, &nwk)
                .unwrap()
        );
        phy.decrypt_frm_payload(&self.app_s_key).unwrap();
        self.next_down = counter + 1;
        let Payload::MACPayload(payload) = phy.payload else {
            unreachable!()
        };
        Read {
            counter,
            confirmed: phy.mhdr.f_type == FType::ConfirmedDataDown,
            ack: payload.fhdr.f_ctrl.ack,
            more: payload.fhdr.f_ctrl.f_pending,
            port: payload.f_port,
            payload: payload
                .frm_payload
                .map_or(vec![], |payload| payload.to_vec().unwrap()),
            options: payload.fhdr.f_opts.to_vec().unwrap(),
        }
    }
}

pub(super) fn reception(gateway: u64, snr: f32) -> Reception {
    let clock = ConcentratorClock::Forwarder(7);
    Reception::new(Eui64::new(gateway), 868_100_000, 5, clock).with_signal(-80.0, snr)
}

pub(super) fn network() -> Network {
    let region = Region::new(RegionName::Eu868);
    let config = NetworkConfig::new(&region);
    Network::new(region, config)
}

/// A network with one ABP device, and the device.
pub(super) fn with_device() -> (Network, Device) {
    let (mut network, device) = (network(), Device::abp(0x0101_0101));
    network.insert(device.profile(EUI), None);
    (network, device)
}

pub(super) fn hear(network: &mut Network, frame: Bytes) -> Result<Heard, Refusal> {
    network.hear(&Collected::new(frame, reception(1, 5.0)), NOW)
}

pub(super) fn heard(network: &mut Network, frame: Bytes) -> Uplink {
    match hear(network, frame) {
        Ok(Heard::Uplink(uplink)) => uplink,
        other => panic!("{other:?}"),
    }
}

pub(super) fn answer(network: &mut Network, message: &Message) -> Transmission {
    network.answer(EUI, Some(message), false).unwrap().unwrap()
}
