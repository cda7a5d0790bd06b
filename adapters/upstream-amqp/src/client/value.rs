//! Looks at encoded values before the decoder does (AMQP 1.0, section 1.6).
//!
//! The decoder recurses, sets aside as much memory as a length asks for before it looks whether that
//! much has come, and subtracts from sizes what they may not hold. So nothing reaches it that is not
//! whole, exact in its sizes, and shallow.

use super::error::ClientError;

/// Levels of lists, maps and described types that the decoder is given.
const DEPTH: usize = 32;

const CUT: ClientError = ClientError::Malformed("a value that is not whole");
const INEXACT: ClientError = ClientError::Malformed("a value of another size than it says");
const ODD: ClientError = ClientError::Malformed("a map with a key and no value");
const DEEP: ClientError = ClientError::Malformed("a value that nests too deep");

/// Fails on a message of which a section is not fit for the decoder.
pub(crate) fn check_sections(mut message: &[u8]) -> Result<(), ClientError> {
    while !message.is_empty() {
        message = &message[measure(message)?..];
    }
    Ok(())
}

/// Measures the value at the front of the bytes, and fails on one that is not fit for the decoder.
pub(super) fn measure(bytes: &[u8]) -> Result<usize, ClientError> {
    let mut rest = bytes;
    // Values left at each level that is open, and how many bytes are to be left after it.
    let mut open = [(0, None); DEPTH];
    let mut depth = 0;
    loop {
        let constructor = number(&mut rest, 1)?;
        let inside = match constructor {
            // A descriptor and the value that it describes.
            0x00 => Some((2, None)),
            0xc0 | 0xc1 => Some(compound(&mut rest, 1)?),
            0xd0 | 0xd1 => Some(compound(&mut rest, 4)?),
            0xe0 => array(&mut rest, 1).map(|()| None)?,
            0xf0 => array(&mut rest, 4).map(|()| None)?,
            scalar => skip(&mut rest, scalar).map(|()| None)?,
        };
        if let Some(level) = inside {
            if matches!(constructor, 0xc1 | 0xd1) && level.0 % 2 == 1 {
                return Err(ODD);
            }
            *open.get_mut(depth).ok_or(DEEP)? = level;
            depth += 1;
        }
        // What is whole now is one less to come on its level, which may be whole with it.
        let mut is_whole = inside.is_none();
        while depth > 0 {
            let (left, after) = &mut open[depth - 1];
            *left -= usize::from(is_whole);
            if *left > 0 {
                break;
            }
            if after.is_some_and(|after| after != rest.len()) {
                return Err(INEXACT);
            }
            is_whole = true;
            depth -= 1;
        }
        if depth == 0 {
            return Ok(bytes.len() - rest.len());
        }
    }
}

/// Takes the head of a list or map: how many values are in it, and how many bytes follow it.
fn compound(rest: &mut &[u8], width: usize) -> Result<(usize, Option<usize>), ClientError> {
    let size = number(rest, width)?;
    let after = rest.len().checked_sub(size).ok_or(CUT)?;
    let count = number(rest, width)?;
    match size < width {
        true => Err(INEXACT),
        false => Ok((count, Some(after))),
    }
}

/// Takes an array, whose elements share one constructor. Those of arrays, compound and described
/// values are in no frame and no message of a hub.
fn array(rest: &mut &[u8], width: usize) -> Result<(), ClientError> {
    let size = number(rest, width)?;
    let mut array = take(rest, size)?;
    let count = number(&mut array, width)?;
    if count == 0 {
        // For the decoder an array of none ends here: what it says of its elements would be read as
        // the next value.
        return match array.is_empty() {
            true => Ok(()),
            false => Err(INEXACT),
        };
    }
    let element = number(&mut array, 1)?;
    if matches!(element, 0x00 | 0xc0..) {
        return Err(DEEP);
    }
    // Elements may be of no bytes at all: then nothing bounds how many there are.
    if count > size {
        return Err(INEXACT);
    }
    for _ in 0..count {
        skip(&mut array, element)?;
    }
    match array.is_empty() {
        true => Ok(()),
        false => Err(INEXACT),
    }
}

/// Skips a scalar behind its constructor, whose upper half says how wide it is.
fn skip(rest: &mut &[u8], constructor: usize) -> Result<(), ClientError> {
    let width = match constructor >> 4 {
        0x5 => 1,
        0x6 => 2,
        0x7 => 4,
        0x8 => 8,
        0x9 => 16,
        0xa => number(rest, 1)?,
        0xb => number(rest, 4)?,
        // Those of no bytes, and those that the decoder knows nothing of.
        _ => 0,
    };
    take(rest, width).map(drop)
}

fn number(rest: &mut &[u8], width: usize) -> Result<usize, ClientError> {
    let digits = take(rest, width)?.iter();
    Ok(digits.fold(0, |sum, digit| (sum << 8) | usize::from(*digit)))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], ClientError> {
    let (taken, left) = rest.split_at_checked(count).ok_or(CUT)?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::performatives::Performative;
    use proptest::prelude::*;
    use serde_amqp::Value;

    use super::*;

    /// A value as deep as `level` repeated.
    fn nested(level: &[u8]) -> Vec<u8> {
        level.repeat(60_000 / level.len())
    }

    #[test]
    fn a_value_that_nests_too_deep_is_refused() {
        assert_eq!(measure(&nested(&[0x00])), Err(DEEP));
        let list = |inner: Vec<u8>| {
            let mut list = vec![0xd0];
            list.extend((inner.len() as u32 + 4).to_be_bytes());
            list.extend(1_u32.to_be_bytes());
            list.extend(inner);
            list
        };
        let lists = |levels| (0..levels).fold(vec![0x40], |inner, _| list(inner));
        assert_eq!(measure(&lists(DEPTH + 1)), Err(DEEP));
        assert_eq!(measure(&lists(DEPTH)), Ok(DEPTH * 9 + 1));
        // An array of arrays.
        assert_eq!(measure(&[0xe0, 5, 1, 0xe0, 2, 1, 0x40]), Err(DEEP));
    }

    #[test]
    fn a_length_beyond_the_bytes_is_refused_before_memory_is_set_aside() {
        for constructor in [0xb0, 0xb1, 0xb3, 0xd0, 0xd1, 0xf0] {
            let bytes = [constructor, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0x40];
            assert_eq!(measure(&bytes), Err(CUT), "{constructor:x}");
        }
        let names = [0xf0, 0, 0, 0, 9, 0, 0, 0, 1, 0xb3, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(measure(&names), Err(CUT));
    }

    #[test]
    fn a_size_that_does_not_hold_what_it_must_is_refused() {
        assert_eq!(measure(&[0xc0, 0, 0]), Err(INEXACT));
        assert_eq!(measure(&[0xc0, 2, 0, 0x40]), Err(INEXACT));
        assert_eq!(measure(&[0xc0, 1, 1, 0x40]), Err(INEXACT));
        assert_eq!(measure(&[0xd0, 0, 0, 0, 1, 0, 0, 0, 0]), Err(INEXACT));
        assert_eq!(measure(&[0xe0, 1, 1, 0x40]), Err(CUT));
        assert_eq!(measure(&[0xe0, 2, 9, 0x40]), Err(INEXACT));
        assert_eq!(measure(&[0xe0, 1, 0]), Ok(3));
        assert_eq!(measure(&[0xe0, 2, 0, 0x53]), Err(INEXACT));
        assert_eq!(measure(&[0xf0, 0, 0, 0, 5, 0, 0, 0, 0, 0x53]), Err(INEXACT));
        assert_eq!(measure(&[0xc1, 2, 1, 0x40]), Err(ODD));
    }

    /// Bytes that often begin something.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let constructors = &[
            0x00, 0x40, 0x41, 0x43, 0x45, 0x50, 0x52, 0x53, 0x70, 0xa0, 0xa1, 0xa3, 0xb0, 0xc0,
            0xc1, 0xd0, 0xe0, 0xf0,
        ];
        let byte = prop_oneof![
            4 => proptest::sample::select(&constructors[..]),
            4 => 0_u8..6,
            1 => any::<u8>(),
        ];
        proptest::collection::vec(byte, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn what_passes_makes_no_decoder_panic(bytes in bytes(), descriptor in 0x10_u8..0x19) {
            if let Ok(size) = measure(&bytes) {
                prop_assert!((1..=bytes.len()).contains(&size));
                drop(serde_amqp::from_slice::<Value>(&bytes[..size]));
            }
            let performative = [&[0x00, 0x53, descriptor], &bytes[..]].concat();
            if let Ok(size) = measure(&performative) {
                drop(serde_amqp::from_slice::<Performative>(&performative[..size]));
            }
        }
    }
}
