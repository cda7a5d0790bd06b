//! Frames for devices, and the windows they go in.

use std::time::Duration;

use bytes::Bytes;
use lrwn::{
    FCtrl, FHDR, FRMPayload, FType, MACCommand, MACCommandSet, MACPayload, MACVersion, MHDR, Major,
    Payload, PhyPayload,
};

use super::super::radio::{Reception, Transmission, TxWindow};
use super::commands;
use super::network::{Device, Network};
use super::outcome::{Message, SendError};
use super::region::Region;
use super::session::{Confirmed, Session, crypt};
use crate::event::DevEui;

/// Bytes of a frame's header without options.
const HEADER: usize = 7;
/// Bytes of MAC commands beside a payload.
const MAX_OPTIONS: usize = 15;
/// Ports that applications may use (TS001-1.0.4, section 4.3.2).
const PORTS: std::ops::RangeInclusive<u8> = 1..=223;

impl Network {
    /// Answers the last uplink of a device: with a message, an acknowledgement, MAC commands, or
    /// all of them in one frame. `None` if nothing is due. `more` tells the device that further
    /// messages wait for it.
    ///
    /// # Errors
    /// [`SendError`] if the message cannot be sent; the window is open still, for another one or
    /// for none.
    pub fn answer(
        &mut self,
        dev_eui: DevEui,
        message: Option<&Message>,
        more: bool,
    ) -> Result<Option<Transmission>, SendError> {
        self.answer_from(Duration::ZERO, dev_eui, message, more)
    }

    /// Answers as [`answer`](Self::answer) does, in the windows that open so long after the uplink or
    /// later.
    ///
    /// # Errors
    /// As [`answer`](Self::answer); [`SendError::NoWindow`] too if no window is left, or only a
    /// window that has passed had room for the message.
    pub fn answer_from(
        &mut self,
        earliest: Duration,
        dev_eui: DevEui,
        message: Option<&Message>,
        more: bool,
    ) -> Result<Option<Transmission>, SendError> {
        let device = self.device(dev_eui)?;
        let session = device
            .session
            .as_ref()
            .ok_or(SendError::NoSession(dev_eui))?;
        if message.is_none() && !session.owes() && !device.status_wanted {
            return Ok(None);
        }
        let opening = session
            .opening
            .as_ref()
            .ok_or(SendError::NoWindow(dev_eui))?;
        let mut windows = session.windows(&self.region, opening);
        let all = windows.len();
        windows.retain(|window| window.delay >= earliest);
        if windows.is_empty() {
            return Err(SendError::NoWindow(dev_eui));
        }
        let some_passed = windows.len() < all;
        let unfilled = Transmission {
            dev_eui,
            gateway: opening.gateway,
            clock: Some(opening.clock),
            windows,
            frame: Bytes::new(),
        };
        match self.fill(unfilled, message, more) {
            // It may fit the next first window.
            Err(SendError::TooLong { .. }) if some_passed => Err(SendError::NoWindow(dev_eui)),
            filled => filled.map(Some),
        }
    }

    /// Sends a message to a device of class C, which hears at any time once it has spoken. What is
    /// owed to its last uplink keeps its window: acknowledgements go in those of class A, and a frame
    /// with MAC commands that comes outside of them is discarded (TS001-1.0.4, sections 4.3.1.2 and
    /// 15).
    ///
    /// # Errors
    /// [`SendError`] if it cannot be sent.
    pub fn send(&mut self, dev_eui: DevEui, message: &Message) -> Result<Transmission, SendError> {
        let device = self.device(dev_eui)?;
        if !device.is_class_c() {
            return Err(SendError::NotClassC(dev_eui));
        }
        let record = device.session.as_ref().map(|session| &session.record);
        let record = record.ok_or(SendError::NoSession(dev_eui))?;
        let gateway = record.gateway.ok_or(SendError::NoWindow(dev_eui))?;
        let rx2 = (record.rx2_frequency, record.rx2_data_rate);
        let window = window(&self.region, Duration::ZERO, rx2);
        let unfilled = Transmission {
            dev_eui,
            gateway,
            clock: None,
            windows: Vec::from_iter(window),
            frame: Bytes::new(),
        };
        self.fill(unfilled, Some(message), false)
    }

    /// Returns how many bytes a message may have now: in the window after the last uplink or, for
    /// class C, sent at once. `None` if the device does not listen.
    #[must_use]
    pub fn room(&self, dev_eui: DevEui) -> Option<usize> {
        let device = self.devices.get(&dev_eui)?;
        let session = device.session.as_ref()?;
        if device.is_class_c() {
            session.record.gateway?;
            return Some(room(&self.region, session.record.rx2_data_rate));
        }
        let windows = session.windows(&self.region, session.opening.as_ref()?);
        let rooms = windows
            .iter()
            .map(|window| room(&self.region, window.data_rate));
        Some(rooms.max().unwrap_or_default())
    }

    /// Waits no longer for the acknowledgement of a confirmed message, and returns its number.
    /// A device of class A needs this not: its next uplink decides.
    pub fn give_up(&mut self, dev_eui: DevEui) -> Option<u64> {
        let session = self.devices.get_mut(&dev_eui)?.session.as_mut()?;
        session.settle(false).map(|delivery| delivery.id)
    }

    fn device(&self, dev_eui: DevEui) -> Result<&Device, SendError> {
        self.devices
            .get(&dev_eui)
            .ok_or(SendError::NoSession(dev_eui))
    }

    /// Makes the next frame for a device and notes that it is sent, in the windows that it fits.
    fn fill(
        &mut self,
        mut sent: Transmission,
        message: Option<&Message>,
        more: bool,
    ) -> Result<Transmission, SendError> {
        let (dev_eui, windows) = (sent.dev_eui, &mut sent.windows);
        let none = SendError::NoSession(dev_eui);
        let device = self.devices.get_mut(&dev_eui).ok_or(none)?;
        let session = device.session.as_mut().ok_or(none)?;
        if let Some(message) = message {
            if !PORTS.contains(&message.port) {
                return Err(SendError::Port(message.port));
            }
            if let Some(waiting) = session.confirmed.as_ref().filter(|last| last.open)
                && message.confirmed
            {
                return Err(SendError::Waiting(waiting.message.id));
            }
        }
        let is_answer = sent.clock.is_some();
        let mut options = match is_answer {
            true => session.options(device.status_wanted),
            false => Vec::new(),
        };
        let content = message.map_or(0, |message| 1 + message.payload.len());
        let fits = |window: &TxWindow, options: usize| {
            HEADER + options + content <= self.region.max_mac_payload(window.data_rate)
        };
        if !windows.iter().any(|window| fits(window, options.len())) {
            // The message first: commands come again.
            options.clear();
        }
        let max = windows
            .iter()
            .map(|window| room(&self.region, window.data_rate))
            .max();
        windows.retain(|window| fits(window, options.len()));
        if windows.is_empty() {
            return Err(SendError::TooLong {
                max: max.unwrap_or_default(),
            });
        }
        let counter = session.downlink_counter(message);
        let next = counter
            .checked_add(1)
            .ok_or(SendError::Exhausted(dev_eui))?;
        let control = FCtrl {
            adr: device.profile.adr,
            ack: is_answer && session.ack_due,
            f_pending: more,
            ..FCtrl::default()
        };
        sent.frame = session.sign(control, counter, &options, message);

        session.record.next_f_cnt_down = next;
        if is_answer {
            session.opening = None;
            session.ack_due = false;
            session.word_due = false;
            session.answers.clear();
        }
        if !options.is_empty() {
            device.status_wanted = false;
        }
        if let Some(asked) = session
            .asked
            .as_mut()
            .filter(|asked| options.ends_with(&asked.command))
        {
            asked.tries += 1;
        }
        if let Some(message) = message.filter(|message| message.confirmed) {
            session.confirmed = Some(Confirmed {
                message: message.clone(),
                counter,
                open: true,
                is_answer,
            });
        }
        Ok(sent)
    }
}

impl Session {
    fn windows(&self, region: &Region, reception: &Reception) -> Vec<TxWindow> {
        let record = &self.record;
        let rx2 = (record.rx2_frequency, record.rx2_data_rate);
        windows(region, reception, record.rx_delay, record.rx1_offset, rx2)
    }

    /// Puts MAC commands together, the most wanted first, as far as they fit beside a payload.
    fn options(&self, status_wanted: bool) -> Vec<u8> {
        let status = status_wanted
            .then(commands::device_status)
            .unwrap_or_default();
        let setting = self.asked.as_ref().map(|asked| &asked.command[..]);
        let mut options = Vec::new();
        for part in [&self.answers[..], &status, setting.unwrap_or_default()] {
            if options.len() + part.len() <= MAX_OPTIONS {
                options.extend_from_slice(part);
            }
        }
        options
    }

    fn sign(
        &self,
        control: FCtrl,
        counter: u32,
        options: &[u8],
        message: Option<&Message>,
    ) -> Bytes {
        let payload = message
            .filter(|message| !message.payload.is_empty())
            .map(|message| crypt(self, false, message.port, counter, &message.payload));
        let confirmed = message.is_some_and(|message| message.confirmed);
        let mut phy = PhyPayload {
            mhdr: MHDR {
                f_type: match confirmed {
                    true => FType::ConfirmedDataDown,
                    false => FType::UnconfirmedDataDown,
                },
                major: Major::LoRaWANR1,
            },
            payload: Payload::MACPayload(MACPayload {
                fhdr: FHDR {
                    devaddr: lrwn::DevAddr::from_be_bytes(self.record.dev_addr.bytes()),
                    f_ctrl: control,
                    f_cnt: counter,
                    f_opts: MACCommandSet::new(vec![MACCommand::Raw(options.to_vec())]),
                },
                f_port: message.map(|message| message.port),
                frm_payload: payload.map(|payload| FRMPayload::Raw(payload.to_vec())),
            }),
            mic: None,
        };
        // What could fail is what the caller has bounded: options of 15 bytes, a port with a
        // payload. The keys are of network sessions, as 1.0 has them.
        let key = self.key(0);
        let signed = phy.set_downlink_data_mic(MACVersion::LoRaWAN1_0, 0, &key);
        signed
            .and_then(|()| phy.to_vec())
            .unwrap_or_default()
            .into()
    }
}

/// Returns the bytes of a message that a data rate has room for.
fn room(region: &Region, data_rate: u8) -> usize {
    region.max_mac_payload(data_rate).saturating_sub(HEADER + 1)
}

/// Returns the windows after an uplink; one that the region does not know is left out.
pub(super) fn windows(
    region: &Region,
    reception: &Reception,
    delay: u8,
    offset: u8,
    rx2: (u32, u8),
) -> Vec<TxWindow> {
    let first = Duration::from_secs(delay.into());
    let rx1 = region.rx1(reception.frequency, reception.data_rate, offset);
    let rx1 = rx1.and_then(|channel| window(region, first, channel));
    let rx2 = window(region, first + Duration::from_secs(1), rx2);
    rx1.into_iter().chain(rx2).collect()
}

fn window(region: &Region, delay: Duration, (frequency, data_rate): (u32, u8)) -> Option<TxWindow> {
    Some(TxWindow {
        delay,
        frequency,
        data_rate,
        modulation: region.modulation(data_rate)?,
        power: region.power(frequency),
    })
}
