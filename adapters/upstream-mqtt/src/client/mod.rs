//! One MQTT connection: what is sent is settled by the broker's acknowledgement, what comes is
//! acknowledged when its receiver says so.
//!
//! State without IO or clock behind one short lock, and a driver that reads and writes for it in
//! whole batches. Whoever publishes enters the message in the ledger and encodes it into the
//! connection's outbox itself; the driver writes all that has gathered at once, and wakes whoever a
//! batch of packets concerns.
//!
//! ```text
//! Client (handle) --> State { Ledger, Arrivals } --> outbox --> driver --> socket
//! Receipt ----------------^------- packets -------------------- driver <--
//! ```
//!
//! # The ledger
//! A message has one entry from the call until its PUBACK. If the connection ends first, all open
//! entries fail at once: nothing is sent again behind the caller's back, whatever a session keeps, so
//! that packet identifiers of an old connection never meet those of a new one. Identifiers go
//! round all 65,535, so that an acknowledgement that comes twice settles nothing else.
//!
//! # The codec
//! Packets are written by `rumqttc`'s codec behind the checks that it leaves out, and read by an
//! own reader, because that of `rumqttc` 0.25
//! - takes a version 5 DISCONNECT without properties for one that is not complete, and drops it with
//!   its reason, as it drops whatever ends too early inside;
//! - goes on reading properties beyond their length, into the payload, and stops too early after
//!   subscription identifiers, which puts properties into the payload;
//! - fails on reason codes that it does not know, takes topics that are not UTF-8, and accepts
//!   acknowledgements of any length.

mod arrivals;
pub(crate) mod bench;
mod codec;
mod driver;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod handle;
mod ledger;
#[cfg(any(test, feature = "fuzzing"))]
mod model;
mod options;
pub(crate) mod reason;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod transport;
mod wakers;
mod websocket;

pub(crate) use handle::{Client, Inbox, Incoming, Receipt};
pub(crate) use options::{Limits, Options, Properties5, Publish, Transport, Version, Will};
