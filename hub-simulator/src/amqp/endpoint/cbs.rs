//! The `$cbs` node: tokens put onto the connection (AMQP claims-based security, working draft).

use bytes::BytesMut;

use super::unreadable;
use crate::amqp::codec::message::{MessageWriter, OutProperties, Sections};
use crate::amqp::codec::read::Value;
use crate::amqp::codec::write;
use crate::amqp::core::Core;
use crate::amqp::link::Outgoing;
use crate::amqp::{AmqpError, MAX_NAME, condition};
use crate::hub::registry::{AccessError, Grant, Principal};
use crate::hub::throttle::Operation;

/// The one kind of token the hub takes.
const TOKEN_TYPE: &str = "servicebus.windows.net:sastoken";

/// A status of the node and its text.
type Status = (i32, String);

/// Judges a put-token request and answers it, unless a script withholds the answer.
pub(crate) fn answer(core: &mut Core, message: &[u8]) -> Result<Option<Outgoing>, AmqpError> {
    let sections = Sections::decode(message).map_err(unreadable)?;
    let properties = sections.properties().map_err(unreadable)?;
    let message_id = properties.message_id.ok_or_else(|| {
        AmqpError::new(
            condition::INVALID_FIELD,
            "A request to $cbs needs a message-id.",
        )
    })?;
    let (code, text) = match put_token(core, &sections) {
        Ok(Answer::Given) => (200, "OK".to_owned()),
        Ok(Answer::Withheld) => return Ok(None),
        Err(status) => status,
    };
    // The id goes back as it came, type and all; the answer has no body.
    let properties = OutProperties {
        correlation_id: Some(message_id),
        ..OutProperties::default()
    };
    let status = |out: &mut BytesMut| {
        write::string(out, "status-code");
        write::int(out, code);
        write::string(out, "status-description");
        write::string(out, &text);
    };
    let message = MessageWriter::default()
        .properties(&properties)
        .application(2, status)
        .finish();
    Ok(Some(Outgoing::new(message, false)))
}

/// Whether whoever asked is told.
enum Answer {
    Given,
    Withheld,
}

fn put_token(core: &mut Core, sections: &Sections<'_>) -> Result<Answer, Status> {
    let property = |name| sections.application_property(name).and_then(Value::text);
    let is_delete = match property("operation") {
        Some("put-token") => false,
        Some("delete-token") if core.hub.limits.delete_token => true,
        _ => return Err((400, "The operation is not put-token.".to_owned())),
    };
    if !property("type").is_some_and(|kind| kind.eq_ignore_ascii_case(TOKEN_TYPE)) {
        return Err((400, format!("The token type is not {TOKEN_TYPE}.")));
    }
    let name = property("name").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| (400, "The name of the token is missing.".to_owned()))?;
    if name.len() > MAX_NAME {
        let text = format!("The name of the token is over {MAX_NAME} bytes.");
        return Err((400, text));
    }
    if is_delete {
        return delete_token(core, name).map(|()| Answer::Given);
    }
    let body = sections
        .body()
        .map_err(|error| (400, format!("The body cannot be read: {error}.")))?;
    let token =
        std::str::from_utf8(&body).map_err(|_| (400, "The token is no text.".to_owned()))?;
    let checked = core
        .hub
        .state()
        .registry
        .check_token(token, core.now.system);
    let grant = checked
        .and_then(|grant| script(core, grant))
        .map_err(|refusal| refused(name, &refusal))?;
    if let Principal::Device(device) = &grant.principal
        && core.hub.script.withholds_token(device)
    {
        return Ok(Answer::Withheld);
    }
    let limit = core.hub.limits.tokens_per_connection;
    if !core.tokens.contains(name) && core.tokens.len() >= limit {
        return Err((
            500,
            format!("The maximum number of tokens per connection ({limit}) has been reached."),
        ));
    }
    if !core.tokens.contains(name) {
        let now = core.now.instant;
        let throttled = core.hub.throttles.take(Operation::Connect, now);
        throttled.map_err(|error| (429, error.message))?;
    }
    tracing::debug!(name, "Token is accepted");
    core.token_taken(name, grant);
    Ok(Answer::Given)
}

fn delete_token(core: &mut Core, name: &str) -> Result<(), Status> {
    if !core.tokens.remove(name) {
        return Err((404, "There is no token of that name.".to_owned()));
    }
    core.token_count_changed();
    Ok(())
}

/// Lets a script refuse a device's token that is good.
fn script(core: &Core, grant: Grant) -> Result<Grant, AccessError> {
    if let Principal::Device(device) = &grant.principal
        && let Some((status, text)) = core.hub.script.token_refusal(device)
    {
        return Err(AccessError::Scripted { status, text });
    }
    Ok(grant)
}

fn refused(name: &str, error: &AccessError) -> Status {
    tracing::info!(name, %error, "Token is refused");
    (error.status(), error.to_string())
}
