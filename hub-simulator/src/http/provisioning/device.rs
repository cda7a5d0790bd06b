//! What a device asks: to be registered, how far that is, and where it was assigned.
//!
//! Source: Microsoft, REST reference "Runtime Registration", api-versions 2019-03-31 and 2021-06-01.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post, put};
use serde::Deserialize;

use super::{HttpState, check_version, json, retry_after, text};
use crate::hub::state::Now;
use crate::provisioning::{DpsError, Login, Proof, Reply};

pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route(
            "/{scope}/registrations/{registration}/register",
            put(register),
        )
        .route(
            "/{scope}/registrations/{registration}/operations/{operation}",
            get(operation),
        )
        .route("/{scope}/registrations/{registration}", post(look_up))
}

/// A request of a device that has proved to be enrolled.
struct Device(Login);

#[derive(Deserialize)]
struct Address {
    scope: String,
    registration: String,
}

#[derive(Deserialize)]
struct Operation {
    operation: String,
}

impl FromRequestParts<HttpState> for Device {
    type Rejection = DpsError;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, DpsError> {
        let Path(address) = Path::<Address>::from_request_parts(parts, state)
            .await
            .map_err(|_| DpsError::invalid("The address is not valid."))?;
        let caller = state.caller();
        let token = text(&parts.headers, header::AUTHORIZATION);
        let proof = match (token, &caller.thumbprints) {
            (None, Some(thumbprints)) => Proof::Certificate(thumbprints),
            // Without either the empty token is refused as any other.
            (token, _) => Proof::Token(token.unwrap_or_default()),
        };
        let (scope, id) = (&address.scope, &address.registration);
        let login = caller.cloud.dps.log_in(scope, id, proof, Now::read())?;
        check_version(parts.uri.query())?;
        Ok(Self(login))
    }
}

/// `PUT /{scope}/registrations/{id}/register`.
async fn register(
    State(state): State<HttpState>,
    Device(login): Device,
    body: Bytes,
) -> Result<Response, DpsError> {
    let cloud = &state.caller().cloud;
    let reply = cloud.dps.register(cloud, &login, &body, Now::read())?;
    Ok(answer(&reply))
}

/// `GET /{scope}/registrations/{id}/operations/{operation}`.
async fn operation(
    State(state): State<HttpState>,
    Device(login): Device,
    Path(Operation { operation }): Path<Operation>,
) -> Result<Response, DpsError> {
    let dps = &state.caller().cloud.dps;
    let reply = dps.operation_status(&login, &operation, Now::read())?;
    Ok(answer(&reply))
}

/// `POST /{scope}/registrations/{id}`.
async fn look_up(
    State(state): State<HttpState>,
    Device(login): Device,
) -> Result<Response, DpsError> {
    let found = state.caller().cloud.dps.look_up(&login, Now::read())?;
    Ok(json(StatusCode::OK, &found))
}

fn answer(reply: &Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    let mut response = json(status, &reply.body);
    retry_after(response.headers_mut(), reply.retry_after);
    response
}
