//! Messages of devices and modules to the cloud, one a request or many.
//!
//! Sources: the HTTP transports of the Node and C device SDKs.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use serde::Deserialize;

use super::HttpState;
use super::auth::Call;
use super::body::parse;
use crate::hub::Sender;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::identity;
use crate::hub::record::Accepted;

/// What a body of many messages calls itself.
const BATCH: &str = "application/vnd.microsoft.iothub.json";
/// Begins the name of every application property.
pub(super) const APPLICATION: &str = "iothub-app-";
/// Most messages in a batch, as over AMQP.
const MAX_BATCH: usize = 500;

pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/devices/{device}/messages/events", post(of_device))
        .route(
            "/devices/{device}/modules/{module}/messages/events",
            post(of_module),
        )
}

async fn of_device(
    call: Call,
    State(state): State<HttpState>,
    Path(device): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, HubError> {
    send(&call, &state, &device, &headers, body).await
}

async fn of_module(
    call: Call,
    State(state): State<HttpState>,
    Path((device, module)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, HubError> {
    let identity = identity::module(&device, &module);
    send(&call, &state, &identity, &headers, body).await
}

async fn send(
    call: &Call,
    state: &HttpState,
    identity: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<StatusCode, HubError> {
    let sender = call.device(identity)?;
    let content_type = headers.get(header::CONTENT_TYPE);
    let is_batch = content_type.is_some_and(|value| {
        let bytes = value.as_bytes();
        bytes.len() >= BATCH.len() && bytes[..BATCH.len()].eq_ignore_ascii_case(BATCH.as_bytes())
    });
    let messages = if is_batch {
        batch(call, &sender, &body)?
    } else {
        vec![single(call, state, &sender, headers, body)]
    };
    let settling = call.hub.accept(messages, &sender, call.now)?;
    state.settle(settling).await;
    Ok(StatusCode::NO_CONTENT)
}

/// One message: properties in the headers, the body as it is.
fn single(
    call: &Call,
    state: &HttpState,
    sender: &Sender,
    headers: &HeaderMap,
    body: Bytes,
) -> Accepted {
    let mut message = Accepted::bare(&sender.identity, call.now.system, call.peer.id);
    message.body = body;
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        property(&mut message, &state.spelling(name.as_str()), &value);
    }
    message
}

/// A message of a batch.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    body: String,
    #[serde(default = "yes")]
    base64_encoded: bool,
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

fn batch(call: &Call, sender: &Sender, body: &[u8]) -> Result<Vec<Accepted>, HubError> {
    let items: Vec<Item> = parse(body)?;
    if items.is_empty() || items.len() > MAX_BATCH {
        let text = format!("A batch holds 1 to {MAX_BATCH} messages.");
        return Err(HubError::new(ErrorCode::ArgumentInvalid, text));
    }
    let read = |item: Item| {
        let mut message = Accepted::bare(&sender.identity, call.now.system, call.peer.id);
        message.body = if item.base64_encoded {
            let body = BASE64.decode(&item.body);
            let text = "The body of a message is not in base64.";
            body.map_err(|_| HubError::new(ErrorCode::IotHubFormatError, text))?
                .into()
        } else {
            item.body.into()
        };
        for (name, value) in &item.properties {
            property(&mut message, name, value);
        }
        Ok(message)
    };
    items.into_iter().map(read).collect()
}

/// Takes what a header, or a property of a message of a batch, says of the message.
fn property(message: &mut Accepted, name: &str, value: &str) {
    let begins = name
        .get(..APPLICATION.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(APPLICATION));
    if begins {
        let name = name[APPLICATION.len()..].to_owned();
        message.properties.insert(name, value.to_owned());
        return;
    }
    let value = Some(value.to_owned());
    match &*name.to_ascii_lowercase() {
        "iothub-messageid" => message.message_id = value,
        "iothub-correlationid" => message.correlation_id = value,
        "iothub-userid" => message.user_id = value,
        "iothub-contenttype" => message.content_type = value,
        "iothub-contentencoding" => message.content_encoding = value,
        // Of Digital Twins; the Node SDK sends it without a prefix.
        "dt-subject" => {
            message
                .annotations
                .extend(value.map(|value| ("dt-subject".to_owned(), value)));
        }
        "iothub-interface-id" => {
            message
                .annotations
                .extend(value.map(|value| ("iothub-interface-id".to_owned(), value)));
        }
        _ => {}
    }
}
