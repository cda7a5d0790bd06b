//! Carries thousands of devices over few AMQP 1.0 connections to Azure IoT Hub, each device under
//! its own identity.
//!
//! A connection takes as many devices as the hub allows tokens on it, and the next is opened only
//! when it is full. Each device has a link of its own, since the hub takes identity from the link;
//! links live on a few sessions ("lanes") a connection, so that opening them goes on side by side
//! and a fault in one ends only its share. What is written gathers into few system calls.
//!
//! Lost connections come back by themselves, devices with work first, then the most recently active,
//! all under one budget of what the hub may be asked for ([`BudgetConfig`](gateway_core::governor::BudgetConfig)): a throttle answer to one
//! slows all.
//!
//! # Commands
//!
//! Links for messages, methods and changes of the twin exist only for devices that listen: those that
//! said so when they were attached, all if the configuration says so, and those that have just sent
//! something if it says that ([`CommandConfig`]). A device that only speaks has no task and no such
//! link.
//!
//! A message is given back to the hub before its lock lapses if nobody has settled it, and at once
//! if its device goes; it is not given back so often that the hub gives it up. What is beyond the
//! credit of a device stays at the hub, so that a flood costs that device alone. A verdict is void
//! when the message's link is lost. The hub says over AMQP neither how long it waits for a method's
//! answer nor the tag (ETag) of a twin.
//!
//! Changes of desired properties come in the order of their versions, each once. After a gap, after
//! their link was lost, or after the device has missed one, the twin is read: if anything was missed,
//! all desired properties come as one [whole](gateway_core::DesiredPatch::is_whole) set. Nothing is
//! made up for a device that listens for the first time: it reads its twin itself.
//!
//! # Devices that misbehave
//!
//! Tokens are renewed in place, spread over time and paced, and signed with whichever of two keys the
//! hub takes ([`TokenConfig`]); a device whose token lapses all the same comes back with a fresh one.
//!
//! A device that is refused or detached again and again gets a lane of its own, and is then answered
//! in the hub's place for a while ([`BreakerConfig`](gateway_core::governor::BreakerConfig)). One that another client took over ends as
//! [`Displaced`](gateway_core::ErrorKind::Displaced) and is not fought over.
//!
//! # The client
//!
//! Sessions and links are this crate's own; `fe2o3-amqp` gives the types, the codec and the SASL
//! frames. Its own links cost 13 KiB each and a task's attention, open one by one, and it lets a new
//! link take a handle while messages of the old one may still leave on it, which puts them under
//! another device's name. Here a frame is encoded in the order of the wire, under one lock, straight
//! from the sender's call, and a handle is free only when both sides have detached it.
//!
//! What such a client must get right, each with a test in `client/tests`, `tests/traps.rs` or beside
//! the code: a delivery fails with its link, session or connection; whatever is cancelled leaves no
//! trace; a link that the hub refuses or detaches costs nobody else anything; windows, credit and
//! numbers wrap; what waits is bounded; a frozen peer is noticed; what nests too deep is refused.

mod attach;
mod authorize;
mod cbs;
mod client;
mod commands;
mod config;
mod connection;
mod convert;
mod device;
mod env;
mod error;
mod explain;
mod keeper;
mod lane;
mod link;
mod pool;
mod sections;
mod supervisor;
mod token;
mod transport;
mod twin;
mod upstream;
mod wheel;

pub use commands::CommandConfig;
pub use config::{AMQPS_PORT, AmqpConfig, PoolConfig, WireConfig};
pub use token::TokenConfig;
pub use upstream::{AmqpStats, AmqpUpstream};

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

/// What benchmarks measure and compare with. Not part of the interface: it changes at will.
#[doc(hidden)]
pub mod internal {
    pub use crate::convert::bench::{encode_uplinks, read_message, read_method};
    pub use crate::transport::{Stream, Transport as Dialer};
}
