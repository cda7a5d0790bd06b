//! Counts what is lost, and says so ever less often: a flood must not become one in the log.

/// How many were lost.
#[derive(Debug, Default)]
pub(super) struct Losses(u64);

impl Losses {
    /// Counts one; gives the count if it is one to tell: 1, 2, 4, 8 and so on.
    pub(super) fn count(&mut self) -> Option<u64> {
        self.0 += 1;
        self.0.is_power_of_two().then_some(self.0)
    }
}
