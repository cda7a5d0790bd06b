//! What a frame says, and what it changes.

use std::time::Duration;

use bytes::Bytes;
use lrwn::{FType, JoinRequestPayload, MACPayload, Payload, PhyPayload};

use super::super::radio::{MAX_FRAME, Modulation, Reception, Transmission};
use super::super::store::SessionRecord;
use super::adr::{Setting, required_snr};
use super::collector::Collected;
use super::commands::{self, FromDevice};
use super::counter::Counter;
use super::downlink::windows;
use super::network::{Device, Network};
use super::outcome::{DeviceStatus, Heard, Join, Refusal, Repeat, Uplink};
use super::region::Region;
use super::session::{Asked, Session, crypt, recognise};
use super::{gps_time, join};
use crate::event::{DevAddr, DevEui};

/// Seconds after a join-request until its answer (RP002-1.0.x, JOIN_ACCEPT_DELAY1).
const JOIN_DELAY: u8 = 5;

/// Bits of the first byte that LoRaWAN 1.0 leaves at 0.
const MHDR_RESERVED: u8 = 0x1c;

/// Times that a device is told of a setting before it is left alone.
const TRIES: u8 = 3;

impl Network {
    /// Takes a frame that was heard at a time since the Unix epoch (of which devices that ask are
    /// told).
    ///
    /// # Errors
    /// [`Refusal`] if it is no device's of this network, or was heard before. Nothing has changed
    /// then: only a frame that is signed moves a counter.
    pub fn hear(&mut self, heard: &Collected, since_unix: Duration) -> Result<Heard, Refusal> {
        // Reserved bits are lost in reading, and so would be outside of what the MIC covers.
        let reserved = heard
            .frame
            .first()
            .is_some_and(|mhdr| mhdr & MHDR_RESERVED != 0);
        if heard.frame.len() > MAX_FRAME || reserved {
            return Err(Refusal::Malformed);
        }
        let phy = PhyPayload::from_slice(&heard.frame).map_err(|_| Refusal::Malformed)?;
        match (phy.mhdr.f_type, &phy.payload) {
            (FType::JoinRequest, Payload::JoinRequest(request)) => {
                let request = *request;
                self.hear_join(&phy, &request, &heard.best).map(Heard::Join)
            }
            (FType::UnconfirmedDataUp | FType::ConfirmedDataUp, Payload::MACPayload(_)) => {
                self.hear_data(phy, heard, since_unix)
            }
            _ => Err(Refusal::Kind),
        }
    }

    fn hear_join(
        &mut self,
        phy: &PhyPayload,
        request: &JoinRequestPayload,
        best: &Reception,
    ) -> Result<Join, Refusal> {
        let dev_eui = DevEui::new(request.dev_eui.to_be_bytes());
        let unknown = Refusal::UnknownDevice(dev_eui);
        let device = self.devices.get_mut(&dev_eui).ok_or(unknown)?;
        let (profile, record) = (&device.profile, &mut device.record);
        let (session, frame) =
            join::accept(profile, record, phy, request, &self.config, &self.region)?;

        if let Some(in_use) = &mut device.session {
            // Whoever joins has given it up, or shows by an uplink that it has not.
            in_use.record.gateway = None;
            in_use.opening = None;
        }
        let dev_addr = session.dev_addr;
        let before = device.record.joined.replace(session);
        let in_use = device
            .session
            .as_ref()
            .map(|session| session.record.dev_addr);
        if let Some(before) = before.filter(|before| Some(before.dev_addr) != in_use) {
            Self::forget_address(&mut self.addresses, before.dev_addr, dev_eui);
        }
        Self::note_address(&mut self.addresses, dev_addr, dev_eui);
        let accept = Transmission {
            dev_eui,
            gateway: best.gateway,
            clock: Some(best.clock),
            windows: windows(&self.region, best, JOIN_DELAY, 0, self.region.rx2()),
            frame: frame.into(),
        };
        Ok(Join {
            dev_eui,
            dev_addr,
            accept,
        })
    }

    fn hear_data(
        &mut self,
        mut phy: PhyPayload,
        heard: &Collected,
        since_unix: Duration,
    ) -> Result<Heard, Refusal> {
        let Payload::MACPayload(payload) = &phy.payload else {
            return Err(Refusal::Malformed);
        };
        let address = DevAddr::new(payload.fhdr.devaddr.to_be_bytes());
        let low = payload.fhdr.f_cnt as u16;
        let devices = self.addresses.get(&address);
        let devices = devices.ok_or(Refusal::UnknownAddress(address))?;
        let found = devices.iter().find_map(|dev_eui| {
            let device = self.devices.get(dev_eui)?;
            let (counter, joined) = device.recognise(&mut phy, address, low)?;
            Some((*dev_eui, counter, joined))
        });
        let (dev_eui, counter, joined) = found.ok_or(Refusal::Mic(address))?;
        let Payload::MACPayload(payload) = &phy.payload else {
            return Err(Refusal::Malformed);
        };
        let device = self.devices.get_mut(&dev_eui);
        let device = device.ok_or(Refusal::UnknownAddress(address))?;
        let options = payload
            .fhdr
            .f_opts
            .to_vec()
            .map_err(|_| Refusal::Malformed)?;
        if payload.f_port == Some(0) && !options.is_empty() {
            return Err(Refusal::Malformed);
        }
        let before = joined.then(|| device.take_joined()).flatten();
        if let Some(before) = before.filter(|before| before.dev_addr != address) {
            Self::forget_address(&mut self.addresses, before.dev_addr, dev_eui);
        }
        let frame = Frame {
            payload,
            options,
            confirmed: phy.mhdr.f_type == FType::ConfirmedDataUp,
            counter,
            mic: phy.mic.unwrap_or_default(),
            first: joined,
        };
        device
            .hear(&frame, heard, gps_time(since_unix), &self.region)
            .ok_or(Refusal::UnknownAddress(address))
    }
}

/// A data frame whose MIC is right.
struct Frame<'a> {
    payload: &'a MACPayload,
    options: Vec<u8>,
    confirmed: bool,
    counter: Counter,
    mic: [u8; 4],
    first: bool,
}

impl Device {
    /// Finds which of the device's sessions has signed a frame: `true` is the one it has joined.
    fn recognise(
        &self,
        phy: &mut PhyPayload,
        address: DevAddr,
        low: u16,
    ) -> Option<(Counter, bool)> {
        let reset = self.profile.reset_allowed();
        let in_use = self.session.as_ref().map(|session| &session.record);
        let mut check = |record: Option<&SessionRecord>, reset| {
            let record = record.filter(|record| record.dev_addr == address)?;
            recognise(record, phy, low, reset)
        };
        let counter = check(in_use, reset).map(|counter| (counter, false));
        counter.or_else(|| check(self.record.joined.as_ref(), false).map(|counter| (counter, true)))
    }

    /// Puts the session that the device has joined in use, and returns the one before.
    fn take_joined(&mut self) -> Option<SessionRecord> {
        let joined = self.record.joined.take()?;
        let before = self.session.replace(Session::new(joined));
        before.map(|session| session.record)
    }

    fn hear(
        &mut self,
        frame: &Frame<'_>,
        heard: &Collected,
        gps_time: Duration,
        region: &Region,
    ) -> Option<Heard> {
        let dev_eui = self.profile.dev_eui;
        let adr = self.profile.adr && frame.payload.fhdr.f_ctrl.adr;
        let status_wanted = self.status_wanted;
        let session = self.session.as_mut()?;
        let counter = frame.counter.get();
        let port = frame.payload.f_port;
        let payload = match &frame.payload.frm_payload {
            Some(lrwn::FRMPayload::Raw(payload)) => {
                crypt(session, true, port.unwrap_or(0), counter, payload)
            }
            _ => Bytes::new(),
        };
        let new = matches!(frame.counter, Counter::New(_));
        let commands = match port {
            Some(0) => &payload[..],
            _ => &frame.options,
        };
        let said = session.obey(commands, heard, gps_time, region, new);
        // Only what was taken is acknowledged; what was lost since is handed out once more.
        let lost = !new && session.record.unsettled && !session.in_hand;
        session.ack_due = frame.confirmed && !new && !session.record.unsettled;
        session.word_due = frame.payload.fhdr.f_ctrl.adr_ack_req;
        session.record.gateway = Some(heard.best.gateway);
        session.record.last_mic = Some(frame.mic);
        session.opening = Some(heard.best.clone());
        if new || lost {
            session.in_hand = frame.confirmed;
            session.record.unsettled = frame.confirmed;
        }
        if !new && !lost {
            return Some(Heard::Repeat(Repeat {
                dev_eui,
                counter,
                delivery: session.settle_unheard(),
                answer_due: session.will_owe() || status_wanted,
            }));
        }
        if new && counter < session.record.next_f_cnt_up {
            session.begin_anew();
        }
        session.record.next_f_cnt_up = counter + 1;
        let delivery = match new {
            true => session.settle_heard(frame.payload.fhdr.f_ctrl.ack),
            false => session.settle_unheard(),
        };
        if new {
            session.adapt(adr, &heard.best, said.setting_answered, region);
        }
        if said.status.is_some() {
            self.status_wanted = false;
        }
        Some(Heard::Uplink(Uplink {
            dev_eui,
            dev_addr: session.record.dev_addr,
            counter,
            mic: frame.mic,
            first: frame.first,
            port: port.filter(|port| *port != 0),
            payload: if port == Some(0) {
                Bytes::new()
            } else {
                payload
            },
            confirmed: frame.confirmed,
            adr: frame.payload.fhdr.f_ctrl.adr,
            delivery,
            status: said.status,
            answer_due: session.will_owe() || self.status_wanted,
        }))
    }
}

/// What a device's MAC commands said.
struct Said {
    setting_answered: Option<bool>,
    status: Option<DeviceStatus>,
}

impl Session {
    /// Reads MAC commands and notes the answers; each question is answered once, however often it
    /// is put in a frame.
    fn obey(
        &mut self,
        commands: &[u8],
        heard: &Collected,
        gps_time: Duration,
        region: &Region,
        new: bool,
    ) -> Said {
        let mut said = Said {
            setting_answered: None,
            status: None,
        };
        let (mut link, mut time) = (None, None);
        for command in commands::read(commands) {
            match command {
                FromDevice::LinkCheckReq => {
                    let needed =
                        spreading_factor(region, heard.best.data_rate).map_or(0.0, required_snr);
                    // 255 is reserved; what is below 0 was heard all the same.
                    let margin = (heard.best.snr - needed).clamp(0.0, 254.0) as u8;
                    link = Some(commands::link_check(margin, heard.gateways() as u8));
                }
                FromDevice::DeviceTimeReq => time = Some(commands::device_time(gps_time)),
                // A block of requests has an answer for each.
                FromDevice::LinkAdrAns { accepted } if new => {
                    let before = said.setting_answered.unwrap_or(true);
                    said.setting_answered = Some(before && accepted);
                }
                FromDevice::DevStatusAns { battery, margin } if new => {
                    said.status = Some(DeviceStatus { battery, margin });
                }
                _ => {}
            }
        }
        self.answers = [link, time].into_iter().flatten().flatten().collect();
        said
    }

    /// Follows a device that has lost its counters.
    fn begin_anew(&mut self) {
        self.record.next_f_cnt_down = 0;
        self.record.power_step = 0;
        self.record.channels_told = false;
        self.history.clear();
        self.asked = None;
    }

    /// Decides what the device shall use.
    fn adapt(&mut self, adr: bool, best: &Reception, answered: Option<bool>, region: &Region) {
        let data_rate = best.data_rate;
        let told = self.asked.as_ref().map(|asked| asked.setting.data_rate);
        if self.history.follow(data_rate) && told != Some(data_rate) {
            // It fell back to a slower rate by itself, and to all its power before that.
            self.record.power_step = 0;
        }
        if adr {
            self.history.note(best.snr);
        }
        if let Some(asked) = &self.asked {
            if answered == Some(true) {
                self.record.power_step = asked.setting.power;
                self.history.follow(asked.setting.data_rate);
            }
            if answered.is_none() && asked.tries < TRIES {
                return;
            }
            // Whatever it said, or did not: it is left alone until there is a new history.
            self.record.channels_told = true;
            self.history.clear();
            self.asked = None;
            return;
        }
        let now = Setting {
            data_rate,
            power: self.record.power_step,
        };
        let better = spreading_factor(region, data_rate)
            .filter(|_| adr)
            .and_then(|factor| {
                let max = region.max_adr_data_rate();
                self.history
                    .propose(now, factor, max, |step| region.has_power_step(step))
            });
        let untold = (region.has_sub_band() && !self.record.channels_told).then_some(now);
        if let Some(setting) = better.or(untold) {
            let requests = region.channel_requests();
            self.asked = Some(Asked {
                command: commands::link_adr(&requests, setting.data_rate, setting.power),
                setting,
                tries: 0,
            });
        }
    }
}

fn spreading_factor(region: &Region, data_rate: u8) -> Option<u8> {
    match region.modulation(data_rate)? {
        Modulation::Lora {
            spreading_factor, ..
        } => Some(spreading_factor),
        _ => None,
    }
}
