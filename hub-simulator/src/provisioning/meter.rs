//! The service's rate limits.
//!
//! Source: Microsoft, "Azure IoT Hub Device Provisioning Service limits": 1000 registrations and 1000
//! operations a minute and service.

use std::time::{Duration, SystemTime};

use super::error::{Code, DpsError};

const WINDOW: Duration = Duration::from_secs(60);
const REGISTRATIONS: u32 = 1000;
const OPERATIONS: u32 = 1000;
/// Seconds after which a throttled client is asked to come again.
const RETRY_AFTER: u64 = 5;

/// What was asked for within the minute.
#[derive(Debug, Default)]
pub(super) struct Meter {
    start: Option<SystemTime>,
    registrations: u32,
    operations: u32,
}

impl Meter {
    pub(super) fn registration(&mut self, now: SystemTime) -> Result<(), DpsError> {
        self.roll(now);
        count(&mut self.registrations, REGISTRATIONS)
    }

    pub(super) fn operation(&mut self, now: SystemTime) -> Result<(), DpsError> {
        self.roll(now);
        count(&mut self.operations, OPERATIONS)
    }

    fn roll(&mut self, now: SystemTime) {
        let within = |start: SystemTime| now.duration_since(start).is_ok_and(|age| age < WINDOW);
        if !self.start.is_some_and(within) {
            *self = Self {
                start: Some(now),
                ..Self::default()
            };
        }
    }
}

fn count(counter: &mut u32, limit: u32) -> Result<(), DpsError> {
    if *counter >= limit {
        return Err(throttled());
    }
    *counter += 1;
    Ok(())
}

pub(super) fn throttled() -> DpsError {
    DpsError {
        retry_after: Some(RETRY_AFTER),
        ..Code::Throttled.into()
    }
}
