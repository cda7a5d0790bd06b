//! The 32-bit counter of a frame that carries 16 of its bits.

/// Steps that a counter may jump; LoRaWAN 1.0.3's MAX_FCNT_GAP.
pub(super) const MAX_GAP: u16 = 16_384;

/// What a frame's counter says of it, before its MIC is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counter {
    /// It is new.
    New(u32),
    /// It is the last one again: its answer was not heard.
    Repeat(u32),
}

impl Counter {
    pub(super) fn get(self) -> u32 {
        match self {
            Self::New(counter) | Self::Repeat(counter) => counter,
        }
    }
}

/// Completes a counter by the one that is expected: it is the next one with these 16 bits. An
/// older frame so becomes a wrong newer one, which its MIC then shows.
pub(super) fn complete(expected: u32, low: u16) -> Option<Counter> {
    let last = expected.checked_sub(1);
    if let Some(last) = last.filter(|last| *last as u16 == low) {
        return Some(Counter::Repeat(last));
    }
    let gap = low.wrapping_sub(expected as u16);
    if gap > MAX_GAP {
        return None;
    }
    // The last counter of all is not used: there is none to expect after it.
    let full = expected.checked_add(gap.into())?;
    (full < u32::MAX).then_some(Counter::New(full))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_goes_on_where_its_16_bits_wrap() {
        assert_eq!(complete(0, 0), Some(Counter::New(0)));
        assert_eq!(complete(0x1_0000, 0xffff), Some(Counter::Repeat(0xffff)));
        assert_eq!(complete(0x1_fff0, 0x0002), Some(Counter::New(0x2_0002)));
        assert_eq!(complete(10, 9), Some(Counter::Repeat(9)));
        assert_eq!(complete(10, 8), None);
        assert_eq!(complete(0, 0xffff), None);
        assert_eq!(complete(u32::MAX, 0xffff), None);
        assert_eq!(
            complete(u32::MAX, 0xfffe),
            Some(Counter::Repeat(u32::MAX - 1))
        );
    }

    proptest! {
        #[test]
        fn a_counter_never_goes_back(expected: u32, low: u16) {
            if let Some(counter) = complete(expected, low) {
                prop_assert_eq!(counter.get() as u16, low);
                match counter {
                    Counter::New(full) => prop_assert!(full >= expected && full - expected <= MAX_GAP.into()),
                    Counter::Repeat(last) => prop_assert_eq!(last + 1, expected),
                }
            }
        }
    }
}
