//! Whether the hub can be reached: if it cannot for one, it cannot for the others.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::lock::lock;

/// Holds everybody back while the hub cannot be reached, longer with each failure.
#[derive(Debug)]
pub struct Reach {
    reconnect: Backoff,
    tries: Mutex<Tries>,
}

#[derive(Debug, Default)]
struct Tries {
    failures: u32,
    /// The last one that counted.
    last_failure: Option<Instant>,
    not_before: Option<Instant>,
}

impl Reach {
    /// Begins with a hub that can be reached, as far as is known.
    #[must_use]
    pub fn new(reconnect: Backoff) -> Self {
        Self {
            reconnect,
            tries: Mutex::default(),
        }
    }

    /// Tells how long the next try is not due; none if it is. Ask right before each try: one that waited
    /// for something else after it asked would count as a new one.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        let at = lock(&self.tries).not_before?;
        let wait = at.saturating_duration_since(Instant::now());
        (!wait.is_zero()).then_some(wait)
    }

    /// Notes that the hub was reached.
    pub fn reached(&self) {
        *lock(&self.tries) = Tries::default();
    }

    /// Notes a failed try, and tells how long the next is not due. Tries that were under way at the
    /// last failure that counted say nothing new.
    pub fn failed(&self, begun: Instant) -> Duration {
        let now = Instant::now();
        let mut tries = lock(&self.tries);
        if tries.last_failure.is_none_or(|last| last < begun) {
            let wait = self.reconnect.delay(tries.failures);
            tries.failures = tries.failures.saturating_add(1);
            tries.not_before = Some(now + wait);
            tries.last_failure = Some(now);
        }
        tries
            .not_before
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn tries_that_fail_together_count_once_and_the_wait_grows_until_one_succeeds() {
        let reach = Reach::new(Backoff::default());
        let begun = Instant::now();
        advance(Duration::from_millis(1)).await;
        let first = reach.failed(begun);
        assert!(first <= Duration::from_millis(100));
        for _ in 0..50 {
            assert_eq!(reach.failed(begun), first, "they began before it failed");
        }
        let mut wait = first;
        for _ in 0..5 {
            advance(wait).await;
            assert_eq!(reach.wait(), None);
            let begun = Instant::now();
            advance(Duration::from_millis(1)).await;
            let longer = reach.failed(begun);
            assert!(longer >= wait, "{longer:?} after {wait:?}");
            wait = longer;
        }
        assert!(reach.wait().is_some());
        reach.reached();
        assert_eq!(reach.wait(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn tries_that_overlap_without_end_are_held_back_all_the_same() {
        let reach = Reach::new(Backoff::default());
        let (every, takes) = (Duration::from_millis(50), Duration::from_millis(200));
        let mut under_way = std::collections::VecDeque::new();
        let (mut tries, end) = (0, Instant::now() + Duration::from_secs(60));
        while Instant::now() < end {
            while under_way
                .front()
                .is_some_and(|begun| Instant::now() >= *begun + takes)
            {
                reach.failed(under_way.pop_front().unwrap());
            }
            if reach.wait().is_none() {
                under_way.push_back(Instant::now());
                tries += 1;
            }
            advance(every).await;
        }
        assert!(tries < 200, "{tries} tries in a minute");
    }
}
