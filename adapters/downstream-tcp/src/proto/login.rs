//! Who a device says it is, and how it proves that.

use std::net::SocketAddr;
use std::time::Duration;

use gateway_core::credential::SasToken;
use gateway_core::credential::Secret;
use gateway_core::{DeviceId, ErrorKind, Interest, UpstreamError};

/// Is the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its address; behind a translator of addresses, shared with others.
    pub address: SocketAddr,
    /// The name in its client certificate, if it presented one that was verified: the first DNS
    /// name among the subject's alternative names, else the first URI, else the common name.
    pub certificate_name: Option<String>,
}

impl Peer {
    /// Makes a peer without a certificate.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            certificate_name: None,
        }
    }

    /// Sets the name in its client certificate.
    #[must_use]
    pub fn with_certificate_name(mut self, name: impl Into<String>) -> Self {
        self.certificate_name = Some(name.into());
        self
    }
}

/// Is what a device proves its identity with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Proof {
    /// Nothing but its word.
    None,
    /// A secret, for the gateway's [`Authenticator`](crate::Authenticator) to judge.
    Secret(Secret),
    /// Its own token, for the hub to judge.
    Token(SasToken),
    /// The client certificate that [`Peer::certificate_name`] comes from.
    Certificate,
}

/// Is a device's wish to be known on this connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Login {
    /// The device it claims to be.
    pub device: DeviceId,
    /// What it proves that with.
    pub proof: Proof,
    /// What it wants to hear from the hub.
    pub interest: Interest,
}

impl Login {
    /// Makes a login of a device that wants messages and methods.
    #[must_use]
    pub fn new(device: DeviceId, proof: Proof) -> Self {
        Self {
            device,
            proof,
            interest: Interest::COMMANDS,
        }
    }

    /// Sets what the device wants to hear.
    #[must_use]
    pub fn with_interest(mut self, interest: Interest) -> Self {
        self.interest = interest;
        self
    }
}

/// Tells why a device was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device was not let in: {reason}")]
#[non_exhaustive]
pub struct Refusal {
    /// The kind of reason.
    pub reason: ErrorKind,
    /// When it may try again, if that was said.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// Makes a refusal.
    #[must_use]
    pub const fn new(reason: ErrorKind) -> Self {
        Self {
            reason,
            retry_after: None,
        }
    }
}

impl From<&UpstreamError> for Refusal {
    fn from(error: &UpstreamError) -> Self {
        Self {
            reason: error.kind(),
            retry_after: error.retry_after(),
        }
    }
}
