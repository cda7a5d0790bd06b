//! What benchmarks and measuring programs share: a hub in a process of its own, the embedded
//! gateway, the raw client beside it, and the CPU that this process has used.

pub mod coalesced;
pub mod embedded;
pub mod hub;
pub mod raw;

use std::time::Duration;

/// The body of every message: 100 bytes, a usual telemetry reading.
pub const BODY: [u8; 100] = [b'x'; 100];

/// The name that the hub goes by.
pub const HOST: &str = "localhost";

/// The CPU time that this process has used, over all threads.
#[must_use]
pub fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// The name of the n-th device.
#[must_use]
pub fn device_name(n: usize) -> String {
    format!("device-{n:07}")
}
