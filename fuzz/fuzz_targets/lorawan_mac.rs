//! The network server: whatever is on air, signed or not, counters only go up, no frame and no join is
//! taken twice, after a restart neither, and nothing refused changes what is stored.
//!
//! The input is where the counters begin of the device that does not join and in which region, then
//! steps: a byte of what to do, a byte of length and so many bytes.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use gateway_downstream_lorawan::event::{DevAddr, DevEui};
use gateway_downstream_lorawan::proto::mac::{
    Activation, Class, Collected, DeviceProfile, Heard, Join, Message, Network, NetworkConfig,
    NonceRule, Refusal, Region, RegionName, Uplink,
};
use gateway_downstream_lorawan::proto::store::{DeviceRecord, SessionRecord};
use gateway_downstream_lorawan::proto::{ConcentratorClock, Eui64, Key, Reception, Transmission};
use libfuzzer_sys::fuzz_target;
use lrwn::{AES128Key, EUI64, JoinType, MACVersion, Payload, PhyPayload, keys};

/// Made with a session.
const MADE: DevEui = DevEui::new([1; 8]);
/// Joins with any DevNonce that is new.
const JOINER: DevEui = DevEui::new([2; 8]);
/// Joins with DevNonces that rise.
const COUNTER: DevEui = DevEui::new([3; 8]);
const DEVICES: [DevEui; 3] = [MADE, JOINER, COUNTER];
const ADDRESS: DevAddr = DevAddr::new([1, 2, 3, 4]);
const KEY: [u8; 16] = [3; 16];
/// How far a counter may jump (LoRaWAN 1.0.3, MAX_FCNT_GAP).
const MAX_GAP: u32 = 16_384;
/// Where counters begin: below where their lower half wraps, below their end.
const BEGINNINGS: [u32; 4] = [0, 0xfff8, 0x1_0000, u32::MAX - 4];
const MAX_STEPS: usize = 64;
/// Regions of each kind, with a frequency on which their devices speak: channels that are told or
/// fixed, with and without a dwell time.
const REGIONS: [(RegionName, u32); 6] = [
    (RegionName::Eu868, 868_100_000),
    (RegionName::Us915, 902_300_000),
    (RegionName::Au915, 915_200_000),
    (RegionName::As923, 923_200_000),
    (RegionName::Cn470, 470_300_000),
    (RegionName::In865, 865_062_500),
];
/// How long after an uplink the network server is ready to answer it.
const EARLIEST: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(6), Duration::MAX];

/// What was said on an uplink's message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Word {
    /// It is the hub's, or nobody waits for a word.
    Taken,
    /// Nothing yet.
    Open,
    /// It was lost: it may be handed out once more.
    Lost,
}

struct World {
    network: Network,
    frequency: u32,
    /// Frames that were taken, in order.
    taken: Vec<Vec<u8>>,
    uplinks: HashMap<(DevEui, DevAddr, u32), Word>,
    nonces: HashSet<(DevEui, u16)>,
    /// The keys that sign, as devices have them.
    keys: HashMap<(DevEui, DevAddr), [u8; 16]>,
    /// Sessions that are over.
    over: Vec<(DevEui, SessionRecord)>,
    /// What each counter of a downlink has encrypted.
    sent: HashMap<(DevEui, DevAddr, u16), Vec<u8>>,
}

fn profiles() -> [DeviceProfile; 3] {
    let made = Activation::Abp {
        dev_addr: ADDRESS,
        nwk_s_key: Key::new(KEY),
        app_s_key: Key::new(KEY),
        reset_allowed: false,
    };
    let counts = Activation::Otaa {
        app_key: Key::new(KEY),
        join_eui: None,
        nonces: NonceRule::Higher,
    };
    [
        DeviceProfile::new(MADE, made).with_class(Class::C),
        DeviceProfile::otaa(JOINER, Key::new(KEY)),
        DeviceProfile::new(COUNTER, counts),
    ]
}

fn is_same(one: &SessionRecord, other: &SessionRecord) -> bool {
    (one.dev_addr, one.nwk_s_key) == (other.dev_addr, other.nwk_s_key)
}

fn sessions(record: &DeviceRecord) -> impl Iterator<Item = &SessionRecord> {
    record.session.iter().chain(&record.joined)
}

/// The frame of a session with these FCtrl, options, port and payload; none if there is no such frame.
fn signed(
    (address, key): (DevAddr, [u8; 16]),
    is_confirmed: bool,
    counter: u32,
    rest: &[u8],
) -> Option<Vec<u8>> {
    let mut address = address.bytes();
    address.reverse();
    let (control, rest) = rest.split_first()?;
    let kind = if is_confirmed { 0x80 } else { 0x40 };
    let mut bytes = [&[kind], &address[..], &[*control], &[0, 0], rest, &[0; 4]].concat();
    bytes.truncate(255);
    let mut phy = PhyPayload::from_slice(&bytes).ok()?;
    let Payload::MACPayload(payload) = &mut phy.payload else {
        return None;
    };
    payload.fhdr.f_cnt = counter;
    let key = AES128Key::from_bytes(key);
    phy.set_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, &key, &key).ok()?;
    phy.to_vec().ok()
}

fn join_request(dev_eui: DevEui, nonce: u16) -> Vec<u8> {
    let mut dev_eui = dev_eui.bytes();
    dev_eui.reverse();
    let bytes = [&[0; 9], &dev_eui[..], &nonce.to_le_bytes(), &[0; 4]].concat();
    let mut phy = PhyPayload::from_slice(&bytes).expect("a join-request");
    phy.set_join_request_mic(&AES128Key::from_bytes(KEY)).expect("a join-request");
    phy.to_vec().expect("it was bytes")
}

/// What a device makes of the answer to its join: its address, and the key that signs its frames.
fn accepted(nonce: u16, accept: &[u8]) -> (DevAddr, [u8; 16]) {
    let (key, join_eui) = (AES128Key::from_bytes(KEY), EUI64::from_be_bytes([0; 8]));
    let mut phy = PhyPayload::from_slice(accept).expect("a join-accept");
    phy.decrypt_join_accept_payload(&key).expect("a join-accept");
    let is_signed = phy.validate_join_accept_mic(JoinType::Join, &join_eui, nonce, &key);
    assert!(is_signed.expect("a join-accept"));
    let Payload::JoinAccept(accept) = phy.payload else {
        panic!("{phy:?}");
    };
    let number = accept.join_nonce;
    let key = keys::get_f_nwk_s_int_key(false, &key, &accept.home_netid, &join_eui, number, nonce);
    let key = key.expect("a key").to_bytes();
    (DevAddr::new(accept.devaddr.to_be_bytes()), key)
}

impl World {
    fn new(beginning: u8) -> Self {
        let (name, frequency) =
            REGIONS[usize::from(beginning) / BEGINNINGS.len() % REGIONS.len()];
        let region = Region::new(name);
        let config = NetworkConfig::new(&region);
        let mut network = Network::new(region, config);
        for profile in profiles() {
            let dev_eui = profile.dev_eui;
            network.insert(profile.clone(), None);
            let mut record = network.remove(dev_eui).expect("it is there");
            if let Some(session) = &mut record.session {
                let counter = BEGINNINGS[usize::from(beginning) % BEGINNINGS.len()];
                (session.next_f_cnt_up, session.next_f_cnt_down) = (counter, counter);
            }
            network.insert(profile, Some(record));
        }
        Self {
            network,
            frequency,
            taken: Vec::new(),
            uplinks: HashMap::new(),
            nonces: HashSet::new(),
            keys: HashMap::from([((MADE, ADDRESS), KEY)]),
            over: Vec::new(),
            sent: HashMap::new(),
        }
    }

    fn reception(&self, data_rate: u8, snr: u8) -> Reception {
        let clock = ConcentratorClock::Forwarder(0);
        Reception::new(Eui64::new(2), self.frequency, data_rate, clock)
            .with_signal(-60.0, f32::from(snr.cast_signed()))
    }

    fn step(&mut self, what: u8, data: &[u8]) {
        let dev_eui = DEVICES[usize::from(what >> 3 & 3) % DEVICES.len()];
        match what & 7 {
            0 => drop(self.hear(data, self.reception(0, 0), what >> 5)),
            1 | 2 => self.say(dev_eui, what >> 5, data),
            3 => self.join(dev_eui, data),
            4 => self.replay(data),
            5 => self.send(dev_eui, data),
            6 => self.give_word(dev_eui, data),
            _ => self.restart(),
        }
    }

    fn records(&self) -> Vec<DeviceRecord> {
        let records = DEVICES.iter().map(|dev_eui| self.network.record(*dev_eui));
        records.map(|record| record.expect("it is there")).collect()
    }

    fn record(&self, dev_eui: DevEui) -> DeviceRecord {
        self.network.record(dev_eui).expect("it is there")
    }

    /// Has the network hear a frame; `word` is what is said of an uplink that wants a word.
    fn hear(&mut self, frame: &[u8], heard: Reception, word: u8) -> Result<Heard, Refusal> {
        let before = self.records();
        let collected = Collected::new(frame.to_vec().into(), heard);
        let heard = self.network.hear(&collected, Duration::MAX);
        let after = self.records();
        if heard.is_err() {
            assert_eq!(after, before);
            return heard;
        }
        for (before, after) in before.iter().zip(&after) {
            assert!(after.next_join_nonce >= before.next_join_nonce);
            for session in sessions(before) {
                match sessions(after).find(|other| is_same(other, session)) {
                    Some(after) => {
                        assert!(after.next_f_cnt_up >= session.next_f_cnt_up);
                        assert_eq!(after.next_f_cnt_down, session.next_f_cnt_down);
                    }
                    None => self.over.push((before.dev_eui, session.clone())),
                }
            }
        }
        let of = |records: &[DeviceRecord], dev_eui| {
            let record = records.iter().find(|record| record.dev_eui == dev_eui);
            record.expect("it is one of them").clone()
        };
        match &heard {
            Ok(Heard::Join(join)) => self.check_join(join, frame),
            Ok(Heard::Uplink(uplink)) => {
                let (before, after) = (of(&before, uplink.dev_eui), of(&after, uplink.dev_eui));
                self.check_uplink(uplink, &before, &after, word);
                assert!(uplink.payload.len() < frame.len());
            }
            Ok(Heard::Repeat(repeat)) => {
                let session = of(&before, repeat.dev_eui).session.expect("a session");
                assert_eq!(session.next_f_cnt_up, repeat.counter + 1);
            }
            _ => {}
        }
        self.taken.push(frame.to_vec());
        heard
    }

    fn check_join(&mut self, join: &Join, frame: &[u8]) {
        let nonce = u16::from_le_bytes([frame[17], frame[18]]);
        assert!(!self.is_used(join.dev_eui, nonce), "a join was taken again");
        self.nonces.insert((join.dev_eui, nonce));
        let (address, key) = accepted(nonce, &join.accept.frame);
        assert_eq!(address, join.dev_addr);
        self.keys.insert((join.dev_eui, address), key);
        let joined = self.record(join.dev_eui).joined.expect("a session");
        assert_eq!((joined.dev_addr, joined.next_f_cnt_up), (address, 0));
    }

    fn is_used(&self, dev_eui: DevEui, nonce: u16) -> bool {
        let mut of = self.nonces.iter().filter(|(device, _)| *device == dev_eui);
        match dev_eui {
            COUNTER => of.any(|(_, used)| *used >= nonce),
            _ => of.any(|(_, used)| *used == nonce),
        }
    }

    fn check_uplink(
        &mut self,
        uplink: &Uplink,
        before: &DeviceRecord,
        after: &DeviceRecord,
        word: u8,
    ) {
        let session = after.session.as_ref().expect("a session");
        assert_eq!(session.next_f_cnt_up, uplink.counter + 1);
        let expected = sessions(before).find(|other| is_same(other, session));
        let expected = expected.expect("it was there").next_f_cnt_up;
        let place = (uplink.dev_eui, uplink.dev_addr, uplink.counter);
        match self.uplinks.get(&place) {
            None => assert!(uplink.counter >= expected, "{} before {expected}", uplink.counter),
            Some(Word::Lost) => assert_eq!(uplink.counter + 1, expected),
            Some(word) => panic!("it was taken before: {word:?}"),
        }
        self.uplinks.insert(place, match uplink.confirmed {
            true => Word::Open,
            false => Word::Taken,
        });
        assert_eq!(self.network.is_unsettled(uplink.dev_eui), uplink.confirmed);
        if word & 3 != 0 {
            self.give_word(uplink.dev_eui, &[word & 1]);
        }
    }

    /// Says of a device's last uplink whether its message was taken.
    fn give_word(&mut self, dev_eui: DevEui, data: &[u8]) {
        let is_taken = data.first().is_none_or(|byte| byte & 1 == 1);
        if data.first().is_some_and(|byte| byte & 2 == 2) {
            self.network.ask_status(dev_eui);
        }
        if data.first().is_some_and(|byte| byte & 4 == 4) {
            let before = self.record(dev_eui);
            self.network.give_up(dev_eui);
            assert_eq!(self.network.give_up(dev_eui), None);
            assert_eq!(self.record(dev_eui), before);
        }
        let Some(session) = self.network.session(dev_eui) else {
            return;
        };
        let (address, counter) = (session.dev_addr, session.next_f_cnt_up.wrapping_sub(1));
        let mic = session.last_mic.unwrap_or_default();
        let is_open = self.network.is_unsettled(dev_eui);
        let is_due = self.network.settle(dev_eui, counter, mic, is_taken);
        assert_eq!(is_due, is_open && is_taken);
        if is_open {
            let word = if is_taken { Word::Taken } else { Word::Lost };
            let before = self.uplinks.insert((dev_eui, address, counter), word);
            assert_eq!(before, Some(Word::Open));
        }
    }

    /// A device says something in one of its sessions: two bits of which, four of its data rate and
    /// one of whether it wants an acknowledgement; how far its counter is from the one that is
    /// expected, in two bytes; how well it is heard; FCtrl and all that follows the counter.
    fn say(&mut self, dev_eui: DevEui, word: u8, data: &[u8]) {
        let [which, low, high, snr, rest @ ..] = data else {
            return;
        };
        let record = self.record(dev_eui);
        let is_over = which & 3 == 3;
        let session = match which & 3 {
            0 | 1 => record.session,
            2 => record.joined,
            _ => {
                let mut of = self.over.iter().filter(|(device, _)| *device == dev_eui);
                of.next_back().map(|(_, session)| session.clone())
            }
        };
        let Some(session) = session else { return };
        let address = session.dev_addr;
        let signer = (address, self.keys[&(dev_eui, address)]);
        let expected = session.next_f_cnt_up;
        let jump = i16::from_le_bytes([*low, *high]);
        let Some(counter) = expected.checked_add_signed(jump.into()) else {
            return;
        };
        let Some(frame) = signed(signer, which & 64 != 0, counter, rest) else {
            return;
        };
        let heard = self.hear(&frame, self.reception(which >> 2 & 15, *snr), word);
        // To the byte what was said last, or it is another frame.
        let is_same = session.last_mic.is_none_or(|mic| frame.ends_with(&mic));
        let is_last = is_same && counter.checked_add(1) == Some(expected);
        let is_next = (expected..=expected.saturating_add(MAX_GAP)).contains(&counter);
        let may_come = !is_over && (is_last || is_next && counter < u32::MAX);
        match heard {
            Ok(_) => assert!(may_come, "{counter} for {expected}"),
            Err(Refusal::Malformed) => {}
            Err(refusal) => assert!(!may_come, "{refusal}: {counter} for {expected}"),
        }
    }

    fn join(&mut self, dev_eui: DevEui, data: &[u8]) {
        let nonce = data.first_chunk().copied().map_or(0, u16::from_le_bytes);
        let is_used = self.is_used(dev_eui, nonce);
        match self.hear(&join_request(dev_eui, nonce), self.reception(0, 0), 0) {
            Ok(heard) => assert!(matches!(heard, Heard::Join(_)), "{heard:?}"),
            Err(Refusal::NonceUsed(_)) => assert!(is_used),
            Err(refusal) => assert_eq!(refusal, Refusal::UnknownDevice(MADE)),
        }
    }

    /// A frame that was taken comes again, or with a bit that is another.
    fn replay(&mut self, data: &[u8]) {
        let number = usize::from(data.first().copied().unwrap_or(0));
        if self.taken.is_empty() {
            return;
        }
        let mut frame = self.taken[number % self.taken.len()].clone();
        let Some([low, high]) = data.get(1..).and_then(<[u8]>::first_chunk) else {
            drop(self.hear(&frame, self.reception(0, 0), 0));
            return;
        };
        let bit = usize::from(u16::from_le_bytes([*low, *high])) % (frame.len() * 8);
        frame[bit / 8] ^= 1 << (bit % 8);
        let heard = self.hear(&frame, self.reception(0, 0), 0);
        assert!(heard.is_err(), "bit {bit} was changed: {heard:?}");
    }

    /// Gives a device a message, with its port and whether it shall acknowledge it, or what is due
    /// without one.
    fn send(&mut self, dev_eui: DevEui, data: &[u8]) {
        let Some(before) = self.network.session(dev_eui).cloned() else {
            return;
        };
        let [port, how, payload @ ..] = data else {
            return;
        };
        let message = Message::new(u64::from(how >> 4), *port, payload.to_vec());
        let message = message.with_confirmed(how & 1 != 0);
        let (more, earliest) = (how & 8 != 0, EARLIEST[usize::from(how >> 6)]);
        let mut answer = |message| self.network.answer_from(earliest, dev_eui, message, more);
        let sent = match how >> 1 & 3 {
            0 | 1 => answer(Some(&message)).ok().flatten(),
            2 => answer(None).ok().flatten(),
            _ => self.network.send(dev_eui, &message).ok(),
        };
        let after = self.network.session(dev_eui).expect("a session").clone();
        assert_eq!(after.next_f_cnt_up, before.next_f_cnt_up);
        match sent {
            Some(sent) => self.check_sent(&sent, &before, &after),
            None => assert_eq!(after.next_f_cnt_down, before.next_f_cnt_down),
        }
    }

    /// A counter is the next one, or encrypts what it did before.
    fn check_sent(&mut self, sent: &Transmission, before: &SessionRecord, after: &SessionRecord) {
        let frame = &sent.frame[..];
        assert!((12..=255).contains(&frame.len()) && !sent.windows.is_empty());
        let region = self.network.region();
        assert!(sent.windows.iter().all(|window| region.modulation(window.data_rate).is_some()));
        let counter = u16::from_le_bytes([frame[6], frame[7]]);
        let body = frame[8 + usize::from(frame[5] & 15)..frame.len() - 4].to_vec();
        let place = (sent.dev_eui, after.dev_addr, counter);
        if after.next_f_cnt_down == before.next_f_cnt_down {
            assert_eq!(u32::from(counter), (before.next_f_cnt_down - 1) & 0xffff);
            assert_eq!(self.sent.get(&place), Some(&body));
        } else {
            assert_eq!(u32::from(counter), before.next_f_cnt_down & 0xffff);
            assert_eq!(after.next_f_cnt_down, before.next_f_cnt_down + 1);
            assert_eq!(self.sent.insert(place, body), None);
        }
    }

    /// The network knows no more than was stored.
    fn restart(&mut self) {
        for profile in profiles() {
            let record = self.record(profile.dev_eui);
            self.network.insert(profile, Some(record));
        }
        for word in self.uplinks.values_mut().filter(|word| **word == Word::Open) {
            *word = Word::Lost;
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((beginning, mut rest)) = input.split_first() else {
        return;
    };
    let mut world = World::new(*beginning);
    for _ in 0..MAX_STEPS {
        let [what, length, tail @ ..] = rest else { break };
        let (data, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        world.step(*what, data);
        rest = tail;
    }
});
