//! The broker at a client's other end, which answers in any order.

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::acts::Strange;
use super::said::Said;
use super::welcome;
use crate::client::codec::{Packet, ReadPackets, Received};
use crate::client::ledger::Kind;
use crate::client::options::Version;

/// What a broker of version 3.1.1 sends without acknowledgement.
const WINDOW_4: usize = 6;
/// Reason codes that are interesting: good ones and others.
const CODES: [u8; 5] = [0, 1, 0x10, 0x80, 0x97];

#[derive(Debug)]
pub(super) struct Broker {
    version: Version,
    /// Messages that it sends without acknowledgement.
    window: usize,
    /// Read and not answered, with the filters in it.
    asked: BTreeMap<u16, (Kind, usize)>,
    /// Sent and not acknowledged.
    delivered: BTreeMap<u16, Received>,
    pings: usize,
    messages: usize,
    /// What it has said and nobody has read.
    pub(super) wire: BytesMut,
}

impl Broker {
    pub(super) fn new(version: Version, receive: u16) -> Self {
        Self {
            version,
            window: match version {
                Version::V4 => WINDOW_4,
                Version::V5 => receive.into(),
            },
            asked: BTreeMap::new(),
            delivered: BTreeMap::new(),
            pings: 0,
            messages: 0,
            wire: BytesMut::new(),
        }
    }

    pub(super) fn read(&mut self, said: Said) {
        match said {
            Said::Publish { id, .. } => {
                self.asked.insert(id, (Kind::Publish, 0));
            }
            Said::Subscribe(id, filters) => {
                self.asked.insert(id, (Kind::Subscribe, filters.len()));
            }
            Said::Unsubscribe(id, filters) => {
                self.asked.insert(id, (Kind::Unsubscribe, filters.len()));
            }
            Said::PubAck(id) => drop(self.delivered.remove(&id)),
            Said::Ping => self.pings += 1,
            _ => {}
        }
    }

    /// Answers the packet that it was asked for in this turn; false if there is none.
    pub(super) fn answer(&mut self, which: u8, code: u8) -> bool {
        let at = usize::from(which) % self.asked.len().max(1);
        let Some(id) = self.asked.keys().nth(at).copied() else {
            return false;
        };
        let Some((kind, filters)) = self.asked.remove(&id) else {
            return false;
        };
        self.say(&answer(self.version, kind, id, code, filters));
        true
    }

    pub(super) fn deliver(&mut self, size: u8) {
        if self.delivered.len() < self.window
            && let Some(id) = (1..).find(|id| !self.delivered.contains_key(id))
        {
            self.publish(Some(id), size);
        }
    }

    pub(super) fn tell(&mut self, size: u8) {
        self.publish(None, size);
    }

    fn publish(&mut self, id: Option<u16>, size: u8) {
        self.messages += 1;
        let mut payload = self.messages.to_string().into_bytes();
        payload.resize(payload.len() + usize::from(size % 32), b'.');
        let message = Received {
            topic: "c/d".to_owned(),
            payload: payload.into(),
            retain: size.is_multiple_of(2),
            duplicate: false,
            id,
            properties: None,
            is_cut: false,
        };
        if let Some(id) = id {
            self.delivered.insert(id, message.clone());
        }
        self.say(&Packet::Publish(message));
    }

    pub(super) fn again(&mut self, which: u8) {
        let at = usize::from(which) % self.delivered.len().max(1);
        if self.version == Version::V4
            && let Some(message) = self.delivered.values().nth(at)
        {
            let duplicate = true;
            let message = Received {
                duplicate,
                ..message.clone()
            };
            self.say(&Packet::Publish(message));
        }
    }

    /// Answers a ping; false if there is none.
    pub(super) fn pong(&mut self) -> bool {
        let is_asked = self.pings > 0;
        if is_asked {
            self.pings -= 1;
            self.say(&Packet::PingResp);
        }
        is_asked
    }

    pub(super) fn goodbye(&mut self, code: u8) {
        if self.version == Version::V5 {
            let text = String::new();
            self.say(&Packet::Disconnect { code, text });
        }
    }

    pub(super) fn strange(&mut self, strange: Strange) {
        match strange {
            Strange::Answer { kind, id, code } => {
                let kind = match kind % 3 {
                    0 => Kind::Publish,
                    1 => Kind::Subscribe,
                    _ => Kind::Unsubscribe,
                };
                let answer = answer(self.version, kind, u16::from(id % 16) + 1, code, 1);
                self.say(&answer);
            }
            Strange::Deliver { id, duplicate } => {
                let message = Received {
                    topic: "c/d".to_owned(),
                    payload: "strange".into(),
                    retain: false,
                    duplicate,
                    id: Some(u16::from(id % 8) + 1),
                    properties: None,
                    is_cut: false,
                };
                self.say(&Packet::Publish(message));
            }
            Strange::ConnAck => self.say(&Packet::ConnAck(Box::new(welcome()))),
            Strange::Goodbye(code) => self.wire.extend_from_slice(&[0xe0, 1, code]),
            Strange::Bytes(bytes) => self.wire.extend_from_slice(&bytes),
        }
    }

    fn say(&mut self, packet: &Packet) {
        let before = self.wire.len();
        write(self.version, packet, &mut self.wire);
        let mut written = BytesMut::from(&self.wire[before..]);
        let read = ReadPackets::new(&mut written, self.version, usize::MAX).next();
        assert_eq!(read.as_ref(), Ok(&Some(packet.clone())));
        assert!(written.is_empty());
    }

    /// Messages that it has no word of.
    pub(super) fn unacknowledged(&self) -> usize {
        self.delivered.len()
    }
}

fn answer(version: Version, kind: Kind, id: u16, code: u8, filters: usize) -> Packet {
    let code = CODES[usize::from(code) % CODES.len()];
    let codes = vec![code; filters];
    match (kind, version) {
        (Kind::Publish, Version::V4) => Packet::PubAck { id, code: 0 },
        (Kind::Publish, Version::V5) => Packet::PubAck { id, code },
        (Kind::Subscribe, _) => Packet::SubAck { id, codes },
        (Kind::Unsubscribe, Version::V5) => Packet::UnsubAck { id, codes },
        (Kind::Unsubscribe, Version::V4) => Packet::UnsubAck {
            id,
            codes: Vec::new(),
        },
    }
}

/// Appends a packet of fewer than 128 bytes, as brokers of this version write it.
fn write(version: Version, packet: &Packet, out: &mut BytesMut) {
    let properties: &[u8] = match version {
        Version::V4 => &[],
        Version::V5 => &[0],
    };
    let (first, body) = match packet {
        Packet::ConnAck(_) => (0x20, [&[0, 0], properties].concat()),
        Packet::Publish(message) => {
            let flags = u8::from(message.duplicate) << 3 | u8::from(message.retain);
            let quality = u8::from(message.id.is_some()) << 1;
            let id = message.id.map(u16::to_be_bytes);
            let topic = message.topic.as_bytes();
            let size = (topic.len() as u16).to_be_bytes();
            let id = id.as_ref().map_or(&[][..], |id| id);
            let body = [&size, topic, id, properties, &message.payload].concat();
            (0x30 | flags | quality, body)
        }
        Packet::PubAck { id, code: 0 } => (0x40, id.to_be_bytes().to_vec()),
        Packet::PubAck { id, code } => (0x40, [&id.to_be_bytes()[..], &[*code]].concat()),
        Packet::SubAck { id, codes } => (0x90, [&id.to_be_bytes(), properties, codes].concat()),
        Packet::UnsubAck { id, codes } => (0xb0, [&id.to_be_bytes(), properties, codes].concat()),
        Packet::PingResp => (0xd0, Vec::new()),
        Packet::Disconnect { code, .. } => (0xe0, vec![*code]),
    };
    assert!(body.len() < 128);
    out.extend_from_slice(&[first, body.len() as u8]);
    out.extend_from_slice(&body);
}
