//! What benchmarks and measuring programs share: a hub in a process of its own, the embedded
//! gateway, the raw client beside it, what this process uses, and how figures are told.

pub mod coalesced;
pub mod embedded;
pub mod fleet;
pub mod hub;
pub mod latency;
pub mod limits;
pub mod lorawan_device;
pub mod paced;
pub mod process;
pub mod raw;
pub mod report;
pub mod takes_all;

use std::pin::Pin;
use std::time::Duration;

use humantime_serde::re::humantime;

/// A future that is compiled here once, and not again in every program that polls it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The body of every message: 100 bytes, a usual telemetry reading.
pub const BODY: [u8; 100] = [b'x'; 100];

/// The name that the hub goes by.
pub const HOST: &str = "localhost";

/// The name of the n-th device.
#[must_use]
pub fn device_name(n: usize) -> String {
    format!("device-{n:07}")
}

/// Reads a duration such as `60s`, for arguments.
///
/// # Errors
/// The text is none.
pub fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}
