//! How close to their windows commands come.

use std::time::Duration;

/// The upper bounds of all buckets but the last, which has none.
pub const MARGIN_BOUNDS: [Duration; 9] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// Counts commands by how far before or after their window they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Margins {
    /// Given to the network server so long before the window closed; bounds as in
    /// [`MARGIN_BOUNDS`].
    pub before: [u64; MARGIN_BOUNDS.len() + 1],
    /// Came so long after the device's last window had closed, and waited for the next.
    pub after: [u64; MARGIN_BOUNDS.len() + 1],
    /// Given in time, but the concentrator said that it was too late.
    pub too_late: u64,
}

impl Margins {
    pub(super) fn record_before(&mut self, margin: Duration) {
        self.before[bucket(margin)] += 1;
    }

    pub(super) fn record_after(&mut self, late: Duration) {
        self.after[bucket(late)] += 1;
    }
}

fn bucket(time: Duration) -> usize {
    MARGIN_BOUNDS.partition_point(|bound| *bound < time)
}
