//! Direct methods, called by a service.
//!
//! Source: Microsoft, "Understand and invoke direct methods from IoT Hub".

use std::time::Duration;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::auth::{Call, Right};
use super::body::JsonBody;
use super::error::CallRefusal;
use super::{HttpState, pause};
use crate::hub::Hub;
use crate::hub::calls;
use crate::hub::device::Feed;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::identity;
use crate::hub::message::{MethodError, MethodResponse};

/// How long a device may be given to answer, in seconds.
const RESPONSE: std::ops::RangeInclusive<u64> = 5..=300;
/// How long a device may be given to come, in seconds.
const CONNECT: std::ops::RangeInclusive<u64> = 0..=300;

pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/twins/{device}/methods", post(of_device))
        .route("/twins/{device}/modules/{module}/methods", post(of_module))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    method_name: String,
    response_timeout_in_seconds: Option<u64>,
    connect_timeout_in_seconds: Option<u64>,
    /// Passed on as it is spelt.
    payload: Option<Box<RawValue>>,
}

/// What the device answered.
#[derive(Debug, Serialize)]
struct Answer {
    status: i32,
    payload: Box<RawValue>,
}

impl From<MethodResponse> for Answer {
    fn from(response: MethodResponse) -> Self {
        let text = String::from_utf8_lossy(&response.payload).into_owned();
        let text = if text.trim().is_empty() {
            "null".to_owned()
        } else {
            text
        };
        // What is no JSON is passed on as a text.
        let payload = RawValue::from_string(text)
            .or_else(|_| {
                serde_json::value::to_raw_value(&String::from_utf8_lossy(&response.payload))
            })
            .unwrap_or_default();
        Self {
            status: response.status,
            payload,
        }
    }
}

async fn of_device(
    call: Call,
    Path(device): Path<String>,
    JsonBody(request): JsonBody<Request>,
) -> Result<Response, CallRefusal> {
    invoke(&call, &device, request).await
}

async fn of_module(
    call: Call,
    Path((device, module)): Path<(String, String)>,
    JsonBody(request): JsonBody<Request>,
) -> Result<Response, CallRefusal> {
    invoke(&call, &identity::module(&device, &module), request).await
}

async fn invoke(call: &Call, identity: &str, request: Request) -> Result<Response, CallRefusal> {
    call.demand(Right::ServiceConnect)?;
    call.hub.demand_standard_tier()?;
    let (name, payload) = (request.method_name, request.payload);
    let response = seconds(
        request.response_timeout_in_seconds,
        30,
        &RESPONSE,
        "response",
    )?;
    let connect = seconds(request.connect_timeout_in_seconds, 0, &CONNECT, "connect")?;
    let payload = payload.map_or_else(String::new, |payload| payload.get().to_owned());
    calls::check(&name, payload.as_bytes()).map_err(HubError::from)?;
    let hub = &*call.hub;
    let wait = hub.throttles.take_method(payload.len(), call.now.instant)?;
    pause(wait).await;
    come(hub, identity, connect).await?;
    let payload = if payload.is_empty() {
        "null".to_owned()
    } else {
        payload
    };
    tracing::debug!(device.id = identity, method = name, "Method is called");
    let answer = hub.call_method(identity, &name, payload.into(), response);
    let answer = answer.await.map_err(|error| refuse(error, connect))?;
    let json = header::HeaderValue::from_static("application/json; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, json)], Json(Answer::from(answer))).into_response())
}

/// Waits for the device to listen to methods, as long as the caller will have it.
async fn come(hub: &Hub, identity: &str, within: Duration) -> Result<(), CallRefusal> {
    let deadline = Instant::now() + within;
    let mut changes = hub.changes();
    loop {
        let listens = match hub.state().registry.peek_mut(identity) {
            Some(device) => device.slot(Feed::Methods).is_some(),
            None => return Err(HubError::unknown(identity).into()),
        };
        if listens {
            return Ok(());
        }
        let changed = timeout_at(deadline, changes.changed()).await;
        if !matches!(changed, Ok(Ok(()))) {
            return Err(refuse(MethodError::DeviceNotOnline, within));
        }
    }
}

fn refuse(error: MethodError, connect: Duration) -> CallRefusal {
    let seconds = connect.as_secs();
    let waited = format!("00:{:02}:{:02}", seconds / 60, seconds % 60);
    let info = match error {
        MethodError::DeviceNotOnline => json!({ "timeout": waited }),
        _ => json!({}),
    };
    let error = error.into();
    CallRefusal { error, info }
}

fn seconds(
    given: Option<u64>,
    default: u64,
    allowed: &std::ops::RangeInclusive<u64>,
    which: &str,
) -> Result<Duration, HubError> {
    let seconds = given.unwrap_or(default);
    if allowed.contains(&seconds) {
        return Ok(Duration::from_secs(seconds));
    }
    Err(invalid(&format!(
        "The {which}TimeoutInSeconds is {seconds}; it may be {} to {}.",
        allowed.start(),
        allowed.end()
    )))
}

fn invalid(text: &str) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, text)
}
