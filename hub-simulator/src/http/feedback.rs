//! What became of cloud-to-device messages, asked for by a service one batch at a time.
//!
//! Source: the REST operations of the Python service SDK.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};

use super::HttpState;
use super::auth::{Call, Right};
use super::etag::quoted;
use crate::clock::american;
use crate::guid::Guid;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::feedback::CONTENT_TYPE;
use crate::hub::queue::Verdict;

pub(super) fn routes() -> Router<HttpState> {
    let mut routes = Router::new();
    // SDKs and documents differ in the spelling.
    for bound in ["serviceBound", "servicebound"] {
        let path = format!("/messages/{bound}/feedback");
        routes = routes
            .route(&path, get(receive))
            .route(&format!("{path}/{{lock}}"), delete(complete))
            .route(&format!("{path}/{{lock}}/abandon"), post(abandon));
    }
    routes
}

async fn receive(call: Call) -> Result<Response, HubError> {
    call.demand(Right::ServiceConnect)?;
    call.hub.demand_standard_tier()?;
    let delivery = call.hub.state().next_feedback(call.now);
    let Some(delivery) = delivery else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    tracing::debug!("Feedback is handed out over HTTP");
    let headers = [
        (header::CONTENT_TYPE, CONTENT_TYPE.to_owned()),
        (header::ETAG, quoted(&delivery.lock.to_string())),
        (
            HeaderName::from_static("iothub-enqueuedtime"),
            american(delivery.enqueued),
        ),
        (
            HeaderName::from_static("iothub-deliverycount"),
            delivery.deliveries.to_string(),
        ),
        (
            HeaderName::from_static("iothub-sequencenumber"),
            delivery.sequence.to_string(),
        ),
    ];
    Ok((headers, delivery.body).into_response())
}

async fn complete(call: Call, Path(lock): Path<String>) -> Result<StatusCode, HubError> {
    settle(&call, &lock, Verdict::Complete)
}

async fn abandon(call: Call, Path(lock): Path<String>) -> Result<StatusCode, HubError> {
    settle(&call, &lock, Verdict::Abandon)
}

fn settle(call: &Call, lock: &str, verdict: Verdict) -> Result<StatusCode, HubError> {
    call.demand(Right::ServiceConnect)?;
    call.hub.demand_standard_tier()?;
    let settled = Guid::parse(lock.trim_matches('"')).and_then(|lock| {
        let mut state = call.hub.state();
        state.settle_feedback(lock, verdict, call.now).ok()
    });
    settled
        .map(|()| StatusCode::NO_CONTENT)
        .ok_or_else(|| HubError::new(ErrorCode::DeviceMessageLockLost, lock))
}
