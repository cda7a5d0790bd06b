//! Queries over twins.

use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{admit, json};
use crate::http::auth::{Call, Right};
use crate::http::body::JsonBody;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::query::Query;
use crate::hub::search::Cursor;
use crate::hub::throttle::Operation;

/// Rows of a page that nobody has asked a size for, and most rows of any.
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");
const MAX_ITEM_COUNT: HeaderName = HeaderName::from_static("x-ms-max-item-count");
const ITEM_TYPE: HeaderName = HeaderName::from_static("x-ms-item-type");

#[derive(Debug, Deserialize)]
pub(super) struct Question {
    query: String,
}

/// `POST /devices/query`.
pub(super) async fn run(
    call: Call,
    headers: HeaderMap,
    JsonBody(question): JsonBody<Question>,
) -> Result<Response, HubError> {
    let rights = [Right::RegistryRead, Right::ServiceConnect];
    admit(&call, &rights, Operation::Query).await?;
    let query = Query::parse(&question.query).map_err(|error| invalid(error.to_string()))?;
    let text = |name| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.map(str::trim).filter(|value| !value.is_empty())
    };
    let size = match text(MAX_ITEM_COUNT) {
        None => DEFAULT_PAGE,
        Some(count) => match count.parse::<i64>() {
            Ok(1..) => count.parse().unwrap_or(MAX_PAGE).min(MAX_PAGE),
            // .NET asks for -1 to leave the choice to the hub.
            Ok(_) => DEFAULT_PAGE,
            Err(_) => return Err(invalid("x-ms-max-item-count is no number.")),
        },
    };
    let from = text(CONTINUATION).map_or_else(|| Ok(Cursor::default()), Cursor::parse)?;
    let page = call.hub.search(&query, from, size).await;
    let kind = if query.selects_twins() { "Twin" } else { "Raw" };
    let mut response = ([(ITEM_TYPE, kind)], json(&page.rows)).into_response();
    if let Some(next) = page.next
        && let Ok(token) = next.token().parse()
    {
        response.headers_mut().insert(CONTINUATION, token);
    }
    Ok(response)
}

fn invalid(text: impl Into<String>) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, text)
}
