//! Carries thousands of devices over few AMQP 1.0 connections to Azure IoT Hub, each device under
//! its own identity.
//!
//! A connection takes as many devices as the hub allows tokens on it, and the next is opened only
//! when it is full. Each device has a link of its own, since the hub takes identity from the link;
//! links live on a few sessions ("lanes") a connection, so that opening them goes on side by side
//! and a fault in one ends only its share. What is written gathers into few system calls.
//!
//! Lost connections come back by themselves, devices with work first, then the most recently active,
//! all under one budget of what the hub may be asked for ([`BudgetConfig`]): a throttle answer to one
//! slows all. Links for commands exist only for devices that listen.
//!
//! A device that is refused or detached again and again gets a lane of its own, and is then answered
//! in the hub's place for a while ([`BreakerConfig`]). One that another client took over ends as
//! [`Displaced`](gateway_core::ErrorKind::Displaced) and is not fought over.
//!
//! # The client's traps
//!
//! The AMQP client (fe2o3-amqp 0.18) has ways to stall or end more than it should. Each is shut out by
//! construction, or has a test that shows it harmless.
//!
//! | trap | what shuts it out |
//! | --- | --- |
//! | a delivery stays pending when its connection dies | recovery drops every sender first; `conformance.rs`: a cut, a lost settlement |
//! | a receiver dropped with transfers on their way ends its session | one task owns a device's receivers and closes them; `traps.rs` |
//! | a cancelled attach ends its session, an unanswered one blocks it | the lane runs each to its end and is given up after `answer_timeout`; `traps.rs` |
//! | a link opened right after a refused or detached one takes over its handle, and the connection dies | the lane rests before the next; `traps.rs`. A message that crosses the hub's detach may still cost the lane, whose devices come back: from the second time on its device's own lane; `breaker.rs` |
//! | a session stalls when its 32-bit transfer number wraps | `PoolConfig::lane_transfers`; `traps.rs` |
//! | the peer's `handle-max` is not kept | devices a connection times six links stay below 65,535: `AmqpConfig::validate` |
//! | `channel-max` asked for is 255 | asked for 8191 |
//! | sender and receiver of one name on a session | every name has a number of its own |
//! | tokens one by one, status 202 only, answers mixed up | own pipelined `$cbs` exchange by correlation id; `traps.rs` |
//! | SASL without MSSBCBS | ANONYMOUS, then tokens |
//! | an idle sender does not see its detach | the next message finds it, fails as retryable, and the link is replaced; `traps.rs` |
//! | heartbeats at the peer's whole idle time-out | the pump sends empty frames after `WireConfig::heartbeat`; `stream.rs` |
//! | writing blocks reading | the pump writes, from a pipe; `traps.rs`: large messages both ways through 1 KiB |
//! | transfers gather without bound behind a shut session window | `WireConfig::in_flight_per_lane`; `traps.rs` |
//! | queues of 65,535 frames, 200 credits | 4096 frames; `CommandConfig::credit` |
//! | only the receiver's owner can reject | the device's command task is the owner; `conformance.rs` |
//! | a frozen peer | the idle time-out; `traps.rs` |
//!
//! The client's decoder recurses without bound: a hostile hub could overflow its stack. TLS says who
//! the hub is.

mod attach;
mod authorize;
mod breaker;
mod budget;
mod cbs;
mod commands;
mod config;
mod connection;
mod convert;
mod device;
mod door;
mod env;
mod error;
mod explain;
mod governor;
mod keeper;
mod lane;
mod link;
mod pool;
mod progress;
mod stream;
mod supervisor;
mod token;
mod transport;
mod twin;
mod upstream;
mod wheel;

pub use breaker::BreakerConfig;
pub use budget::{BudgetConfig, HubTier, Rate};
pub use config::{AMQPS_PORT, AmqpConfig, CommandConfig, PoolConfig, WireConfig};
pub use token::TokenConfig;
pub use upstream::{AmqpStats, AmqpUpstream};

/// What benchmarks compare the multiplexer with. Not part of the interface: it changes at will.
#[doc(hidden)]
pub mod internal {
    pub use crate::stream::{Coalesced, Pump, coalesce};
    pub use crate::transport::{Stream, Transport as Dialer};
}
