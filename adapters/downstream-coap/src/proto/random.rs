//! Numbers that nobody guesses, from one seed.

use std::fmt;
use std::hash::{Hash, Hasher};

/// Is 16 bytes of the system's random source, from which everything unpredictable here is made:
/// tokens, message ids, jitter, ETags and the values of Echo.
#[derive(Clone, Copy)]
pub struct Seed(pub [u64; 2]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// SipHash-2-4 under the seed: of a counter it is a random source, of data a signature.
#[derive(Debug)]
pub(crate) struct Random {
    seed: Seed,
    counter: u64,
}

impl Random {
    pub(crate) const fn new(seed: Seed) -> Self {
        Self { seed, counter: 0 }
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.counter += 1;
        self.sign(&("next", self.counter))
    }

    /// The signature of a value.
    #[expect(
        deprecated,
        reason = "SipHash under keys of one's own is what is wanted, and std has it here only"
    )]
    pub(crate) fn sign(&self, value: &impl Hash) -> u64 {
        let Seed([one, other]) = self.seed;
        let mut hasher = std::hash::SipHasher::new_with_keys(one, other);
        value.hash(&mut hasher);
        hasher.finish()
    }
}
