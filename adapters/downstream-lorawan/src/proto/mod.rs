//! What travels between concentrators, devices and a network server: protocols without IO or clock.
//!
//! Bytes and the time go in, bytes and decisions come out, so everything here can be tested,
//! replayed and fuzzed as it stands. Where a time is wanted, it is a [`Duration`] since any fixed
//! start that the caller chose.
//!
//! [`Duration`]: std::time::Duration

pub mod gwmp;
mod id;
pub mod mac;
mod radio;
pub mod station;
pub mod store;

pub use id::{Eui64, IdError, Key};
pub use radio::{
    CodingRate, ConcentratorClock, MAX_FRAME, Modulation, Reception, Transmission, TxWindow,
};
