//! A downstream for LoRaWAN devices.
//!
//! Each device appears in the hub as itself, under its DevEUI; commands reach it in its receive
//! windows; and the hub learns what became of each one on air.

pub mod event;
pub mod proto;
