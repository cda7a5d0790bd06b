//! Carries thousands of devices over few AMQP 1.0 connections to Azure IoT Hub, each device under
//! its own identity.
//!
//! A connection takes as many devices as the hub allows tokens on it, and the next is opened only
//! when it is full. Each device has a link of its own, since the hub takes identity from the link;
//! links live on a few sessions ("lanes") a connection, so that opening them goes on side by side
//! and a fault in one ends only its share. What is written gathers into few system calls.
//!
//! Lost connections come back by themselves, the most recently active devices first. Links for
//! commands exist only for devices that listen.
//!
//! Against the client's traps (fe2o3-amqp 0.18): deliveries are freed by dropping their sender
//! when the connection dies; receivers are closed, never dropped; no attach is cancelled; an
//! attach after a refused one is tried again; a session is replaced before its transfer numbers
//! wrap; what is in flight on a session is bounded below its window.

mod attach;
mod cbs;
mod commands;
mod config;
mod connection;
mod convert;
mod device;
mod env;
mod error;
mod lane;
mod pool;
mod stream;
mod supervisor;
mod token;
mod transport;
mod twin;
mod upstream;

pub use config::{AMQPS_PORT, AmqpConfig, CommandConfig, PoolConfig, WireConfig};
pub use upstream::{AmqpStats, AmqpUpstream};

/// What benchmarks compare the multiplexer with. Not part of the interface: it changes at will.
#[doc(hidden)]
pub mod internal {
    pub use crate::stream::{Coalesced, Pump, coalesce};
    pub use crate::transport::{Stream, Transport as Dialer};
}
