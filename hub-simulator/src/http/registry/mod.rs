//! The identity registry and the twins over HTTP.
//!
//! Source: Microsoft, REST reference of IoT Hub (service, 2021-04-12), and what the service SDKs send
//! and read.

mod devices;
mod query;
mod twins;

use axum::Router;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde::Serialize;

use super::auth::{Call, Right};
use super::etag::IfMatch;
use super::{HttpState, pause};
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::identities::Expected;
use crate::hub::throttle::Operation;

/// The paths of the registry.
pub(crate) fn routes() -> Router<HttpState> {
    let devices = || get(devices::list).post(devices::bulk);
    let identity = || {
        get(devices::read)
            .put(devices::write)
            .delete(devices::delete)
    };
    let twin = || get(twins::read).patch(twins::merge).put(twins::replace);
    Router::new()
        .route("/devices", devices())
        .route("/devices/", devices())
        .route("/devices/query", post(query::run))
        .route("/devices/{device}", identity())
        .route("/devices/{device}/modules", get(devices::list_modules))
        .route("/devices/{device}/modules/{module}", identity())
        .route("/statistics/devices", get(devices::statistics))
        .route("/twins/{device}", twin())
        .route("/twins/{device}/modules/{module}", twin())
        .route("/configurations", get(none))
        .route("/configurations/{*rest}", any(not_simulated))
        .route(
            "/devices/{device}/applyConfigurationContent",
            any(not_simulated),
        )
        .route("/jobs", get(none))
        .route("/jobs/{*rest}", any(not_simulated))
        .route("/digitaltwins/{*rest}", any(not_simulated))
}

/// The identity that a path names: a device, or a module of one.
#[derive(Debug)]
struct Target(String);

impl FromRequestParts<HttpState> for Target {
    type Rejection = HubError;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, HubError> {
        let unreadable = || {
            let text = "The ids in the path are UTF-8 and hold no slash.";
            HubError::new(ErrorCode::ArgumentInvalid, text)
        };
        let captured = RawPathParams::from_request_parts(parts, state).await;
        let captured = captured.map_err(|_| unreadable())?;
        let ids: Vec<_> = captured.iter().map(|(_, id)| id).collect();
        // A slash within an id would make another identity of it.
        if ids.iter().any(|id| id.contains('/')) {
            return Err(unreadable());
        }
        Ok(Self(ids.join("/")))
    }
}

/// Checks that the caller may do what is asked, and waits for its turn.
async fn admit(call: &Call, rights: &[Right], operation: Operation) -> Result<(), HubError> {
    let mut verdicts = rights.iter().map(|right| call.demand(*right));
    if let Some(refused) = verdicts.clone().next().filter(Result::is_err)
        && !verdicts.any(|verdict| verdict.is_ok())
    {
        return refused;
    }
    let wait = call.hub.throttles.take(operation, call.now.instant)?;
    pause(wait).await;
    Ok(())
}

/// An answer of JSON as the hub labels it.
fn json(body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => {
            let kind = (header::CONTENT_TYPE, "application/json; charset=utf-8");
            ([kind], text).into_response()
        }
        Err(error) => HubError::new(ErrorCode::ServerError, error.to_string()).into_response(),
    }
}

/// What a request expects to find, by its `If-Match`; without one, or with an empty one, `absent`.
fn expected<'a>(if_match: &'a IfMatch, absent: Expected<'a>) -> Expected<'a> {
    match if_match {
        IfMatch::Absent => absent,
        IfMatch::Any => Expected::Anything,
        IfMatch::Tag(tag) if tag.is_empty() => absent,
        IfMatch::Tag(tag) => Expected::Etag(tag),
    }
}

/// The list of what is not simulated is empty.
async fn none(call: Call) -> Result<Response, HubError> {
    admit(&call, &[Right::RegistryRead], Operation::Registry).await?;
    Ok(json(&[(); 0]))
}

async fn not_simulated(_call: Call) -> HubError {
    let text = "Configurations, jobs and digital twins are not simulated.";
    HubError::new(ErrorCode::InvalidOperation, text)
}
