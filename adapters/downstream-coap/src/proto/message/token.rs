//! Tokens (RFC 7252, section 5.3.1).

use std::fmt;

/// Ties a response to its request: 0 to 8 bytes that the client chose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Token {
    length: u8,
    bytes: [u8; Self::MAX_LENGTH],
}

impl Token {
    /// The longest token, in bytes.
    pub const MAX_LENGTH: usize = 8;
    /// The token without a byte.
    pub const EMPTY: Self = Self {
        length: 0,
        bytes: [0; Self::MAX_LENGTH],
    };

    /// Makes a token; `None` if there are more than 8 bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut token = Self::EMPTY;
        token.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        token.length = bytes.len() as u8;
        Some(token)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl From<u32> for Token {
    fn from(number: u32) -> Self {
        Self::new(&number.to_be_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
