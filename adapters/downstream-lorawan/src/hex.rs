//! Hexadecimal digits, which are written several times for each message.

/// The digits of a name, in lower case, without a `String`.
pub(crate) struct Digits {
    digits: [u8; 2 * Self::MAX_BYTES],
    length: usize,
}

impl Digits {
    /// The longest name that is written: a key.
    pub(crate) const MAX_BYTES: usize = 16;

    /// Writes the bytes of a name; those behind the 16th are left out.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 2 * Self::MAX_BYTES];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 0xf)];
        }
        let length = 2 * bytes.len().min(Self::MAX_BYTES);
        Self { digits, length }
    }

    pub(crate) fn make_upper_case(&mut self) {
        self.digits.make_ascii_uppercase();
    }

    pub(crate) fn as_str(&self) -> &str {
        // Digits are always text.
        str::from_utf8(&self.digits[..self.length]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_two_digits_each() {
        assert_eq!(Digits::new(&[0x00, 0x1f, 0xe0, 0xff]).as_str(), "001fe0ff");
        assert_eq!(Digits::new(&[]).as_str(), "");
        let mut upper = Digits::new(&[0xab]);
        upper.make_upper_case();
        assert_eq!(upper.as_str(), "AB");
    }
}
