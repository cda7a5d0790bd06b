//! What goes over a connection, without IO and without a clock.
//!
//! Bytes go in, bytes and requests come out, so everything here can be tested, replayed and fuzzed
//! as it stands.

mod framing;
pub mod json_lines;
mod login;
mod protocol;

pub(crate) use framing::TOO_LONG;
pub use framing::{Endian, FrameCodec, FrameError, Framing};
pub use login::{Login, Peer, Proof, Refusal};
pub use protocol::{
    Actions, CloseReason, Command, Confirmation, Protocol, ProtocolFactory, Request,
};
