//! What the table tells, and the names of what it tells about.

use std::net::SocketAddr;

use bytes::Bytes;
use gateway_core::DeviceId;

/// Names a session, at whatever address it is. A number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Is a datagram to be sent as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DtlsTransmit {
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub bytes: Bytes,
}

/// Tells what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DtlsEvent {
    /// A client names its identity and waits for [`DtlsTable::identified`](super::DtlsTable::identified).
    Identify {
        /// The session that it wants.
        session: SessionId,
        /// Who it says it is.
        identity: String,
    },
    /// A device has proved its identity. Its former session has [ended](Self::Ended) before.
    Ready {
        /// Its session.
        session: SessionId,
        /// The device.
        device: DeviceId,
    },
    /// A message came in a session, which may have [ended](Self::Ended) behind it.
    Datagram {
        /// The session.
        session: SessionId,
        /// Whose it is.
        device: DeviceId,
        /// The address that it came from.
        from: SocketAddr,
        /// What the device sent.
        bytes: Bytes,
    },
    /// A session that was [ready](Self::Ready) is over; once for each.
    Ended {
        /// The session.
        session: SessionId,
        /// Why.
        reason: SessionEnd,
    },
    /// A client that receives at its address has not proved an identity.
    Refused {
        /// Its address.
        from: SocketAddr,
        /// The identity that it named, if it came that far.
        identity: Option<String>,
        /// Why.
        reason: Refusal,
    },
}

/// Says why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEnd {
    /// The device or the gateway closed it.
    Closed,
    /// The device has a newer one, or another device has come to its address.
    Replaced,
    /// The device was silent for too long.
    Idle,
    /// There are too many sessions, and this was silent longest.
    Evicted,
    /// The device sent a fatal alert, or what must not come in a session.
    Failed,
}

/// Says why a handshake has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody knows the identity, or the registry cannot be asked.
    #[error("the identity is not known")]
    UnknownIdentity,
    /// The client does not have the key; a few lost or forged datagrams can look the same.
    #[error("the client does not prove the identity; is its key right?")]
    WrongKey,
    /// The two have no cipher in common, or the client breaks the protocol.
    #[error(
        "the client does not speak DTLS 1.2 with TLS_PSK_WITH_AES_128_CCM_8 and the extended master secret"
    )]
    Unsuitable,
    /// It took too long.
    #[error("the handshake took too long")]
    TimedOut,
    /// There are too many handshakes, and this was the oldest; or the client began a new one.
    #[error("a newer handshake took its place")]
    Displaced,
}

/// Says why nothing can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DtlsSendError {
    /// The session is over, or is not ready yet.
    #[error("the device's session is over")]
    Gone,
}
