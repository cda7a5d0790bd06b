//! The AMQP 1.0 type system and frames: reading without recursion, writing with every field.
//!
//! Reading is by hand because a general decoder that recurses can be driven out of its stack by one
//! deeply nested frame; the tests hold both directions against `serde_amqp` as an oracle.

pub(crate) mod encode;
pub(crate) mod frame;
pub(crate) mod message;
pub(crate) mod performative;
pub(crate) mod read;
pub(crate) mod write;

/// Why bytes are not the AMQP they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DecodeError(pub(crate) &'static str);

/// Descriptor codes (AMQP 1.0 parts 2, 3 and 5).
pub(crate) mod code {
    pub(crate) const OPEN: u64 = 0x10;
    pub(crate) const BEGIN: u64 = 0x11;
    pub(crate) const ATTACH: u64 = 0x12;
    pub(crate) const FLOW: u64 = 0x13;
    pub(crate) const TRANSFER: u64 = 0x14;
    pub(crate) const DISPOSITION: u64 = 0x15;
    pub(crate) const DETACH: u64 = 0x16;
    pub(crate) const END: u64 = 0x17;
    pub(crate) const CLOSE: u64 = 0x18;
    pub(crate) const ERROR: u64 = 0x1d;
    pub(crate) const ACCEPTED: u64 = 0x24;
    pub(crate) const REJECTED: u64 = 0x25;
    pub(crate) const RELEASED: u64 = 0x26;
    pub(crate) const MODIFIED: u64 = 0x27;
    pub(crate) const SOURCE: u64 = 0x28;
    pub(crate) const TARGET: u64 = 0x29;
    pub(crate) const SASL_MECHANISMS: u64 = 0x40;
    pub(crate) const SASL_INIT: u64 = 0x41;
    pub(crate) const SASL_OUTCOME: u64 = 0x44;
    pub(crate) const HEADER: u64 = 0x70;
    pub(crate) const DELIVERY_ANNOTATIONS: u64 = 0x71;
    pub(crate) const MESSAGE_ANNOTATIONS: u64 = 0x72;
    pub(crate) const PROPERTIES: u64 = 0x73;
    pub(crate) const APPLICATION_PROPERTIES: u64 = 0x74;
    pub(crate) const DATA: u64 = 0x75;
    pub(crate) const AMQP_SEQUENCE: u64 = 0x76;
    pub(crate) const AMQP_VALUE: u64 = 0x77;
    pub(crate) const FOOTER: u64 = 0x78;
    /// `apache.org:selector-filter:string`.
    pub(crate) const SELECTOR_FILTER: u64 = 0x468c_0000_0004;
}

#[cfg(test)]
mod tests;
