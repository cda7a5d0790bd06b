//! What a service does besides registry and methods: the purge of a queue, statistics.

use axum::extract::Path;
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::HttpState;
use super::auth::{Call, Right};
use crate::hub::error::HubError;

pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/statistics/service", get(statistics))
        .route("/devices/{device}/commands", delete(purge))
}

/// `GET /statistics/service`.
async fn statistics(call: Call) -> Result<Json<Value>, HubError> {
    call.demand(Right::RegistryRead)
        .or_else(|_| call.demand(Right::ServiceConnect))?;
    let connected = call.hub.state().attached;
    Ok(Json(json!({ "connectedDeviceCount": connected })))
}

/// `DELETE /devices/{id}/commands`.
async fn purge(call: Call, Path(device): Path<String>) -> Result<Json<Value>, HubError> {
    call.demand(Right::ServiceConnect)?;
    call.hub.demand_standard_tier()?;
    let purged = call.hub.state().purge(&device);
    let purged = purged.ok_or_else(|| HubError::unknown(&device))?;
    tracing::info!(device.id = device, count = purged, "Queue is purged");
    Ok(Json(json!({
        "totalMessagesPurged": purged, "deviceId": device, "moduleId": null,
    })))
}
