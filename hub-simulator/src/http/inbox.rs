//! A device's or module's cloud-to-device messages, asked for one at a time.
//!
//! Sources: the HTTP transport of the Node device SDK, and the answers recorded in the tests of the
//! Azure CLI's IoT extension.

use std::str::FromStr as _;

use axum::Router;
use axum::extract::{Path, RawQuery};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};

use super::auth::Call;
use super::etag::quoted;
use super::{HttpState, pause};
use crate::clock::american;
use crate::guid::Guid;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::identity;
use crate::hub::queue::Verdict;
use crate::hub::state::{Delivery, Now};
use crate::hub::throttle::Operation;

/// Headers that a message may have: they are over 64 KB then, which no client reads, and the map of
/// them panics where it is full, at six times as many.
const MAX_FIELDS: usize = 4096;

pub(super) fn routes() -> Router<HttpState> {
    let mut routes = Router::new();
    for owner in ["/devices/{device}", "/devices/{device}/modules/{module}"] {
        // SDKs differ in the spelling: that for C# has the capital.
        for bound in ["devicebound", "deviceBound"] {
            let path = format!("{owner}/messages/{bound}");
            routes = routes
                .route(&path, get(receive))
                .route(&format!("{path}/{{lock}}"), delete(finish))
                .route(&format!("{path}/{{lock}}/abandon"), post(abandon));
        }
    }
    routes
}

/// What a path leads to: an identity, and a lock of its queue.
#[derive(Debug, serde::Deserialize)]
struct Target {
    device: String,
    module: Option<String>,
    lock: Option<String>,
}

impl Target {
    fn identity(&self) -> String {
        match &self.module {
            Some(module) => identity::module(&self.device, module),
            None => self.device.clone(),
        }
    }
}

async fn receive(call: Call, Path(target): Path<Target>) -> Result<Response, HubError> {
    let receiver = call.device(&target.identity())?.identity;
    call.hub.demand_standard_tier()?;
    let throttles = &call.hub.throttles;
    pause(throttles.take(Operation::C2dReceive, call.now.instant)?).await;
    // The lock begins when the message goes out.
    let delivery = call.hub.state().next_message(&receiver, Now::read());
    Ok(match delivery {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(delivery) => {
            tracing::debug!(device.id = %receiver, "Message is handed out over HTTP");
            (headers(&receiver, &delivery), delivery.message.body.clone()).into_response()
        }
    })
}

async fn finish(
    call: Call,
    Path(target): Path<Target>,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, HubError> {
    let query = query.unwrap_or_default();
    let rejects = query
        .split('&')
        .any(|field| field == "reject" || field.starts_with("reject="));
    let verdict = if rejects {
        Verdict::Reject
    } else {
        Verdict::Complete
    };
    settle(&call, &target, verdict)
}

async fn abandon(call: Call, Path(target): Path<Target>) -> Result<StatusCode, HubError> {
    settle(&call, &target, Verdict::Abandon)
}

fn settle(call: &Call, target: &Target, verdict: Verdict) -> Result<StatusCode, HubError> {
    let receiver = call.device(&target.identity())?.identity;
    call.hub.demand_standard_tier()?;
    let lock = target.lock.as_deref().unwrap_or_default();
    let settled = Guid::parse(lock.trim_matches('"')).and_then(|lock| {
        let mut state = call.hub.state();
        state.settle(&receiver, lock, verdict, call.now).ok()
    });
    settled
        .map(|()| StatusCode::NO_CONTENT)
        .ok_or_else(|| HubError::new(ErrorCode::DeviceMessageLockLost, lock))
}

/// What the hub says of a message besides its body.
fn headers(identity: &str, delivery: &Delivery) -> HeaderMap {
    let message = &delivery.message;
    let to = match identity::split(identity) {
        (device, None) => format!("/devices/{device}/messages/deviceBound"),
        (device, Some(module)) => {
            format!("/devices/{device}/modules/{module}/messages/deviceBound")
        }
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut headers = HeaderMap::new();
    let mut put = |name: &str, value: &str| {
        // A property that HTTP has no form for, or no room, stays behind.
        if headers.len() < MAX_FIELDS
            && let Ok(name) = HeaderName::from_str(name)
            && let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
        {
            headers.insert(name, value);
        } else {
            tracing::debug!(name, "Property fits no header");
        }
    };
    put("iothub-messageid", &text(&message.message_id));
    put("iothub-correlationid", &text(&message.correlation_id));
    let expiry = message.expiry(delivery.enqueued).map(american);
    put("iothub-expiry", &text(&expiry));
    let user_id = message.user_id.as_deref().unwrap_or_default();
    put("iothub-userid", &String::from_utf8_lossy(user_id));
    put("iothub-to", &to);
    put("iothub-sequencenumber", &delivery.sequence.to_string());
    put("iothub-enqueuedtime", &american(delivery.enqueued));
    put("iothub-deliverycount", &delivery.deliveries.to_string());
    for (name, value) in [
        ("contenttype", &message.content_type),
        ("contentencoding", &message.content_encoding),
    ] {
        if let Some(value) = value {
            put(name, value);
            put(&format!("iothub-{name}"), value);
        }
    }
    put(header::ETAG.as_str(), &quoted(&delivery.lock.to_string()));
    for (name, value) in &message.properties {
        match &**name {
            "iothub-ack" => put(name, value),
            _ => put(&format!("iothub-app-{name}"), value),
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::hub::message::C2d;

    #[test]
    fn a_message_with_more_properties_than_there_is_room_for_goes_out_under_its_lock() {
        let mut message = C2d::new("open");
        for number in 0..25_000 {
            message = message.with_property(format!("p{number}"), "");
        }
        let delivery = Delivery {
            lock: Guid::random(),
            sequence: 1,
            deliveries: 0,
            message: Arc::new(message),
            enqueued: SystemTime::now(),
        };
        let headers = headers("d", &delivery);
        let lock = quoted(&delivery.lock.to_string());
        assert_eq!(headers[header::ETAG], lock);
        assert_eq!(headers.len(), MAX_FIELDS);
    }
}
