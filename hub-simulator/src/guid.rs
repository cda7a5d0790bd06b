//! Random 16-byte identifiers: lock tokens, correlation ids, tracking ids.

use std::fmt;

/// A random identifier, shown hyphenated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Guid([u8; 16]);

impl Guid {
    pub(crate) fn random() -> Self {
        let mut bytes: [u8; 16] = random_bytes();
        // Version 4, variant 1 (RFC 9562).
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Reads the hyphenated form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let lens = [8, 4, 4, 4, 12];
        let parts: Vec<&str> = text.split('-').collect();
        if parts.len() != lens.len() || parts.iter().zip(lens).any(|(part, len)| part.len() != len)
        {
            return None;
        }
        let digits: String = parts.concat();
        let number = digits.bytes().all(|b| b.is_ascii_hexdigit());
        number
            .then(|| u128::from_str_radix(&digits, 16).ok())?
            .map(|n| Self(n.to_be_bytes()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Thirty-two hexadecimal digits.
    pub(crate) fn simple(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.simple();
        let (a, b, c, d, e) = (
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            &digits[16..20],
            &digits[20..],
        );
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes from the operating system's generator.
///
/// # Panics
/// Panics if the operating system has no randomness, without which no key is worth making.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}
