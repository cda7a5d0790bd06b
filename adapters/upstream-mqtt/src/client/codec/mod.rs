//! Packets off and onto the wire, in both versions.
//!
//! Sources: OASIS, "MQTT Version 3.1.1" and "MQTT Version 5.0", sections 2 and 3.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::borrow::Cow;

use bytes::Bytes;

pub(super) use read::{Cut, ReadPackets};
pub(super) use write::{Outgoing, connect, disconnect, ping, puback};

use crate::client::options::Properties5;
use crate::error::MqttError;

/// What brokers send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    ConnAck(Box<ConnAck>),
    Publish(Received),
    PubAck {
        id: u16,
        code: u8,
    },
    /// `codes` are one for each filter.
    SubAck {
        id: u16,
        codes: Vec<u8>,
    },
    /// `codes` are empty in version 3.1.1, where there is no refusal.
    UnsubAck {
        id: u16,
        codes: Vec<u8>,
    },
    PingResp,
    Disconnect {
        code: u8,
        text: String,
    },
}

/// The broker's answer to CONNECT, and what it asks for. Version 3.1.1 asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConnAck {
    pub(super) session_present: bool,
    pub(super) code: u8,
    pub(super) text: String,
    pub(super) receive_maximum: u16,
    pub(super) max_packet: u32,
    pub(super) max_qos: u8,
    pub(super) takes_retained: bool,
    pub(super) assigned_client_id: Option<String>,
    /// In seconds.
    pub(super) server_keep_alive: Option<u16>,
}

impl ConnAck {
    /// Says nothing about what version 5 may ask for.
    fn new(session_present: bool, code: u8) -> Self {
        Self {
            session_present,
            code,
            text: String::new(),
            receive_maximum: u16::MAX,
            max_packet: u32::MAX,
            max_qos: 2,
            takes_retained: true,
            assigned_client_id: None,
            server_keep_alive: None,
        }
    }
}

/// A message from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) retain: bool,
    pub(super) duplicate: bool,
    /// None if it came at most once.
    pub(super) id: Option<u16>,
    pub(super) properties: Option<Properties5>,
    /// Its payload was too large, and is left out.
    pub(super) is_cut: bool,
}

/// Why what came is not MQTT as this client has to take it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(super) struct Fault {
    /// What a broker of version 5 is told in DISCONNECT.
    pub(super) code: u8,
    pub(super) what: Cow<'static, str>,
}

impl Fault {
    /// A packet that cannot be read.
    pub(super) fn malformed(what: &'static str) -> Self {
        Self {
            code: 0x81,
            what: what.into(),
        }
    }

    /// A packet that can be read and must not come.
    pub(super) fn protocol(what: &'static str) -> Self {
        Self {
            code: 0x82,
            what: what.into(),
        }
    }

    /// Another reason for DISCONNECT.
    pub(super) fn with_code(code: u8, what: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            what: what.into(),
        }
    }
}

impl From<Fault> for MqttError {
    fn from(fault: Fault) -> Self {
        Self::Protocol(fault.what)
    }
}
