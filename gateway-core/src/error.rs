//! One opaque error per trait; its [`ErrorKind`] decides what happens next.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The longest wait: a time that a clock reaches.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Sorts failures by what can be done about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The component is shut down or shutting down.
    Closed,
    /// The connection was lost, or is not there yet; whether the message arrived is unknown.
    Disconnected,
    /// The other side looked at this very request and refused it; it would refuse it again.
    Rejected,
    /// The other side asks for fewer requests; see `retry_after`.
    Throttled,
    /// No answer came in time; whether the message arrived is unknown.
    TimedOut,
    /// The credential is wrong, expired or not allowed to do this.
    Unauthorized,
    /// The device is not known, not attached or not connected.
    UnknownDevice,
    /// Another client took the device over: it is no longer this gateway's.
    Displaced,
    /// The message is larger than the other side takes.
    TooLarge,
    /// The protocol or the other side cannot do this at all.
    Unsupported,
    /// Something else; see the source.
    Other,
}

impl ErrorKind {
    /// Tells whether the same request may succeed when it is made again.
    ///
    /// This is the one place that decides; only the retry layer acts on it.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Disconnected | Self::Throttled | Self::TimedOut)
    }

    /// The kind in lower-case words joined by underscores, as used in logs and on wires.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Disconnected => "disconnected",
            Self::Rejected => "rejected",
            Self::Throttled => "throttled",
            Self::TimedOut => "timed_out",
            Self::Unauthorized => "unauthorized",
            Self::UnknownDevice => "unknown_device",
            Self::Displaced => "displaced",
            Self::TooLarge => "too_large",
            Self::Unsupported => "unsupported",
            Self::Other => "other",
        }
    }

    const fn phrase(self) -> &'static str {
        match self {
            Self::Closed => "it is shut down",
            Self::Disconnected => "the connection is down; the message may be sent again",
            Self::Rejected => "it was refused and would be refused again",
            Self::Throttled => "the other side is throttling; wait before sending again",
            Self::TimedOut => "no answer came in time; the message may be sent again",
            Self::Unauthorized => "the credential was refused; a new one is needed",
            Self::UnknownDevice => "the device is not known",
            Self::Displaced => "another client took the device over; leave it to that one",
            Self::TooLarge => "the message is too large; send a smaller one",
            Self::Unsupported => "this is not supported",
            Self::Other => "an unexpected failure",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

type Source = Box<dyn StdError + Send + Sync + 'static>;

macro_rules! opaque_error {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Its text does not repeat its [`source`](StdError::source); print the chain to see all.
        #[derive(Debug)]
        pub struct $name {
            kind: ErrorKind,
            operation: &'static str,
            retry_after: Option<Duration>,
            source: Option<Source>,
        }

        impl $name {
            /// Makes an error of a kind, met in an operation (a verb such as `"send"`).
            #[must_use]
            pub fn new(kind: ErrorKind, operation: &'static str) -> Self {
                Self { kind, operation, retry_after: None, source: None }
            }

            /// Sets how long to wait before the next try, at most a day: who adds it to a clock must
            /// not find its end.
            #[must_use]
            pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
                self.retry_after = Some(retry_after.min(LONGEST_WAIT));
                self
            }

            /// Sets the error that caused this one. It must not contain secrets.
            #[must_use]
            pub fn with_source(mut self, source: impl Into<Source>) -> Self {
                self.source = Some(source.into());
                self
            }

            /// The kind of failure.
            #[must_use]
            pub fn kind(&self) -> ErrorKind {
                self.kind
            }

            /// What was being done.
            #[must_use]
            pub fn operation(&self) -> &'static str {
                self.operation
            }

            /// How long the other side asks to wait before the next try, where it said so.
            #[must_use]
            pub fn retry_after(&self) -> Option<Duration> {
                self.retry_after
            }

            /// Tells whether the same request may succeed when it is made again.
            #[must_use]
            pub fn is_retryable(&self) -> bool {
                self.kind.is_retryable()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} failed: {}", self.operation, self.kind.phrase())?;
                match self.retry_after {
                    Some(after) => write!(f, " (after {after:?})"),
                    None => Ok(()),
                }
            }
        }

        impl StdError for $name {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                self.source.as_deref().map(|source| source as _)
            }
        }
    };
}

opaque_error!(
    /// Tells what an [`Upstream`](crate::Upstream) could not do.
    UpstreamError
);

opaque_error!(
    /// Tells what a [`Downstream`](crate::Downstream) could not do.
    DownstreamError
);

opaque_error!(
    /// Tells why a [`CredentialProvider`](crate::CredentialProvider) has no credential.
    CredentialError
);

impl DownstreamError {
    /// Says that a command did not reach its device.
    #[must_use]
    pub fn undelivered(kind: ErrorKind) -> Self {
        Self::new(kind, "deliver")
    }

    /// Says that [`serve`](crate::Downstream::serve) was called again where it can be only once.
    #[must_use]
    pub fn served_before() -> Self {
        Self::new(ErrorKind::Closed, "serve").with_source("it serves only once")
    }
}

impl From<CredentialError> for UpstreamError {
    fn from(error: CredentialError) -> Self {
        let wrapped =
            Self::new(error.kind, "credential").with_retry_after_option(error.retry_after);
        wrapped.with_source(error)
    }
}

impl UpstreamError {
    fn with_retry_after_option(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }
}

/// Tells which setting is wrong, where it stands and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}` {problem}; allowed: {allowed}")]
pub struct ConfigError {
    key: String,
    problem: String,
    allowed: String,
}

impl ConfigError {
    /// Makes an error about a key: what is wrong with its value, and what is allowed.
    #[must_use]
    pub fn new(
        key: impl Into<String>,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            problem: problem.into(),
            allowed: allowed.into(),
        }
    }

    /// Puts the key into a section, as when the settings of a part are wrong.
    #[must_use]
    pub fn within(mut self, section: &str) -> Self {
        self.key = format!("{section}.{}", self.key);
        self
    }

    /// Checks that a value is from `least` to `most`, both allowed.
    ///
    /// # Errors
    /// It is not; one that compares with nothing, such as a NaN, is not either.
    pub fn check_range<T: PartialOrd + fmt::Display>(
        key: &str,
        value: T,
        least: T,
        most: T,
    ) -> Result<(), Self> {
        match (&least..=&most).contains(&&value) {
            true => Ok(()),
            false => {
                let allowed = format!("{least} to {most}");
                Err(Self::new(key, format!("is {value}"), allowed))
            }
        }
    }

    /// The key, with its section where it has one.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Tells why a gateway could not be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Two downstreams have the same name.
    #[error("two downstreams are named {0:?}; give each its own name")]
    DuplicateDownstream(String),
    /// No credential provider was given.
    #[error("no credential provider was given; call `with_credentials`")]
    NoCredentials,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_operation_and_what_to_do_but_not_its_source() {
        let error = UpstreamError::new(ErrorKind::Throttled, "send")
            .with_retry_after(Duration::from_secs(10))
            .with_source("hub said 429001");
        assert_eq!(
            error.to_string(),
            "send failed: the other side is throttling; wait before sending again (after 10s)"
        );
        assert_eq!(error.source().unwrap().to_string(), "hub said 429001");
    }

    #[test]
    fn only_passing_failures_are_retryable() {
        use ErrorKind::*;
        for kind in [Disconnected, Throttled, TimedOut] {
            assert!(kind.is_retryable());
        }
        for kind in [
            Closed,
            Rejected,
            Unauthorized,
            UnknownDevice,
            Displaced,
            TooLarge,
            Unsupported,
            Other,
        ] {
            assert!(!kind.is_retryable());
        }
    }
}
