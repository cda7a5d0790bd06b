//! Bodies of requests: whole, in time, and bounded before anybody looks at them.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::HttpState;
use crate::hub::error::{ErrorCode, HubError};

/// Lets a body arrive before the request goes on.
pub(super) async fn arrive(
    State(state): State<HttpState>,
    request: Request,
    next: Next,
) -> Response {
    let limits = &state.caller().hub.limits;
    let (parts, body) = request.into_parts();
    match timeout(
        limits.http_body_timeout,
        to_bytes(body, limits.max_http_body),
    )
    .await
    {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Err(error)) => {
            tracing::debug!(%error, "The body of a request is too large or broken");
            let text = "The body of the request is over the size limit.";
            HubError::new(ErrorCode::MessageTooLarge, text).into_response()
        }
        Err(_elapsed) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

/// A body of JSON, whatever the request calls it; an absent one reads as null.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = HubError;

    async fn from_request(request: Request, state: &S) -> Result<Self, HubError> {
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|error| HubError::new(ErrorCode::IotHubFormatError, error.to_string()))?;
        parse(&body).map(Self)
    }
}

/// Reads JSON; nothing at all reads as null.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, HubError> {
    // Some editors and .NET writers begin with a byte order mark.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let text = format!("The body of the request is not what is expected: {error}");
        HubError::new(ErrorCode::IotHubFormatError, text)
    })
}
