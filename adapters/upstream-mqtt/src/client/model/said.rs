//! What a client says, read with another codec than ours.

use bytes::BytesMut;
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use crate::client::options::Version;

/// What a client says, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client) enum Said {
    Connect,
    Publish {
        id: u16,
        text: String,
        duplicate: bool,
    },
    PubAck(u16),
    Subscribe(u16, Vec<String>),
    Unsubscribe(u16, Vec<String>),
    Ping,
    /// The reason code, which version 3.1.1 does not have.
    Disconnect(u8),
    /// The connection is at its end.
    #[cfg(test)]
    Nothing,
}

impl Said {
    /// Takes a packet off the front; none while it is not complete.
    ///
    /// # Panics
    /// Panics if it is none that a client may send.
    pub(in crate::client) fn read(version: Version, buffer: &mut BytesMut) -> Option<Self> {
        // The other codec does not know what a DISCONNECT without properties means.
        let code = match **buffer {
            [0xe0, 0] => Some(0),
            [0xe0, 1, code] => Some(code),
            _ => None,
        };
        if let Some(code) = code {
            buffer.clear();
            return Some(Self::Disconnect(code));
        }
        match version {
            Version::V4 => match v4::Packet::read(buffer, usize::MAX) {
                Ok(packet) => Some(said_4(packet)),
                Err(rumqttc::mqttbytes::Error::InsufficientBytes(_)) => None,
                Err(error) => panic!("the client says what cannot be read: {error}"),
            },
            Version::V5 => match v5::Packet::read(buffer, None) {
                Ok(packet) => Some(said_5(packet)),
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => None,
                Err(error) => panic!("the client says what cannot be read: {error}"),
            },
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn said_4(packet: v4::Packet) -> Said {
    match packet {
        v4::Packet::Connect(_) => Said::Connect,
        v4::Packet::Publish(publish) => Said::Publish {
            id: publish.pkid,
            text: text(&publish.payload),
            duplicate: publish.dup,
        },
        v4::Packet::PubAck(ack) => Said::PubAck(ack.pkid),
        v4::Packet::Subscribe(subscribe) => {
            let filters = subscribe.filters.into_iter().map(|filter| filter.path);
            Said::Subscribe(subscribe.pkid, filters.collect())
        }
        v4::Packet::Unsubscribe(unsubscribe) => {
            Said::Unsubscribe(unsubscribe.pkid, unsubscribe.topics)
        }
        v4::Packet::PingReq => Said::Ping,
        v4::Packet::Disconnect => Said::Disconnect(0),
        other => panic!("{other:?}"),
    }
}

fn said_5(packet: v5::Packet) -> Said {
    match packet {
        v5::Packet::Connect(..) => Said::Connect,
        v5::Packet::Publish(publish) => Said::Publish {
            id: publish.pkid,
            text: text(&publish.payload),
            duplicate: publish.dup,
        },
        v5::Packet::PubAck(ack) => Said::PubAck(ack.pkid),
        v5::Packet::Subscribe(subscribe) => {
            let filters = subscribe.filters.into_iter().map(|filter| filter.path);
            Said::Subscribe(subscribe.pkid, filters.collect())
        }
        v5::Packet::Unsubscribe(unsubscribe) => {
            Said::Unsubscribe(unsubscribe.pkid, unsubscribe.filters)
        }
        v5::Packet::PingReq(_) => Said::Ping,
        other => panic!("{other:?}"),
    }
}
