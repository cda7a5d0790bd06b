//! How one device stands with the hub.

use std::time::SystemTime;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::credential::SasToken;
use crate::error::{ErrorKind, UpstreamError};
use crate::upstream::Interest;

/// How the device stands with the hub. Behind a lock, so changes and uplinks come one by one.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    pub(super) attached: Option<Attached>,
    /// Whether the upstream may know the device: from before an attach is asked for, since one that
    /// fails or is given up may have come through, until a detach.
    pub(super) is_held: bool,
    /// The token that the device presented last among those that the hub took.
    pub(super) token: Option<SasToken>,
    /// What the device wants to hear now; the hub may not have been told yet.
    pub(super) wanted: Interest,
    refusal: Option<Refusal>,
    /// Refusals since the last attach.
    refusals: u32,
}

#[derive(Debug)]
pub(super) struct Attached {
    /// When the device's own token expires.
    pub(super) until: Option<SystemTime>,
    pub(super) interest: Interest,
}

/// The hub's last refusal, and of what: a bad token says nothing about a good one.
#[derive(Debug)]
struct Refusal {
    until: Instant,
    kind: ErrorKind,
    token: Option<SasToken>,
}

impl Gate {
    /// Tells whether the device is attached with this interest, its token not expired.
    pub(super) fn stands(&self, interest: Interest) -> bool {
        self.attached.as_ref().is_some_and(|attached| {
            let is_valid = |until| SystemTime::now() < until;
            attached.interest == interest && attached.until.is_none_or(is_valid)
        })
    }

    pub(super) fn is_subscribed(&self) -> bool {
        let attached = self.attached.as_ref();
        attached.is_some_and(|attached| attached.interest != Interest::NONE)
    }

    /// Fails while the hub's refusal of this token, or of the device without one, is young.
    pub(super) fn check(&self, token: Option<&SasToken>) -> Result<(), UpstreamError> {
        let refusal = self.refusal.as_ref();
        let Some(refusal) = refusal.filter(|refusal| refusal.token.as_ref() == token) else {
            return Ok(());
        };
        let left = refusal.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        Err(UpstreamError::new(refusal.kind, "attach").with_retry_after(left))
    }

    pub(super) fn accept(&mut self, token: Option<SasToken>, interest: Interest) {
        let until = token.as_ref().map(SasToken::expires);
        self.attached = Some(Attached { until, interest });
        self.token = token;
        self.wanted = interest;
        self.refusal = None;
        self.refusals = 0;
    }

    /// Remembers a refusal for a while, so that a bad device costs the hub little.
    pub(super) fn refuse(&mut self, token: Option<SasToken>, kind: ErrorKind, backoff: &Backoff) {
        if token == self.token {
            self.attached = None;
        }
        self.refusal = Some(Refusal {
            until: Instant::now() + backoff.delay(self.refusals),
            kind,
            token,
        });
        self.refusals = self.refusals.saturating_add(1);
    }

    /// Notes that the hub does not know the device any more.
    pub(crate) fn forget(&mut self) {
        self.attached = None;
    }
}

/// Tells whether the hub would say the same again.
pub(super) fn is_lasting(kind: ErrorKind) -> bool {
    use ErrorKind::{Rejected, Unauthorized, UnknownDevice, Unsupported};
    matches!(kind, Rejected | Unauthorized | UnknownDevice | Unsupported)
}
