//! Refusals as HTTP carries them.
//!
//! Source: what Microsoft's service SDKs read: `ErrorCode:NAME;text` in `Message` (Node), or JSON in it
//! (.NET), and the header `iothub-errorcode`.

use std::time::SystemTime;

use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::clock::{iso8601, us_time};
use crate::guid::Guid;
use crate::hub::error::{ErrorCode, HubError};

/// Names the error for programs.
const ERROR_CODE: HeaderName = HeaderName::from_static("iothub-errorcode");

impl IntoResponse for HubError {
    fn into_response(self) -> Response {
        tracing::debug!(code = self.code.number(), error = %self, "Request is refused");
        let status =
            StatusCode::from_u16(self.code.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
        let headers = [
            (
                header::CONTENT_TYPE,
                "application/json; charset=utf-8".to_owned(),
            ),
            (ERROR_CODE, self.code.name().to_owned()),
        ];
        (status, headers, body(&self, SystemTime::now())).into_response()
    }
}

fn body(error: &HubError, now: SystemTime) -> String {
    let tracking = Guid::random().simple().to_uppercase();
    let time = iso8601(now);
    let (message, exception) = match error.code {
        // What has to do with methods is told in JSON within the JSON.
        ErrorCode::DeviceNotOnline | ErrorCode::GatewayTimeout => {
            let message = json!({
                "errorCode": error.code.number(),
                "trackingId": format!("{tracking}-G:0-TimeStamp:{time}"),
                "message": error.message,
                "timestampUtc": time,
            });
            (message.to_string(), String::new())
        }
        _ => (
            format!("ErrorCode:{};{}", error.code.name(), error.message),
            format!("Tracking ID:{tracking}-G:0-TimeStamp:{}", us_time(now)),
        ),
    };
    json!({ "Message": message, "ExceptionMessage": exception }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_the_node_sdk_splits_it() {
        let error = HubError::new(ErrorCode::DeviceNotFound, "Device d1 not registered");
        let body: serde_json::Value =
            serde_json::from_str(&body(&error, SystemTime::now())).unwrap();
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
        let body: serde_json::Value =
            serde_json::from_str(&body(&error, SystemTime::now())).unwrap();
        let inner: serde_json::Value =
            serde_json::from_str(body["Message"].as_str().unwrap()).unwrap();
        assert_eq!(inner["errorCode"], 404_103);
        assert_eq!(inner["message"], "Timed out.");
    }
}
