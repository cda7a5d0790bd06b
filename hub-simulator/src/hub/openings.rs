//! The throttle of opening receive links; pure, the time is passed in.

use std::time::Duration;

use tokio::time::Instant;

use super::error::{ErrorCode, HubError};

/// How long a client is told to wait, and how long openings count.
const WINDOW: Duration = Duration::from_secs(10);

/// Receive links opened lately, of all connections of a hub.
#[derive(Debug)]
pub(crate) struct Openings {
    max: Option<u32>,
    since: Option<Instant>,
    count: u32,
}

impl Openings {
    pub(crate) fn new(max: Option<u32>) -> Self {
        Self {
            max,
            since: None,
            count: 0,
        }
    }

    /// Takes note of a link that is to be opened.
    ///
    /// # Errors
    /// Refuses more than the window allows, in the words that service SDKs were seen to get.
    pub(crate) fn add(&mut self, now: Instant) -> Result<(), HubError> {
        let Some(max) = self.max else { return Ok(()) };
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            self.since = Some(now);
            self.count = 0;
        }
        if self.count >= max {
            let text = "The request has been throttled. Wait 10 seconds and try again. \
                        Operation type: AmqpLinkOpen";
            return Err(HubError::new(ErrorCode::ReceiveLinkOpensThrottled, text));
        }
        self.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_are_refused_until_the_window_is_over() {
        let (mut openings, start) = (Openings::new(Some(2)), Instant::now());
        openings.add(start).unwrap();
        openings.add(start + WINDOW / 2).unwrap();
        let refused = openings.add(start + WINDOW / 2).unwrap_err();
        assert_eq!(refused.code, ErrorCode::ReceiveLinkOpensThrottled);
        openings.add(start + WINDOW).unwrap();
        let mut unbounded = Openings::new(None);
        (0..10_000).for_each(|_| unbounded.add(start).unwrap());
    }
}
