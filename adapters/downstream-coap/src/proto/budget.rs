//! A bound that many share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bounds what endpoints hold together. Clones share one bound, so that sockets can.
#[derive(Debug, Clone)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl Budget {
    /// Makes a budget of so many units.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let used = Arc::default();
        Self { used, limit }
    }

    /// Makes one that only counts.
    pub(crate) fn unbounded() -> Self {
        Self::new(usize::MAX)
    }

    /// How many units are taken.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Tells whether more than half is taken.
    pub(crate) fn is_scarce(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// A share of one unit, or of none if all are taken.
    pub(crate) fn share_of_one(&self) -> Share {
        let mut share = self.share();
        share.take(1);
        share
    }

    /// A share of it with nothing in it yet.
    pub(crate) fn share(&self) -> Share {
        let budget = self.clone();
        Share { budget, amount: 0 }
    }
}

/// What one holder has of a budget; it gives all back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    amount: usize,
}

impl Share {
    pub(crate) fn amount(&self) -> usize {
        self.amount
    }

    /// Takes more, if there is as much.
    pub(crate) fn take(&mut self, amount: usize) -> bool {
        let add = |used: usize| {
            let sum = used.checked_add(amount)?;
            (sum <= self.budget.limit).then_some(sum)
        };
        let is_taken = self.budget.used.fetch_update(Relaxed, Relaxed, add).is_ok();
        if is_taken {
            self.amount += amount;
        }
        is_taken
    }

    /// Gives some back, at most what it has.
    pub(crate) fn give(&mut self, amount: usize) {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        self.budget.used.fetch_sub(amount, Relaxed);
    }

    /// Gives back all that is above.
    pub(crate) fn shrink_to(&mut self, amount: usize) {
        self.give(self.amount.saturating_sub(amount));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.give(self.amount);
    }
}
