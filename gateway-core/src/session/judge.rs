//! How many tokens are presented in a device's name at a time.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::Busy;
use crate::credential::SasToken;
use crate::error::{ErrorKind, UpstreamError};

/// Tokens that are judged for one device at a time, the one at the hub and those that wait for it. Anybody
/// can present one in the device's name, and the device's messages wait behind it: a device has one, and
/// finds a place beside a stranger's. As many are of the token that the hub took last: strangers do not
/// have it, but a device that keeps trying does while the hub is out of reach.
const MOST: u8 = 2;

/// Is a place among the tokens being judged.
#[derive(Debug)]
pub(super) struct Judged<'a>(&'a AtomicU8);

/// Counts presented tokens that wait for the hub's judgement, or have it made.
#[derive(Debug, Default)]
pub(super) struct Judging {
    /// Of the token that the hub took last.
    known: AtomicU8,
    others: AtomicU8,
}

impl Judging {
    pub(super) fn count(&self) -> u32 {
        u32::from(self.known.load(Relaxed)) + u32::from(self.others.load(Relaxed))
    }
}

impl Busy {
    /// Takes a place for a token that was presented; none is needed for the one that the device is
    /// attached with.
    pub(super) fn judge(&self, token: &SasToken) -> Result<Option<Judged<'_>>, UpstreamError> {
        let judging = {
            let standing = self.0.standing();
            match standing.token() == Some(token) {
                true if standing.is_attached() => return Ok(None),
                true => &self.0.judging.known,
                false => &self.0.judging.others,
            }
        };
        let place = Judged(judging);
        match judging.fetch_add(1, Relaxed) < MOST {
            true => Ok(Some(place)),
            false => Err(UpstreamError::new(ErrorKind::Throttled, "online")
                .with_source("other tokens of this device are being judged")),
        }
    }
}

impl Drop for Judged<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
