//! How many tokens are presented in a device's name at a time.

use std::sync::atomic::Ordering::Relaxed;

use super::{Busy, Session};
use crate::credential::SasToken;
use crate::error::{ErrorKind, UpstreamError};

/// Tokens that are judged for one device at a time, the one at the hub and those that wait for it. Anybody
/// can present one in the device's name, and the device's messages wait behind it: a device has one, and
/// finds a place beside a stranger's.
const MOST: u8 = 2;

/// Is a place among the tokens being judged.
#[derive(Debug)]
pub(super) struct Judged<'a>(&'a Session);

impl Busy {
    /// Takes a place for a token that was presented; none is needed for the one that the hub has
    /// taken.
    pub(super) fn judge(&self, token: &SasToken) -> Result<Option<Judged<'_>>, UpstreamError> {
        let session = &*self.0;
        if session.standing().token() == Some(token) {
            return Ok(None);
        }
        let place = Judged(session);
        match session.judging.fetch_add(1, Relaxed) < MOST {
            true => Ok(Some(place)),
            false => Err(UpstreamError::new(ErrorKind::Throttled, "online")
                .with_source("other tokens of this device are being judged")),
        }
    }
}

impl Drop for Judged<'_> {
    fn drop(&mut self) {
        self.0.judging.fetch_sub(1, Relaxed);
    }
}
