//! What CoAP has to remember, without IO and without a clock.
//!
//! Bytes and the time go in, bytes and events come out. Time is a [`Duration`](std::time::Duration)
//! since a start that never changes.
//!
//! ```text
//! datagrams --> udp::Endpoint --> Event::Request  --> resource::Routes --> the hub
//!                    ^  (blocks, observe)                                     |
//!                    '---------- respond, notify, request <-------------------'
//! a stream  --> tcp::Session  --> the same, without message ids and retransmission
//! ```

pub mod block;
mod budget;
mod config;
pub mod message;
mod random;
pub mod resource;
pub mod tcp;
pub mod udp;

pub use budget::Budget;
pub use config::{BlockConfig, EchoPolicy, EndpointConfig, LimitConfig, TransmissionConfig};
pub(crate) use random::Random;
pub use random::Seed;
