//! Secrets that are no keys: passwords, and what devices share with the gateway.

use std::fmt;

use serde::Deserialize;
use subtle::ConstantTimeEq as _;

/// Is a password, a token, or what a device shares with the gateway. It never shows in `Debug`.
///
/// Whether two are the same is told in a time that depends on their lengths alone.
#[derive(Clone, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into_boxed_str())
    }

    /// Tells whether a text is the same, in a time that depends on the lengths alone.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }

    /// Shows it, to whom it has to be sent.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_like_itself_and_does_not_show() {
        let secret = Secret::new("hunter2");
        assert!(secret.matches("hunter2") && secret == Secret::from("hunter2"));
        assert!(!secret.matches("hunter") && !secret.matches("hunter3"));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
