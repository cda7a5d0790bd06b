//! Refusals as HTTP carries them.
//!
//! Source: what Microsoft's service SDKs read: `ErrorCode:NAME;text` in `Message` (Node), or JSON in it
//! (.NET), and the header `iothub-errorcode`.

use std::time::SystemTime;

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::clock::{Ticks, invariant};
use crate::guid::Guid;
use crate::hub::error::{ErrorCode, HubError};

/// Names the error for programs.
const ERROR_CODE: HeaderName = HeaderName::from_static("iothub-errorcode");

impl IntoResponse for HubError {
    fn into_response(self) -> Response {
        let body = plain(&self, SystemTime::now());
        respond(&self, body)
    }
}

/// A refusal of a method call; what came of the device is told in JSON within the JSON.
#[derive(Debug)]
pub(super) struct CallRefusal {
    pub(super) error: HubError,
    pub(super) info: Value,
}

impl From<HubError> for CallRefusal {
    fn from(error: HubError) -> Self {
        let info = json!({});
        Self { error, info }
    }
}

impl IntoResponse for CallRefusal {
    fn into_response(self) -> Response {
        match self.error.code {
            ErrorCode::DeviceNotOnline | ErrorCode::GatewayTimeout => {
                let body = nested(&self.error, self.info, SystemTime::now());
                respond(&self.error, body)
            }
            _ => self.error.into_response(),
        }
    }
}

fn respond(error: &HubError, body: String) -> Response {
    tracing::debug!(code = error.code.number(), %error, "Request is refused");
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = [
        (header::CONTENT_TYPE, "application/json; charset=utf-8"),
        (ERROR_CODE, error.code.name()),
    ];
    (status, headers, body).into_response()
}

fn tracking_id(now: SystemTime) -> String {
    let id = Guid::random().simple();
    format!("{id}-G:0-TimeStamp:{}", invariant(now))
}

/// A body; its fields are in the real hub's order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    message: String,
    exception_message: String,
}

impl Body {
    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What stands, as a text, in the `Message` of a body.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Inner<'a> {
    error_code: u32,
    tracking_id: String,
    message: &'a str,
    info: Value,
    timestamp_utc: String,
}

fn plain(error: &HubError, now: SystemTime) -> String {
    let body = Body {
        message: format!("ErrorCode:{};{}", error.code.name(), error.message),
        exception_message: format!("Tracking ID:{}", tracking_id(now)),
    };
    body.to_json()
}

fn nested(error: &HubError, info: Value, now: SystemTime) -> String {
    let inner = Inner {
        error_code: error.code.number(),
        tracking_id: tracking_id(now),
        message: &error.message,
        info,
        timestamp_utc: Ticks::from(now).to_string(),
    };
    let body = Body {
        message: serde_json::to_string(&inner).unwrap_or_default(),
        exception_message: String::new(),
    };
    body.to_json()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_the_node_sdk_splits_it() {
        let error = HubError::new(ErrorCode::DeviceNotFound, "Device d1 not registered");
        let body: Value = serde_json::from_str(&plain(&error, SystemTime::now())).unwrap();
        assert_eq!(
            body["Message"],
            "ErrorCode:DeviceNotFound;Device d1 not registered"
        );
        let exception = body["ExceptionMessage"].as_str().unwrap();
        assert!(exception.starts_with("Tracking ID:"));
    }

    #[test]
    fn a_method_that_nobody_takes_is_told_in_json_within_the_json() {
        let error = HubError::new(ErrorCode::DeviceNotOnline, "Timed out.");
        let body = nested(&error, json!({}), SystemTime::now());
        let body: Value = serde_json::from_str(&body).unwrap();
        let inner: Value = serde_json::from_str(body["Message"].as_str().unwrap()).unwrap();
        assert_eq!(inner["errorCode"], 404_103);
        assert_eq!(inner["message"], "Timed out.");
    }
}
