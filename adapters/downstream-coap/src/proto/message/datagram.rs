//! Messages in datagrams (RFC 7252, sections 3 and 4).

use bytes::Bytes;

use super::codec::{self, HEADER};
use super::{Code, Message};

/// Says what a datagram asks of its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// To be acknowledged, and sent again until it is.
    Confirmable,
    /// Sent once.
    NonConfirmable,
    /// Acknowledges, and may bring the response along.
    Acknowledgement,
    /// Nothing can be done with what came.
    Reset,
}

/// Is a message with what UDP needs besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// What it asks of its receiver.
    pub kind: Kind,
    /// Tells duplicates, and ties an acknowledgement to what it acknowledges; nothing else.
    pub id: u16,
    /// The message.
    pub message: Message,
}

/// Says what is to be done about bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Ignore,
    /// The sender waits for an acknowledgement: it gets a reset with this id (section 4.2).
    Reset(u16),
}

impl Datagram {
    /// Makes a datagram without a message: an acknowledgement, a reset or a ping.
    #[must_use]
    pub const fn empty(kind: Kind, id: u16) -> Self {
        let message = Message::new(Code::EMPTY);
        Self { kind, id, message }
    }

    /// Reads a datagram.
    ///
    /// # Errors
    /// The bytes are none, or none that makes sense: an empty non-confirmable message, a reset that
    /// is not empty, an acknowledgement with a request, a class of code that is reserved.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let [first, code, high, low, ..] = bytes else {
            return Err(Fault::Ignore);
        };
        if first >> 6 != 1 {
            return Err(Fault::Ignore);
        }
        let id = u16::from_be_bytes([*high, *low]);
        let kind = match first >> 4 & 3 {
            0 => Kind::Confirmable,
            1 => Kind::NonConfirmable,
            2 => Kind::Acknowledgement,
            _ => Kind::Reset,
        };
        let code = Code::from_byte(*code);
        let makes_sense = match kind {
            Kind::Confirmable => code == Code::EMPTY || code.is_request() || code.is_response(),
            Kind::NonConfirmable => code.is_request() || code.is_response(),
            Kind::Acknowledgement => code == Code::EMPTY || code.is_response(),
            Kind::Reset => code == Code::EMPTY,
        };
        match codec::decode(bytes) {
            Ok(message) if makes_sense => Ok(Self { kind, id, message }),
            _ if kind == Kind::Confirmable => Err(Fault::Reset(id)),
            _ => Err(Fault::Ignore),
        }
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let kind = match self.kind {
            Kind::Confirmable => 0,
            Kind::NonConfirmable => 1,
            Kind::Acknowledgement => 2,
            Kind::Reset => 3,
        };
        let bytes = codec::encode(&self.message, kind, self.id);
        debug_assert!(bytes.len() >= HEADER);
        bytes.into()
    }
}
