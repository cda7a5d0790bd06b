//! A LoRaWAN device, as far as these tests need one.

use gateway_downstream_lorawan::event::{DevAddr, DevEui};
use gateway_downstream_lorawan::proto::Key;
use gateway_downstream_lorawan::server::{AbpConfig, DeviceConfig, OtaaConfig};
use lrwn::{
    AES128Key, EUI64, FCtrl, FHDR, FRMPayload, FType, JoinRequestPayload, JoinType, MACCommandSet,
    MACPayload, MACVersion, MHDR, Major, Payload, PhyPayload, keys,
};

const APP_KEY: [u8; 16] = [0x2b; 16];
const JOIN_EUI: [u8; 8] = [0x70, 0xb3, 0xd5, 0x7e, 0xd0, 0, 0, 1];

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) dev_eui: DevEui,
    address: [u8; 4],
    nwk_s_key: AES128Key,
    app_s_key: AES128Key,
    next_up: u32,
    next_down: u32,
}

/// A downlink as its device reads it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) counter: u32,
    pub(crate) port: Option<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) ack: bool,
}

fn phy(f_type: FType, payload: Payload) -> PhyPayload {
    let major = Major::LoRaWANR1;
    PhyPayload {
        mhdr: MHDR { f_type, major },
        payload,
        mic: None,
    }
}

/// The configuration of a device that joins.
pub(crate) fn otaa(dev_eui: DevEui) -> DeviceConfig {
    DeviceConfig::otaa(dev_eui, OtaaConfig::new(Key::new(APP_KEY)))
}

pub(crate) fn join_request(dev_eui: DevEui, nonce: u16) -> Vec<u8> {
    let request = JoinRequestPayload {
        join_eui: EUI64::from_be_bytes(JOIN_EUI),
        dev_eui: EUI64::from_be_bytes(dev_eui.bytes()),
        dev_nonce: nonce,
    };
    let mut phy = phy(FType::JoinRequest, Payload::JoinRequest(request));
    let key = AES128Key::from_bytes(APP_KEY);
    phy.set_join_request_mic(&key).unwrap();
    phy.to_vec().unwrap()
}

impl Device {
    /// A device that was made with a session of its number.
    pub(crate) fn abp(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let key = |own| {
            let mut key = [own; 16];
            key[..2].copy_from_slice(&[high, low]);
            AES128Key::from_bytes(key)
        };
        Self {
            dev_eui: DevEui::new([0, 0, 0, 0, 0, 0, high, low]),
            address: [0, 0, high, low],
            nwk_s_key: key(1),
            app_s_key: key(2),
            next_up: 0,
            next_down: 0,
        }
    }

    pub(crate) fn config(&self) -> DeviceConfig {
        let abp = AbpConfig::new(
            DevAddr::new(self.address),
            Key::new(self.nwk_s_key.to_bytes()),
            Key::new(self.app_s_key.to_bytes()),
        );
        DeviceConfig::abp(self.dev_eui, abp)
    }

    /// Reads the answer to a join.
    pub(crate) fn joined(dev_eui: DevEui, nonce: u16, accept: &[u8]) -> Self {
        let key = AES128Key::from_bytes(APP_KEY);
        let join_eui = EUI64::from_be_bytes(JOIN_EUI);
        let mut phy = PhyPayload::from_slice(accept).unwrap();
        phy.decrypt_join_accept_payload(&key).unwrap();
        let signed = phy.validate_join_accept_mic(JoinType::Join, &join_eui, nonce, &key);
        assert!(signed.unwrap());
        let Payload::JoinAccept(accept) = phy.payload else {
            panic!("{phy:?}")
        };
        let (net_id, number) = (accept.home_netid, accept.join_nonce);
        let nwk_s_key = keys::get_f_nwk_s_int_key(false, &key, &net_id, &join_eui, number, nonce);
        let app_s_key = keys::get_app_s_key(false, &key, &net_id, &join_eui, number, nonce);
        Self {
            dev_eui,
            address: accept.devaddr.to_be_bytes(),
            nwk_s_key: nwk_s_key.unwrap(),
            app_s_key: app_s_key.unwrap(),
            next_up: 0,
            next_down: 0,
        }
    }

    pub(crate) fn uplink(&mut self, payload: &[u8]) -> Vec<u8> {
        self.say(FType::UnconfirmedDataUp, false, Some(payload))
    }

    /// A frame that is for the network alone.
    pub(crate) fn empty(&mut self, ack: bool) -> Vec<u8> {
        self.say(FType::UnconfirmedDataUp, ack, None)
    }

    /// One that was made like it, but for its keys.
    pub(crate) fn impostor(&self) -> Self {
        Self {
            nwk_s_key: AES128Key::from_bytes([9; 16]),
            app_s_key: AES128Key::from_bytes([9; 16]),
            ..*self
        }
    }

    /// An uplink that wants an acknowledgement.
    pub(crate) fn confirmed(&mut self, payload: &[u8]) -> Vec<u8> {
        self.say(FType::ConfirmedDataUp, false, Some(payload))
    }

    /// An uplink that acknowledges the last downlink.
    pub(crate) fn acknowledging(&mut self, payload: &[u8]) -> Vec<u8> {
        self.say(FType::UnconfirmedDataUp, true, Some(payload))
    }

    fn say(&mut self, f_type: FType, ack: bool, payload: Option<&[u8]>) -> Vec<u8> {
        let f_ctrl = FCtrl {
            ack,
            ..FCtrl::default()
        };
        let payload = MACPayload {
            fhdr: FHDR {
                devaddr: lrwn::DevAddr::from_be_bytes(self.address),
                f_ctrl,
                f_cnt: self.next_up,
                f_opts: MACCommandSet::new(Vec::new()),
            },
            f_port: payload.map(|_| 1),
            frm_payload: payload.map(|payload| FRMPayload::Raw(payload.to_vec())),
        };
        let mut phy = phy(f_type, Payload::MACPayload(payload));
        phy.encrypt_frm_payload(&self.app_s_key).unwrap();
        let nwk = &self.nwk_s_key;
        phy.set_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, nwk, nwk)
            .unwrap();
        self.next_up += 1;
        phy.to_vec().unwrap()
    }

    /// Reads a downlink, whose counter must be the next or a later one, as a device does.
    pub(crate) fn read(&mut self, frame: &[u8]) -> Read {
        let mut phy = PhyPayload::from_slice(frame).unwrap();
        let Payload::MACPayload(payload) = &mut phy.payload else {
            panic!("{phy:?}")
        };
        let low = payload.fhdr.f_cnt as u16;
        let counter = self.next_down + u32::from(low.wrapping_sub(self.next_down as u16));
        assert!(counter - self.next_down < 100, "a counter was used again");
        payload.fhdr.f_cnt = counter;
        let signed = phy.validate_downlink_data_mic(MACVersion::LoRaWAN1_0, 0, &self.nwk_s_key);
        assert!(signed.unwrap());
        phy.decrypt_frm_payload(&self.app_s_key).unwrap();
        self.next_down = counter + 1;
        let Payload::MACPayload(payload) = phy.payload else {
            unreachable!()
        };
        let text = |payload: FRMPayload| payload.to_vec().unwrap();
        Read {
            counter,
            port: payload.f_port,
            payload: payload.frm_payload.map(text).unwrap_or_default(),
            ack: payload.fhdr.f_ctrl.ack,
        }
    }
}
