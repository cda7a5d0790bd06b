//! Identities of devices and modules.

use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;

use super::{Target, admit, expected, json};
use crate::http::auth::{Call, Right};
use crate::http::body::JsonBody;
use crate::http::etag::{IfMatch, quoted};
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::identities::Expected;
use crate::hub::identity_record::IdentityDocument;
use crate::hub::identity_write::IdentityWrite;
use crate::hub::throttle::Operation;

/// Most devices that are listed at once.
const MAX_LISTED: usize = 1000;

#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    top: Option<String>,
}

async fn may_read(call: &Call) -> Result<(), HubError> {
    admit(call, &[Right::RegistryRead], Operation::Registry).await
}

async fn may_write(call: &Call) -> Result<(), HubError> {
    admit(call, &[Right::RegistryWrite], Operation::Registry).await
}

/// `GET /devices?top=`.
pub(super) async fn list(call: Call, Query(listing): Query<Listing>) -> Result<Response, HubError> {
    may_read(&call).await?;
    // Whatever is no sensible number counts as the most there is.
    let top = listing.top.and_then(|top| top.parse().ok());
    let top = top.filter(|top| (1..=MAX_LISTED).contains(top));
    Ok(json(&call.hub.list_devices(top.unwrap_or(MAX_LISTED))))
}

/// `GET /devices/{device}`, and the same of a module.
pub(super) async fn read(call: Call, Target(id): Target) -> Result<Response, HubError> {
    may_read(&call).await?;
    Ok(show(&id, &call.hub.identity(&id)?))
}

/// `PUT /devices/{device}`, and the same of a module: creates without `If-Match`, changes with one.
pub(super) async fn write(
    call: Call,
    Target(id): Target,
    if_match: IfMatch,
    JsonBody(write): JsonBody<IdentityWrite>,
) -> Result<Response, HubError> {
    may_write(&call).await?;
    let expected = expected(&if_match, Expected::Nothing);
    let document = call.hub.put_identity(&id, &write, expected)?;
    tracing::info!(device.id = %id, "Identity is written");
    Ok(show(&id, &document))
}

/// The answer; that of a module bears no `ETag`, as the real hub's.
fn show(id: &str, document: &IdentityDocument) -> Response {
    let body = json(document);
    if id.contains('/') {
        return body;
    }
    ([(header::ETAG, quoted(&document.etag))], body).into_response()
}

/// `DELETE /devices/{device}`, and the same of a module.
pub(super) async fn delete(
    call: Call,
    Target(id): Target,
    if_match: IfMatch,
) -> Result<StatusCode, HubError> {
    may_write(&call).await?;
    let expected = expected(&if_match, Expected::Nothing);
    if expected == Expected::Nothing {
        let text = "To delete an identity, name its etag in If-Match, or *.";
        return Err(HubError::new(ErrorCode::ArgumentNull, text));
    }
    call.hub.delete_identity(&id, expected)?;
    tracing::info!(device.id = %id, "Identity is deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /devices/{device}/modules`.
pub(super) async fn list_modules(call: Call, Target(device): Target) -> Result<Response, HubError> {
    may_read(&call).await?;
    Ok(json(&call.hub.list_modules(&device)?))
}

/// `POST /devices`: many writes in one request.
pub(super) async fn bulk(
    call: Call,
    JsonBody(items): JsonBody<Vec<Value>>,
) -> Result<Response, HubError> {
    may_write(&call).await?;
    let result = call.hub.bulk(&items)?;
    let status = if result.is_successful {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    };
    Ok((status, json(&result)).into_response())
}

/// `GET /statistics/devices`.
pub(super) async fn statistics(call: Call) -> Result<Response, HubError> {
    let rights = [Right::RegistryRead, Right::ServiceConnect];
    admit(&call, &rights, Operation::Registry).await?;
    Ok(json(&call.hub.registry_statistics()))
}
