//! What a session tells.

use crate::proto::message::{Message, Token};

/// Tells what happened on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A request is whole and waits for [`Session::respond`](super::Session::respond).
    Request {
        /// Names it for its answer.
        exchange: u64,
        /// The request; options that are not understood are gone.
        message: Message,
        /// Whether the peer wants to be told of changes: answer with
        /// [`Session::observe`](super::Session::observe).
        wants_observation: bool,
    },
    /// A request of ours has its response; `None` if that makes no sense.
    Response {
        /// Which.
        call: u64,
        /// The response.
        response: Option<Message>,
    },
    /// The peer has asked for the last block of an answer of which it got the first one. There is no
    /// event if it does not.
    AnswerFetched {
        /// What was answered.
        exchange: u64,
    },
    /// The peer has asked for the last block of a notification of which it got the first one, or is to
    /// get it: until a [ping](super::Session::ping) behind that is answered, it may have asked for a
    /// block of what it was sent before. There is no event if it does not.
    NotificationFetched {
        /// Of which observation.
        observation: u64,
    },
    /// The peer answered our ping, and so has taken everything that was sent before it.
    Pong {
        /// The token of the ping.
        token: Token,
    },
    /// The peer took an observation back, or registered for the same anew.
    Ended {
        /// Which.
        observation: u64,
    },
    /// The peer wants the connection to end: answer what is open, then close it.
    Released,
}

/// Says why a connection is over. What is in the output is still to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Closed {
    /// The peer does not keep to the protocol; it was told so.
    #[error("the peer does not speak CoAP over TCP as it should: {0}")]
    Protocol(&'static str),
    /// The peer aborted the connection.
    #[error("the peer aborted the connection")]
    Aborted,
}

/// Says why a request or notification cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There are as many on their way as are allowed.
    #[error("too many requests are on their way; try again when one has ended")]
    Busy,
    /// The exchange or observation is over.
    #[error("nobody waits for this any more")]
    Gone,
}
