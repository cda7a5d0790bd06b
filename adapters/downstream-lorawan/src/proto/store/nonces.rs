//! DevNonces that were used.

use serde::{Deserialize, Serialize};

/// Is the set of DevNonces that a device has used, kept as ranges.
///
/// A device of LoRaWAN 1.0.4 counts, and takes one range for ever. One of 1.0.3 or older draws lots:
/// each stays a range of its own, and all must be remembered as long as the device has its key
/// (LoRaWAN 1.0.3, section 6.2.4). That is 4 bytes for each join, and 128 KiB at the very most, when
/// there is hardly a nonce left.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(u16, u16)>", into = "Vec<(u16, u16)>")]
pub struct UsedNonces {
    /// First and last of each range, in order and apart from each other.
    ranges: Vec<(u16, u16)>,
}

impl UsedNonces {
    /// Notes a nonce; `false` if it was used before.
    #[must_use]
    pub fn take(&mut self, nonce: u16) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < nonce);
        if self
            .ranges
            .get(at)
            .is_some_and(|(first, _)| *first <= nonce)
        {
            return false;
        }
        let follows = |(_, last): &(u16, u16)| last.checked_add(1) == Some(nonce);
        let precedes = |(first, _): &(u16, u16)| nonce.checked_add(1) == Some(*first);
        let before = at.checked_sub(1).filter(|at| follows(&self.ranges[*at]));
        let after = self.ranges.get(at).copied().filter(precedes);
        match (before, after) {
            (Some(before), Some((_, last))) => {
                self.ranges[before].1 = last;
                self.ranges.remove(at);
            }
            (Some(before), None) => self.ranges[before].1 = nonce,
            (None, Some(_)) => self.ranges[at].0 = nonce,
            (None, None) => self.ranges.insert(at, (nonce, nonce)),
        }
        true
    }

    /// Notes a nonce and all below it, of a device whose nonces only rise; `false` if it or a
    /// higher one was used before.
    #[must_use]
    pub fn take_up_to(&mut self, nonce: u16) -> bool {
        let is_new = self.highest().is_none_or(|highest| highest < nonce);
        if is_new {
            self.ranges = vec![(0, nonce)];
        }
        is_new
    }

    /// Returns the highest one.
    #[must_use]
    pub fn highest(&self) -> Option<u16> {
        self.ranges.last().map(|(_, last)| *last)
    }
}

impl From<UsedNonces> for Vec<(u16, u16)> {
    fn from(nonces: UsedNonces) -> Self {
        nonces.ranges
    }
}

impl From<Vec<(u16, u16)>> for UsedNonces {
    fn from(mut ranges: Vec<(u16, u16)>) -> Self {
        // Whatever was stored: the look-up relies on order.
        ranges.sort_unstable();
        Self { ranges }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_nonce_is_taken_twice_however_they_come(nonces: Vec<u16>, near in 0..u16::MAX - 64, close in proptest::collection::vec(0..64_u16, 0..200)) {
            let (mut used, mut model) = (UsedNonces::default(), BTreeSet::new());
            for nonce in nonces.into_iter().chain(close.into_iter().map(|step| near + step)) {
                prop_assert_eq!(used.take(nonce), model.insert(nonce));
                prop_assert_eq!(used.highest(), model.last().copied());
            }
            let apart = |pair: &[(u16, u16)]| u32::from(pair[0].1) + 1 < u32::from(pair[1].0);
            prop_assert!(used.ranges.windows(2).all(apart));
            let count: u32 = used.ranges.iter().map(|(first, last)| u32::from(last - first) + 1).sum();
            prop_assert_eq!(count as usize, model.len());
            let stored = serde_json::to_string(&used).unwrap();
            prop_assert_eq!(serde_json::from_str::<UsedNonces>(&stored).unwrap(), used);
        }
    }

    #[test]
    fn nonces_that_only_rise_take_one_range() {
        let mut used = UsedNonces::default();
        assert!(used.take_up_to(5) && used.take_up_to(900));
        assert!(!used.take_up_to(900) && !used.take_up_to(6));
        assert_eq!(used.ranges, [(0, 900)]);
        // Should the rule be relaxed later, what was passed over stays used.
        assert!(!used.take(7) && used.take(901));
        assert!(used.take(u16::MAX) && !used.take_up_to(u16::MAX));
    }
}
