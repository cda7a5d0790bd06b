//! What a LoRaWAN 1.0.x device of class A says and understands (TS001-1.0.4).

use anyhow::{Result, bail, ensure};
use lrwn::{
    AES128Key, EUI64, FCtrl, FHDR, FRMPayload, FType, JoinRequestPayload, JoinType, MACCommandSet,
    MACPayload, MACVersion, MHDR, Major, Payload, PhyPayload, keys,
};

const JOIN_EUI: [u8; 8] = [0; 8];
/// The port of its messages.
const PORT: u8 = 1;

/// Is a device that joins, with its root key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Identity {
    pub(crate) dev_eui: u64,
    pub(crate) app_key: [u8; 16],
}

impl Identity {
    /// Asks to join; each nonce serves once.
    pub(crate) fn join_request(&self, nonce: u16) -> Result<Vec<u8>> {
        let request = JoinRequestPayload {
            join_eui: EUI64::from_be_bytes(JOIN_EUI),
            dev_eui: EUI64::from_be_bytes(self.dev_eui.to_be_bytes()),
            dev_nonce: nonce,
        };
        let mut phy = phy(FType::JoinRequest, Payload::JoinRequest(request));
        phy.set_join_request_mic(&AES128Key::from_bytes(self.app_key))?;
        phy.to_vec()
    }

    /// Reads the answer to a request with this nonce.
    pub(crate) fn joined(&self, nonce: u16, answer: &[u8]) -> Result<Session> {
        let key = AES128Key::from_bytes(self.app_key);
        let join_eui = EUI64::from_be_bytes(JOIN_EUI);
        let mut phy = PhyPayload::from_slice(answer)?;
        phy.decrypt_join_accept_payload(&key)?;
        ensure!(
            phy.validate_join_accept_mic(JoinType::Join, &join_eui, nonce, &key)?,
            "the answer to a join is not signed"
        );
        let Payload::JoinAccept(accept) = phy.payload else {
            bail!("a join was answered with something else");
        };
        let (net_id, number) = (accept.home_netid, accept.join_nonce);
        Ok(Session {
            address: accept.devaddr.to_be_bytes(),
            nwk_s_key: keys::get_f_nwk_s_int_key(false, &key, &net_id, &join_eui, number, nonce)?,
            app_s_key: keys::get_app_s_key(false, &key, &net_id, &join_eui, number, nonce)?,
            next_up: 0,
            next_down: 0,
            owes_ack: false,
        })
    }
}

/// Is what a device and its network have agreed upon.
#[derive(Debug)]
pub(crate) struct Session {
    address: [u8; 4],
    nwk_s_key: AES128Key,
    app_s_key: AES128Key,
    next_up: u32,
    next_down: u32,
    owes_ack: bool,
}

/// Is what a downlink says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// It acknowledges the last uplink.
    pub(crate) ack: bool,
    /// The device is to say something soon: the network has more for it, or waits for its word.
    pub(crate) speak: bool,
    /// A command.
    pub(crate) payload: Vec<u8>,
}

impl Session {
    /// Says something that wants an acknowledgement, or nothing, which opens the windows too.
    pub(crate) fn say(&mut self, payload: Option<&[u8]>) -> Result<Vec<u8>> {
        let f_type = match payload {
            Some(_) => FType::ConfirmedDataUp,
            None => FType::UnconfirmedDataUp,
        };
        let payload = MACPayload {
            fhdr: FHDR {
                devaddr: lrwn::DevAddr::from_be_bytes(self.address),
                f_ctrl: FCtrl {
                    ack: std::mem::take(&mut self.owes_ack),
                    ..FCtrl::default()
                },
                f_cnt: self.next_up,
                f_opts: MACCommandSet::new(Vec::new()),
            },
            f_port: payload.map(|_| PORT),
            frm_payload: payload.map(|payload| FRMPayload::Raw(payload.to_vec())),
        };
        let mut phy = phy(f_type, Payload::MACPayload(payload));
        phy.encrypt_frm_payload(&self.app_s_key)?;
        let nwk = &self.nwk_s_key;
        phy.set_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, nwk, nwk)?;
        self.next_up += 1;
        phy.to_vec()
    }

    /// Reads a downlink: one that is signed, and was not heard before.
    pub(crate) fn read(&mut self, frame: &[u8]) -> Result<Heard> {
        let mut phy = PhyPayload::from_slice(frame)?;
        let Payload::MACPayload(payload) = &mut phy.payload else {
            bail!("a downlink is none of data");
        };
        let ahead = (payload.fhdr.f_cnt as u16).wrapping_sub(self.next_down as u16);
        let counter = self.next_down + u32::from(ahead);
        payload.fhdr.f_cnt = counter;
        let key = &self.nwk_s_key;
        ensure!(
            ahead < 0x8000 && phy.validate_downlink_data_mic(MACVersion::LoRaWAN1_0, 0, key)?,
            "a downlink is not signed, or was heard before"
        );
        phy.decrypt_frm_payload(&self.app_s_key)?;
        self.next_down = counter + 1;
        self.owes_ack = phy.mhdr.f_type == FType::ConfirmedDataDown;
        let Payload::MACPayload(payload) = phy.payload else {
            bail!("a downlink is none of data");
        };
        let port = payload.f_port.filter(|port| *port > 0);
        let text = payload.frm_payload.filter(|_| port.is_some());
        Ok(Heard {
            ack: payload.fhdr.f_ctrl.ack,
            speak: self.owes_ack || payload.fhdr.f_ctrl.f_pending,
            payload: text.map_or(Ok(Vec::new()), |text| text.to_vec())?,
        })
    }
}

fn phy(f_type: FType, payload: Payload) -> PhyPayload {
    let major = Major::LoRaWANR1;
    PhyPayload {
        mhdr: MHDR { f_type, major },
        payload,
        mic: None,
    }
}
