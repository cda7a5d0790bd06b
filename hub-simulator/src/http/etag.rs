//! Entity tags and `If-Match` (RFC 9110 sections 8.8.3 and 13.1.1).

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};

/// What a request's `If-Match` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// There is no such header.
    Absent,
    /// Whatever there is, if there is anything.
    Any,
    /// Exactly this entity tag, without its quotes.
    Tag(String),
}

impl IfMatch {
    fn parse(value: Option<&HeaderValue>) -> Self {
        let Some(value) = value else {
            return Self::Absent;
        };
        // Bytes that are no text match nothing.
        let text = String::from_utf8_lossy(value.as_bytes());
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text);
        // SDKs write the quotes or leave them off, around the star too.
        match text.trim_matches('"') {
            "*" => Self::Any,
            tag => Self::Tag(tag.to_owned()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.headers.get(header::IF_MATCH)))
    }
}

/// An entity tag as the header `ETag` carries it.
pub(crate) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_taken_or_left() {
        let read = |text: &'static str| IfMatch::parse(Some(&HeaderValue::from_static(text)));
        for star in ["*", "\"*\""] {
            assert_eq!(read(star), IfMatch::Any);
        }
        for tag in ["AAAA=", "\"AAAA=\"", "W/\"AAAA=\"", " \"AAAA=\" "] {
            assert_eq!(read(tag), IfMatch::Tag("AAAA=".to_owned()));
        }
        assert_eq!(IfMatch::parse(None), IfMatch::Absent);
    }
}
