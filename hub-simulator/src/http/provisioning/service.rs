//! The service API: enrolments, groups and registrations.
//!
//! Source: Microsoft, REST reference of the Device Provisioning Service, api-versions 2019-03-31 and
//! 2021-10-01.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde_json::Value;

use super::{HttpState, check_version, json, text};
use crate::hub::state::Now;
use crate::provisioning::service::{IfMatch, Page, PageRequest};
use crate::provisioning::{DpsError, Kind};

const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");
const PAGE_SIZE: HeaderName = HeaderName::from_static("x-ms-max-item-count");
const ITEM_TYPE: HeaderName = HeaderName::from_static("x-ms-item-type");

pub(super) fn routes() -> Router<HttpState> {
    let mut router = Router::new()
        .route("/registrations/{id}", get(registration).delete(forget))
        .route("/registrations/{id}/query", post(registrations));
    // Microsoft's own clients spell the groups in two ways, and end a path with a slash or not.
    for (kind, path) in [
        (Kind::Individual, "/enrollments"),
        (Kind::Group, "/enrollmentGroups"),
        (Kind::Group, "/enrollmentgroups"),
    ] {
        router = router
            .route(path, bulk(kind))
            .route(&format!("{path}/"), bulk(kind))
            .route(&format!("{path}/query"), query(kind))
            .route(&format!("{path}/{{id}}"), enrolment(kind))
            .route(
                &format!("{path}/{{id}}/attestationmechanism"),
                mechanism(kind),
            );
    }
    router
}

/// A request that bears a good token of the service's policy.
struct Owner;

impl FromRequestParts<HttpState> for Owner {
    type Rejection = DpsError;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, DpsError> {
        let token = text(&parts.headers, header::AUTHORIZATION).unwrap_or_default();
        state.caller().cloud.dps.check_owner(token, Now::read())?;
        check_version(parts.uri.query())?;
        Ok(Self)
    }
}

/// `GET`, `PUT` and `DELETE` of one enrolment.
fn enrolment(kind: Kind) -> MethodRouter<HttpState> {
    let show = async move |State(state): State<HttpState>, _: Owner, Path(id): Path<String>| {
        let now = Now::read().system;
        let shown = state.caller().cloud.dps.peek().show(kind, &id, now);
        answer(shown)
    };
    let write = async move |State(state): State<HttpState>,
                            _: Owner,
                            Path(id): Path<String>,
                            headers: HeaderMap,
                            body: Bytes| {
        let cloud = &state.caller().cloud;
        let hubs = cloud.dps.linked(cloud);
        let (condition, now) = (condition(&headers), Now::read().system);
        let mut dps = cloud.dps.state();
        answer(dps.put(kind, &id, &body, condition, &hubs, now))
    };
    let remove = async move |State(state): State<HttpState>,
                             _: Owner,
                             Path(id): Path<String>,
                             headers: HeaderMap| {
        let mut dps = state.caller().cloud.dps.state();
        done(dps.remove(kind, &id, condition(&headers)))
    };
    get(show).put(write).delete(remove)
}

/// `POST` of a bulk operation.
fn bulk(kind: Kind) -> MethodRouter<HttpState> {
    post(
        async move |State(state): State<HttpState>, _: Owner, body: Bytes| {
            let cloud = &state.caller().cloud;
            let hubs = cloud.dps.linked(cloud);
            let now = Now::read().system;
            answer(cloud.dps.state().bulk(kind, &body, &hubs, now))
        },
    )
}

/// `POST` of a query.
fn query(kind: Kind) -> MethodRouter<HttpState> {
    let item_type = match kind {
        Kind::Individual => "Enrollment",
        Kind::Group => "EnrollmentGroup",
    };
    post(
        async move |State(state): State<HttpState>, _: Owner, headers: HeaderMap, body: Bytes| {
            let dps = state.caller().cloud.dps.peek();
            let page = dps.query(kind, &body, page_request(&headers))?;
            Ok::<_, DpsError>(paged(page, item_type))
        },
    )
}

/// `POST` for an attestation with its keys.
fn mechanism(kind: Kind) -> MethodRouter<HttpState> {
    post(
        async move |State(state): State<HttpState>, _: Owner, Path(id): Path<String>| {
            let dps = state.caller().cloud.dps.peek();
            answer(dps.attestation_mechanism(kind, &id))
        },
    )
}

/// `GET /registrations/{id}`.
async fn registration(
    State(state): State<HttpState>,
    _: Owner,
    Path(id): Path<String>,
) -> Response {
    let now = Now::read().system;
    let dps = state.caller().cloud.dps.peek();
    answer(dps.show_registration(&id, now))
}

/// `DELETE /registrations/{id}`.
async fn forget(
    State(state): State<HttpState>,
    _: Owner,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let mut dps = state.caller().cloud.dps.state();
    done(dps.remove_registration(&id, condition(&headers)))
}

/// `POST /registrations/{group}/query`.
async fn registrations(
    State(state): State<HttpState>,
    _: Owner,
    Path(group): Path<String>,
    headers: HeaderMap,
) -> Result<Response, DpsError> {
    let now = Now::read().system;
    let dps = state.caller().cloud.dps.peek();
    let page = dps.query_registrations(&group, page_request(&headers), now)?;
    Ok(paged(page, "DeviceRegistration"))
}

fn condition(headers: &HeaderMap) -> IfMatch<'_> {
    IfMatch(text(headers, header::IF_MATCH))
}

fn page_request(headers: &HeaderMap) -> PageRequest<'_> {
    PageRequest {
        continuation: text(headers, CONTINUATION),
        size: text(headers, PAGE_SIZE).and_then(|size| size.parse().ok()),
    }
}

fn answer(found: Result<Value, DpsError>) -> Response {
    match found {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => error.into_response(),
    }
}

fn done(result: Result<(), DpsError>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error.into_response(),
    }
}

fn paged(page: Page, item_type: &'static str) -> Response {
    let mut response = json(StatusCode::OK, &page.items.into());
    let headers = response.headers_mut();
    headers.insert(ITEM_TYPE, HeaderValue::from_static(item_type));
    let continuation = page.continuation.map(HeaderValue::try_from);
    if let Some(Ok(continuation)) = continuation {
        headers.insert(CONTINUATION, continuation);
    }
    response
}
