//! What a service does besides the registry: methods, the purge of a queue, feedback, statistics.

use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::HttpState;
use super::auth::{Call, Right};
use crate::hub::error::HubError;

pub(super) fn routes() -> Router<HttpState> {
    Router::new().route("/statistics/service", get(statistics))
}

/// `GET /statistics/service`.
async fn statistics(call: Call) -> Result<Json<Value>, HubError> {
    call.demand(Right::RegistryRead)
        .or_else(|_| call.demand(Right::ServiceConnect))?;
    let connected = call.hub.state().attached;
    Ok(Json(json!({ "connectedDeviceCount": connected })))
}
