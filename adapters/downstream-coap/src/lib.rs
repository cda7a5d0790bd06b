//! A downstream for devices that speak CoAP.
//!
//! Everything that the protocol has to remember is in [`proto`], without IO and without a clock:
//! the message layer of UDP and DTLS, blocks, observe, CoAP over TCP, and which path means what.

pub mod dtls;
pub mod proto;
