//! Twins of devices and modules.

use axum::response::Response;
use serde_json::Value;

use super::{Target, admit, expected, json};
use crate::http::auth::{Call, Right};
use crate::http::body::JsonBody;
use crate::http::etag::IfMatch;
use crate::hub::error::HubError;
use crate::hub::identities::Expected;
use crate::hub::throttle::Operation;
use crate::hub::twin::Mode;

/// `GET /twins/{device}`, and the same of a module.
pub(super) async fn read(call: Call, Target(id): Target) -> Result<Response, HubError> {
    call.hub.demand_standard_tier()?;
    admit(&call, &[Right::ServiceConnect], Operation::TwinRead).await?;
    Ok(json(&call.hub.twin_document(&id)?))
}

/// `PATCH /twins/{device}`, and the same of a module.
pub(super) async fn merge(
    call: Call,
    target: Target,
    if_match: IfMatch,
    JsonBody(twin): JsonBody<Value>,
) -> Result<Response, HubError> {
    write(&call, &target, &if_match, &twin, Mode::Merge).await
}

/// `PUT /twins/{device}`, and the same of a module.
pub(super) async fn replace(
    call: Call,
    target: Target,
    if_match: IfMatch,
    JsonBody(twin): JsonBody<Value>,
) -> Result<Response, HubError> {
    write(&call, &target, &if_match, &twin, Mode::Replace).await
}

async fn write(
    call: &Call,
    Target(id): &Target,
    if_match: &IfMatch,
    twin: &Value,
    mode: Mode,
) -> Result<Response, HubError> {
    call.hub.demand_standard_tier()?;
    admit(call, &[Right::ServiceConnect], Operation::TwinUpdate).await?;
    let expected = expected(if_match, Expected::Anything);
    let document = call.hub.write_twin(id, twin, mode, expected)?;
    tracing::debug!(device.id = %id, ?mode, "Twin is written");
    Ok(json(&document))
}
