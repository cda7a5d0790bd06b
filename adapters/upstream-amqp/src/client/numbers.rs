//! Maps by numbers that we give ourselves.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by our own consecutive numbers.
pub(super) type ByNumber<T> = HashMap<u32, T, BuildHasherDefault<Spread>>;

/// Spreads numbers by a multiplication. That is enough where nobody else chooses them, and a tenth of
/// what a hash costs that keeps strangers from making them collide.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Spread(u64);

/// Two to the 64th by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(GOLDEN);
    }
}
