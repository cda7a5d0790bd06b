//! What payloads mean, and the forms in which the hub sees them.
//!
//! A [`PayloadCodec`] reads a device's bytes and writes them: [`CayenneLpp`], a
//! [closure](decode_with), or, with the feature `javascript`, a script of the device's maker. Whatever
//! it makes of a payload, the bytes themselves go to the hub too.

mod cayenne;
mod closure;
pub mod command;
#[cfg(feature = "javascript")]
mod javascript;
pub mod telemetry;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;

pub use cayenne::CayenneLpp;
pub use closure::{DecodeWith, decode_with};
#[cfg(feature = "javascript")]
pub use javascript::{JavaScriptCodec, JavaScriptConfig, ScriptError};

/// Is a payload to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodeInput {
    /// The port that it came on.
    pub port: u8,
    /// The payload, at most 242 bytes.
    pub bytes: Bytes,
    /// When the network had it.
    pub received_at: SystemTime,
}

impl DecodeInput {
    /// Makes one.
    #[must_use]
    pub fn new(port: u8, bytes: impl Into<Bytes>, received_at: SystemTime) -> Self {
        Self {
            port,
            bytes: bytes.into(),
            received_at,
        }
    }
}

/// Is what a codec read from a payload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decoded {
    /// A JSON value.
    pub data: Bytes,
    /// The same in units that are those of all devices, a JSON value, where the codec knows them
    /// (`normalizeUplink` of The Things Stack).
    pub normalized: Option<Bytes>,
    /// What the codec found odd.
    pub warnings: Vec<String>,
}

impl Decoded {
    /// The longest result that is taken, data and warnings, in bytes: half of what a hub's message
    /// takes.
    pub const MAX_SIZE: usize = 128 * 1024;

    /// Fails if it is too long.
    pub(crate) fn bounded(self) -> Result<Self, CodecError> {
        let warnings: usize = self.warnings.iter().map(String::len).sum();
        let normalized = self.normalized.as_ref().map_or(0, Bytes::len);
        match self.data.len() + normalized + warnings <= Self::MAX_SIZE {
            true => Ok(self),
            false => Err(CodecError::TooLarge),
        }
    }

    /// Makes one of JSON text.
    #[must_use]
    pub fn new(data: impl Into<Bytes>) -> Self {
        Self {
            data: data.into(),
            normalized: None,
            warnings: Vec::new(),
        }
    }

    /// Sets what the codec found odd.
    #[must_use]
    pub fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }
}

/// Is what a codec made of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoded {
    /// The port to send it on, where the codec chose one.
    pub port: Option<u8>,
    /// The payload.
    pub bytes: Bytes,
}

impl Encoded {
    /// Makes one.
    #[must_use]
    pub fn new(port: Option<u8>, bytes: impl Into<Bytes>) -> Self {
        Self {
            port,
            bytes: bytes.into(),
        }
    }
}

/// Tells why a codec made nothing of what it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The codec itself says that the input is wrong.
    #[error("the codec refuses it: {}", .0.join("; "))]
    Refused(Vec<String>),
    /// The codec failed: a defect in it, or an input that it does not expect.
    #[error("the codec failed: {0}")]
    Failed(String),
    /// The codec took longer than it may.
    #[error("the codec took longer than it may")]
    TimedOut,
    /// The codec made more of it than a message takes.
    #[error("the codec's result is longer than {max} bytes", max = Decoded::MAX_SIZE)]
    TooLarge,
    /// Too many wait for the codec, or what it is at does not end; it has not looked at this yet.
    #[error("the codec has too much to do")]
    Busy,
    /// The codec cannot do this.
    #[error("the codec has no {0}")]
    Unsupported(&'static str),
}

/// Waits for a codec, which is the program's own. One that panics has failed, and takes nothing along:
/// what it was asked for is settled.
pub(crate) async fn guard<T>(
    work: impl Future<Output = Result<T, CodecError>>,
) -> Result<T, CodecError> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|_| {
        tracing::error!("A codec panicked");
        Err(CodecError::Failed("it panicked".to_owned()))
    })
}

/// Reads and writes the payloads of one kind of device. One that panics has failed.
#[async_trait]
pub trait PayloadCodec: fmt::Debug + Send + Sync + 'static {
    /// Reads a payload.
    ///
    /// # Errors
    /// It makes no sense, or the codec fails.
    ///
    /// # Cancel safety
    /// Safe.
    async fn decode(&self, input: DecodeInput) -> Result<Decoded, CodecError>;

    /// Writes a command, a JSON value, as a payload; the port is the one asked for, if any was.
    ///
    /// # Errors
    /// It makes no sense, the codec fails, or it cannot write.
    ///
    /// # Cancel safety
    /// Safe.
    async fn encode(&self, data: Bytes, port: Option<u8>) -> Result<Encoded, CodecError>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: PayloadCodec + ?Sized> PayloadCodec for Arc<T> {
    async fn decode(&self, input: DecodeInput) -> Result<Decoded, CodecError> {
        (**self).decode(input).await
    }

    async fn encode(&self, data: Bytes, port: Option<u8>) -> Result<Encoded, CodecError> {
        (**self).encode(data, port).await
    }
}
