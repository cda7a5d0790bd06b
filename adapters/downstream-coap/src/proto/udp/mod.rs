//! CoAP over datagrams, UDP or DTLS (RFC 7252), as server and as client on one socket.
//!
//! [`Endpoint`] is what a socket has. It knows its peers by a name of the caller's choice: an
//! address, or a number for a DTLS session. After every call, send what [`Endpoint::poll_transmit`]
//! gives, act on what [`Endpoint::poll_event`] gives, and call [`Endpoint::on_timeout`] at
//! [`Endpoint::next_timeout`].

mod calls;
mod context;
mod endpoint;
mod event;
mod memory;
mod notifications;
mod observers;
mod outbox;
mod peer;
mod server;

#[cfg(test)]
mod tests;

pub use endpoint::{Endpoint, EndpointGauge, EndpointStats, PeerName};
pub use event::{
    AnswerError, CallError, CallId, EndReason, Event, ExchangeId, Incoming, NotificationOutcome,
    NotifyError, ObservationId, RespondError, Responded, Transmit,
};
