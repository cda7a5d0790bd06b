//! Options: their numbers, values and rules (RFC 7252, section 5.10).

use bytes::Bytes;

macro_rules! numbers {
    ($($name:ident = $number:literal, $least:literal..=$most:literal, $repeats:literal, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $name: u16 = $number;)*

        /// The lengths allowed and whether it may come more than once; `None` if it is not known.
        const fn rule(number: u16) -> Option<(usize, usize, bool)> {
            match number {
                $($number => Some(($least, $most, $repeats)),)*
                _ => None,
            }
        }
    };
}

numbers! {
    URI_HOST = 3, 1..=255, false, "Host that is asked; this server has one name only.";
    ETAG = 4, 1..=8, true, "Names a state of a resource.";
    OBSERVE = 6, 0..=3, false, "Registers, or counts notifications (RFC 7641).";
    URI_PORT = 7, 0..=2, false, "Port that is asked.";
    LOCATION_PATH = 8, 0..=255, true, "A segment of where the result is.";
    URI_PATH = 11, 0..=255, true, "A segment of the path.";
    CONTENT_FORMAT = 12, 0..=2, false, "Format of the body.";
    MAX_AGE = 14, 0..=4, false, "Seconds for which the response is fresh, or after which to come back.";
    URI_QUERY = 15, 0..=255, true, "A part of the query.";
    ACCEPT = 17, 0..=2, false, "Format wanted.";
    LOCATION_QUERY = 20, 0..=255, true, "A part of the query of where the result is.";
    BLOCK2 = 23, 0..=3, false, "Which block of the response (RFC 7959).";
    BLOCK1 = 27, 0..=3, false, "Which block of the request (RFC 7959).";
    SIZE2 = 28, 0..=4, false, "Size of the response's body in bytes (RFC 7959).";
    PROXY_URI = 35, 1..=1034, false, "What to fetch for the client; refused.";
    PROXY_SCHEME = 39, 1..=255, false, "Scheme of what to fetch for the client; refused.";
    SIZE1 = 60, 0..=4, false, "Size of the request's body in bytes (RFC 7959).";
    ECHO = 252, 1..=40, false, "Shows that the client receives at its address (RFC 9175).";
    NO_RESPONSE = 258, 0..=1, false, "Classes of responses that the client does not want (RFC 7967).";
    REQUEST_TAG = 292, 0..=8, true, "Tells one body from another (RFC 9175).";
}

/// If-Match and If-None-Match (1 and 5) are not known: conditions are refused, not passed over.
const CRITICAL: u16 = 1;

/// Holds the options of a message, in the order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(Vec<(u16, Bytes)>);

impl Options {
    /// Makes an empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an option behind those of the same number.
    pub fn add(&mut self, number: u16, value: impl Into<Bytes>) {
        let at = self.0.partition_point(|(other, _)| *other <= number);
        self.0.insert(at, (number, value.into()));
    }

    /// Sets an option to a number, in as few bytes as it takes (RFC 7252, section 3.2).
    pub fn set_uint(&mut self, number: u16, value: u32) {
        self.remove(number);
        let skipped = value.leading_zeros() as usize / 8;
        self.add(number, value.to_be_bytes()[skipped..].to_vec());
    }

    /// Removes all of a number.
    pub fn remove(&mut self, number: u16) {
        self.0.retain(|(other, _)| *other != number);
    }

    /// The first value of a number.
    #[must_use]
    pub fn get(&self, number: u16) -> Option<&Bytes> {
        self.all(number).next()
    }

    /// All values of a number, in order.
    pub fn all(&self, number: u16) -> impl Iterator<Item = &Bytes> {
        let start = self.0.partition_point(|(other, _)| *other < number);
        self.0[start..]
            .iter()
            .take_while(move |(other, _)| *other == number)
            .map(|(_, value)| value)
    }

    /// The first value of a number, read as a number of at most 4 bytes.
    #[must_use]
    pub fn uint(&self, number: u16) -> Option<u32> {
        let value = self.get(number)?;
        let fold = |sum: u32, byte: &u8| sum << 8 | u32::from(*byte);
        (value.len() <= 4).then(|| value.iter().fold(0, fold))
    }

    /// Tells whether there is one of this number.
    #[must_use]
    pub fn has(&self, number: u16) -> bool {
        self.get(number).is_some()
    }

    /// Walks over numbers and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u16, &Bytes)> {
        self.0.iter().map(|(number, value)| (*number, value))
    }

    /// Bytes that they take in a message (RFC 7252, section 3.1).
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let extended = |value: usize| match value {
            0..13 => 0,
            13..269 => 1,
            _ => 2,
        };
        let mut last = 0;
        let sizes = self.0.iter().map(|(number, value)| {
            let delta = usize::from(*number - last);
            last = *number;
            1 + extended(delta) + extended(value.len()) + value.len()
        });
        sizes.sum()
    }

    /// Removes what is not understood: unknown numbers, wrong lengths, options that come twice and
    /// must not (RFC 7252, sections 5.4.1, 5.4.3 and 5.4.5).
    ///
    /// # Errors
    /// One of them is critical: its number. Then nothing may be done with the message.
    pub fn sieve(&mut self) -> Result<(), u16> {
        let (mut last, mut critical) = (None, None);
        self.0.retain(|(number, value)| {
            let is_first = last != Some(*number);
            let is_understood = rule(*number).is_some_and(|(least, most, repeats)| {
                (least..=most).contains(&value.len()) && (is_first || repeats)
            });
            if !is_understood && number & CRITICAL != 0 {
                critical.get_or_insert(*number);
            }
            last = Some(*number);
            is_understood
        });
        critical.map_or(Ok(()), Err)
    }
}
