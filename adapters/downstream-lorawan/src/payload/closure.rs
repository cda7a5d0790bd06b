//! A codec that is a function.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use super::{CodecError, DecodeInput, Decoded, Encoded, PayloadCodec};

/// Makes a codec of a function that reads payloads; give it a writer with
/// [`encode_with`](DecodeWith::encode_with).
///
/// ```
/// use gateway_downstream_lorawan::payload::{CodecError, Decoded, decode_with};
///
/// let codec = decode_with(|input| match input.bytes[..] {
///     [high, low] => Ok(Decoded::new(format!(
///         r#"{{"temperature":{}}}"#,
///         f64::from(i16::from_be_bytes([high, low])) / 10.0
///     ))),
///     _ => Err(CodecError::Refused(vec!["two bytes were expected".to_owned()])),
/// });
/// ```
pub fn decode_with<D>(decode: D) -> DecodeWith<D, NoEncoder>
where
    D: Fn(DecodeInput) -> Result<Decoded, CodecError> + Send + Sync + 'static,
{
    let encode: NoEncoder = |_, _| Err(CodecError::Unsupported("encoder"));
    DecodeWith { decode, encode }
}

type NoEncoder = fn(Bytes, Option<u8>) -> Result<Encoded, CodecError>;

/// Is a codec made of functions. They run on the runtime's threads, so they must be quick.
#[derive(Clone, Copy)]
pub struct DecodeWith<D, E> {
    decode: D,
    encode: E,
}

impl<D, E> DecodeWith<D, E> {
    /// Sets the function that writes payloads.
    pub fn encode_with<F>(self, encode: F) -> DecodeWith<D, F>
    where
        F: Fn(Bytes, Option<u8>) -> Result<Encoded, CodecError> + Send + Sync + 'static,
    {
        let Self { decode, .. } = self;
        DecodeWith { decode, encode }
    }
}

impl<D, E> fmt::Debug for DecodeWith<D, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodeWith").finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<D, E> PayloadCodec for DecodeWith<D, E>
where
    D: Fn(DecodeInput) -> Result<Decoded, CodecError> + Send + Sync + 'static,
    E: Fn(Bytes, Option<u8>) -> Result<Encoded, CodecError> + Send + Sync + 'static,
{
    async fn decode(&self, input: DecodeInput) -> Result<Decoded, CodecError> {
        (self.decode)(input)
    }

    async fn encode(&self, data: Bytes, port: Option<u8>) -> Result<Encoded, CodecError> {
        (self.encode)(data, port)
    }
}
