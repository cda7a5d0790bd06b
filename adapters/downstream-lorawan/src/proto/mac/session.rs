//! One session of a device: what it is owed, and what it has not acknowledged.

use bytes::Bytes;
use lrwn::{AES128Key, MACVersion, Payload, PhyPayload};

use super::super::radio::Reception;
use super::super::store::SessionRecord;
use super::adr::{History, Setting};
use super::counter::{self, Counter};
use super::outcome::{Delivery, Message};

/// A session that is in use.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) record: SessionRecord,
    pub(super) history: History,
    /// MAC answers to the last uplink.
    pub(super) answers: Vec<u8>,
    /// What the device was told to use and has not answered.
    pub(super) asked: Option<Asked>,
    /// Whether the last uplink is to be acknowledged.
    pub(super) ack_due: bool,
    /// Whether somebody has the last uplink who will say whether it is to be acknowledged.
    pub(super) in_hand: bool,
    /// Whether the device wants to hear anything at all.
    pub(super) word_due: bool,
    /// How the last uplink was heard, while its windows have not been used.
    pub(super) opening: Option<Reception>,
    /// The last confirmed downlink.
    pub(super) confirmed: Option<Confirmed>,
}

/// A setting that the device was told of.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) setting: Setting,
    pub(super) command: Vec<u8>,
    pub(super) tries: u8,
}

/// A downlink that wants an acknowledgement.
#[derive(Debug)]
pub(super) struct Confirmed {
    pub(super) message: Message,
    pub(super) counter: u32,
    /// Whether an uplink may still acknowledge it.
    pub(super) open: bool,
    /// Whether it answered the last uplink: then a device that repeats that, or says something else
    /// without acknowledging it, has not heard it.
    pub(super) is_answer: bool,
}

impl Session {
    pub(super) fn new(record: SessionRecord) -> Self {
        Self {
            record,
            history: History::default(),
            answers: Vec::new(),
            asked: None,
            ack_due: false,
            in_hand: false,
            word_due: false,
            opening: None,
            confirmed: None,
        }
    }

    /// Returns the key that a port's payload is encrypted with.
    pub(super) fn key(&self, port: u8) -> AES128Key {
        let key = match port {
            0 => self.record.nwk_s_key,
            _ => self.record.app_s_key,
        };
        AES128Key::from_bytes(key.expose())
    }

    /// Returns the counter of a downlink. A confirmed one that is sent again keeps its counter, so
    /// that the device does not take it twice; only if nothing else was sent since, and it is the
    /// same to the byte: one counter never encrypts two texts.
    pub(super) fn downlink_counter(&self, message: Option<&Message>) -> u32 {
        let next = self.record.next_f_cnt_down;
        match (&self.confirmed, message) {
            (Some(last), Some(message))
                if last.message == *message && last.counter.checked_add(1) == Some(next) =>
            {
                last.counter
            }
            _ => next,
        }
    }

    /// Tells whether the device waits for an answer.
    pub(super) fn owes(&self) -> bool {
        self.ack_due || self.word_due || !self.answers.is_empty() || self.asked.is_some()
    }

    /// Tells whether the device waits for an answer, or will once its uplink is settled.
    pub(super) fn will_owe(&self) -> bool {
        self.owes() || self.in_hand
    }

    /// Takes the word on the last uplink, and tells whether it is to be acknowledged now.
    pub(super) fn settle_uplink(&mut self, counter: u32, mic: [u8; 4], taken: bool) -> bool {
        let last = (self.record.next_f_cnt_up, self.record.last_mic);
        if !self.in_hand || last != (counter.wrapping_add(1), Some(mic)) {
            return false;
        }
        self.in_hand = false;
        self.record.unsettled = !taken;
        self.ack_due = taken;
        taken
    }

    /// Closes the wait for an acknowledgement, and tells how it ended.
    pub(super) fn settle(&mut self, acknowledged: bool) -> Option<Delivery> {
        let last = self.confirmed.as_mut().filter(|last| last.open)?;
        last.open = false;
        let id = last.message.id;
        if acknowledged {
            self.confirmed = None;
        }
        Some(Delivery { id, acknowledged })
    }

    /// Closes that wait with a new uplink. One that was on its way when the downlink was sent at once
    /// says nothing of it, unless it acknowledges it.
    pub(super) fn settle_heard(&mut self, acknowledged: bool) -> Option<Delivery> {
        match acknowledged {
            true => self.settle(true),
            false => self.settle_unheard(),
        }
    }

    /// Closes that wait for a device that repeats itself, if that says anything of the downlink.
    pub(super) fn settle_unheard(&mut self) -> Option<Delivery> {
        self.confirmed.as_ref().filter(|last| last.is_answer)?;
        self.settle(false)
    }
}

/// Finds the counter with which a frame is a session's, by its MIC.
pub(super) fn recognise(
    record: &SessionRecord,
    phy: &mut PhyPayload,
    low: u16,
    reset_allowed: bool,
) -> Option<Counter> {
    let expected = counter::complete(record.next_f_cnt_up, low);
    if let Some(counter) = expected.filter(|counter| signed(record, phy, counter.get())) {
        let is_other = record.last_mic.is_some() && record.last_mic != phy.mic;
        return match counter {
            Counter::Repeat(last) if is_other => {
                // Not what was said last: a device that begins anew may do so with that counter. Who
                // took it where that is not allowed would take recorded frames by turns.
                let anew = reset_allowed && last == u32::from(low);
                anew.then_some(Counter::New(last))
            }
            _ => Some(counter),
        };
    }
    let anew = reset_allowed && u32::from(low) < record.next_f_cnt_up;
    (anew && signed(record, phy, low.into())).then_some(Counter::New(low.into()))
}

fn signed(record: &SessionRecord, phy: &mut PhyPayload, counter: u32) -> bool {
    if let Payload::MACPayload(payload) = &mut phy.payload {
        payload.fhdr.f_cnt = counter;
    }
    let key = AES128Key::from_bytes(record.nwk_s_key.expose());
    phy.validate_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, &key, &key)
        .unwrap_or(false)
}

/// Decrypts a payload, or encrypts it: it is the same.
pub(super) fn crypt(
    session: &Session,
    uplink: bool,
    port: u8,
    counter: u32,
    payload: &[u8],
) -> Bytes {
    let address = lrwn::DevAddr::from_be_bytes(session.record.dev_addr.bytes());
    // Nothing in it fails: its result is there for its sister's sake.
    lrwn::encrypt_frm_payload(&session.key(port), uplink, &address, counter, payload)
        .unwrap_or_default()
        .into()
}
