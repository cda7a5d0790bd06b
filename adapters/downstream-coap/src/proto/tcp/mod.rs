//! CoAP over TCP and TLS (RFC 8323), as server and as client on one connection.
//!
//! [`Session`] is what a connection has. Hand it what is read, write what
//! [`Session::take_output`] gives, act on what [`Session::poll_event`] gives. The stream does what
//! message ids and retransmission are for elsewhere; how long to wait for whom is the caller's.

mod event;
mod frame;
mod session;

#[cfg(test)]
mod tests;

pub use event::{Closed, Event, RequestError};
pub use frame::{FrameError, FrameReader, write_frame};
pub use session::{Session, StreamConfig};
