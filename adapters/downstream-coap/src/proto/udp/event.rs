//! What an endpoint tells, and the names of what it tells about.

use bytes::Bytes;

use crate::proto::message::Message;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name<P> {
            /// The peer concerned.
            pub peer: P,
            pub(crate) serial: u64,
        }
    )*};
}

ids! {
    /// Names a request that waits for its answer.
    ExchangeId;
    /// Names a request of ours.
    CallId;
    /// Names an observation.
    ObservationId;
}

/// Is a datagram to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit<P> {
    /// To whom.
    pub peer: P,
    /// What.
    pub bytes: Bytes,
}

/// Tells what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<P> {
    /// A request is whole and waits for its answer: [`Endpoint::respond`](super::Endpoint::respond)
    /// or [`Endpoint::observe`](super::Endpoint::observe).
    Request(Incoming<P>),
    /// A request of ours came to its end; once for each that was not cancelled.
    Response {
        /// Which.
        call: CallId<P>,
        /// How it ended.
        result: Result<Message, CallError>,
    },
    /// A notification came to its end; once for each.
    Notified {
        /// Of which observation.
        observation: ObservationId<P>,
        /// How it ended.
        outcome: NotificationOutcome,
    },
    /// An answer that went apart ([`Responded::Apart`]) came to its end; once for each.
    Answered {
        /// What was answered.
        exchange: ExchangeId<P>,
        /// Whether the peer has it.
        result: Result<(), AnswerError>,
    },
    /// The peer has asked for the last block of an answer of which it got the first one
    /// ([`Responded::Begun`]). There is no event if it does not.
    AnswerFetched {
        /// What was answered.
        exchange: ExchangeId<P>,
    },
    /// The peer has asked for the last block of a notification of which it got the first one;
    /// behind the end of that. There is no event if it does not, nor if it acknowledges the first one
    /// only behind that, and may have asked for a block of what it was sent before.
    NotificationFetched {
        /// Of which observation.
        observation: ObservationId<P>,
    },
    /// An observation is over; behind the end of its last notification.
    Ended {
        /// Which.
        observation: ObservationId<P>,
        /// Why.
        reason: EndReason,
    },
}

/// Is a request with its whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Incoming<P> {
    /// Names it for its answer.
    pub exchange: ExchangeId<P>,
    /// The id of its message, or of its last block; the same when it is sent again.
    pub message_id: u16,
    /// The request; options that are not understood are gone.
    pub message: Message,
    /// Whether the peer sends it again until it hears something.
    pub is_confirmable: bool,
    /// Whether the peer wants to be told of changes: answer with
    /// [`Endpoint::observe`](super::Endpoint::observe).
    pub wants_observation: bool,
    /// Bytes that a response may have, all included, before the peer has to show that it receives at
    /// its address; `None` if it has.
    pub room: Option<usize>,
}

/// Says why a request of ours got no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nothing came in time. Whether the peer has it is unknown.
    #[error("the device did not answer in time; it may have the request")]
    TimedOut,
    /// The peer has no use for it, as after a restart.
    #[error("the device reset the request; it does not serve requests, or has just started")]
    Reset,
    /// The response has options that must be understood and are not, or its blocks do not fit.
    #[error("the device's response cannot be understood, or is too large")]
    Malformed,
    /// The peer was forgotten: its session is over.
    #[error("the device's session is over")]
    Closed,
    /// There are too many requests on their way to this peer, or peers in all.
    #[error("too many requests are on their way; try again when one has ended")]
    Busy,
}

/// Says how far a notification came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotificationOutcome {
    /// The peer has what was in the datagram.
    Acknowledged {
        /// Whether that was all. Else [`Event::NotificationFetched`] tells when the peer has fetched
        /// the rest, which it may not.
        is_whole: bool,
    },
    /// The peer does not want it; the observation ends.
    Reset,
    /// The peer did not acknowledge it in time; the observation ends.
    TimedOut,
    /// It was taken back, or its observation ended; whether the peer has it is unknown.
    Withdrawn,
}

/// Says why an observation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The peer asked for it.
    Deregistered,
    /// The peer registered for the same anew.
    Replaced,
    /// The peer reset a notification.
    Reset,
    /// The peer did not acknowledge a notification.
    TimedOut,
    /// The caller has ended it by an error ([`Endpoint::dismiss`](super::Endpoint::dismiss)).
    Failed,
    /// The peer was forgotten, or the observation was ended by the caller.
    Closed,
}

/// Says what became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the peer may not have been told"]
pub enum Responded {
    /// It is on its way; nobody tells whether it arrives.
    Sent,
    /// It is on its way apart, to be acknowledged, behind the acknowledgement of the request or by
    /// [`Endpoint::give`](super::Endpoint::give): [`Event::Answered`] tells how that ended.
    Apart,
    /// The peer does not want to hear it (RFC 7967), so that nothing was sent.
    Unwanted,
    /// Its first block is on its way; [`Event::AnswerFetched`] tells when the peer has fetched the
    /// rest, which it may not.
    Begun,
    /// The peer was asked to show by Echo that it receives at its address, since the response is too
    /// large for one that has not; it will ask anew. A request that changed something is done then.
    Challenged,
}

/// Says why nobody knows that a separate answer has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The peer did not acknowledge it in time; it may have it.
    #[error("the device did not acknowledge the answer in time; it may have it")]
    TimedOut,
    /// The peer waits for it no more.
    #[error("the device reset the answer; it waits for it no more")]
    Reset,
    /// The peer was forgotten: its session is over.
    #[error("the device's session is over")]
    Closed,
}

/// Says why an answer has nowhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RespondError {
    /// It came too late, or the peer was forgotten.
    #[error("nobody waits for this answer any more")]
    Gone,
}

/// Says why a notification cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotifyError {
    /// The observation is over.
    #[error("the observation is over")]
    Gone,
    /// The device has not acknowledged the one before.
    #[error("the device has not acknowledged the notification before; wait for its end")]
    Busy,
}
