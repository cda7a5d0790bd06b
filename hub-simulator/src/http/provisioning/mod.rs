//! The provisioning service over HTTPS: what devices ask of it, and its service API.

mod device;
mod service;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::HttpState;
use crate::hub::state::Now;
use crate::provisioning::DpsError;

/// Names the error for programs.
const ERROR_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");

pub(super) fn routes() -> Router<HttpState> {
    device::routes().merge(service::routes())
}

impl IntoResponse for DpsError {
    fn into_response(self) -> Response {
        tracing::debug!(code = self.code.number(), error = %self, "Request is refused");
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let mut response = json(status, &self.body(Now::read().system));
        let headers = response.headers_mut();
        headers.insert(ERROR_CODE, HeaderValue::from(self.code.number()));
        retry_after(headers, self.retry_after);
        response
    }
}

fn json(status: StatusCode, body: &Value) -> Response {
    let content = HeaderValue::from_static("application/json; charset=utf-8");
    let mut response = (status, body.to_string()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, content);
    response
}

fn retry_after(headers: &mut HeaderMap, seconds: Option<u64>) {
    if let Some(seconds) = seconds {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Every request says which version of the interface it speaks: a date.
fn check_version(query: Option<&str>) -> Result<(), DpsError> {
    let mut fields = query.unwrap_or_default().split('&');
    let version = fields.find_map(|field| field.strip_prefix("api-version="));
    if version.is_some_and(|version| version.starts_with("20")) {
        return Ok(());
    }
    Err(DpsError::invalid(
        "The request needs an api-version, 2021-10-01 for instance.",
    ))
}
