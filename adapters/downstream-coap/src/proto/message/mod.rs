//! CoAP messages: what a datagram and a frame of a stream have in common, and the two forms.

mod code;
mod codec;
mod datagram;
pub mod option;
mod token;

#[cfg(test)]
pub(crate) mod tests;

use bytes::Bytes;

pub use code::Code;
pub(crate) use codec::{decode, encode};
pub use datagram::{Datagram, Fault, Kind};
pub use option::Options;
pub use token::Token;

/// Is a request or a response, whatever carries it (RFC 7252, section 3, without what belongs to
/// datagrams alone).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What is asked, or how it went.
    pub code: Code,
    /// Ties the response to the request.
    pub token: Token,
    /// The options, by number.
    pub options: Options,
    /// The body, or a block of it.
    pub payload: Bytes,
}

impl Message {
    /// Makes a message without token, options and payload.
    #[must_use]
    pub const fn new(code: Code) -> Self {
        Self {
            code,
            token: Token::EMPTY,
            options: Options::new(),
            payload: Bytes::new(),
        }
    }

    /// Sets the token.
    #[must_use]
    pub const fn with_token(mut self, token: Token) -> Self {
        self.token = token;
        self
    }

    /// Appends the segments of a path that slashes part. An empty segment at the front is left out.
    #[must_use]
    pub fn with_path(mut self, path: &str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        if !path.is_empty() {
            for segment in path.split('/') {
                self.options
                    .add(option::URI_PATH, segment.as_bytes().to_vec());
            }
        }
        self
    }

    /// Appends an option.
    #[must_use]
    pub fn with_option(mut self, number: u16, value: impl Into<Bytes>) -> Self {
        self.options.add(number, value);
        self
    }

    /// Sets an option to a number.
    #[must_use]
    pub fn with_uint(mut self, number: u16, value: u32) -> Self {
        self.options.set_uint(number, value);
        self
    }

    /// Sets the payload.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The segments of the path that are text; `None` if one is not.
    #[must_use]
    pub fn path(&self) -> Option<Vec<&str>> {
        self.texts(option::URI_PATH)
    }

    /// The parts of the query; `None` if one is no text.
    #[must_use]
    pub fn query(&self) -> Option<Vec<&str>> {
        self.texts(option::URI_QUERY)
    }

    fn texts(&self, number: u16) -> Option<Vec<&str>> {
        let values = self.options.all(number);
        values
            .map(|value| std::str::from_utf8(value).ok())
            .collect()
    }
}
