//! The `$management` node: what the event hub and its partitions are.
//!
//! Source: the AMQP management working draft, and what the Event Hubs clients read of the answers.

use bytes::{Bytes, BytesMut};

use super::entity;
use crate::amqp::codec::message::{MessageWriter, OutProperties, Sections};
use crate::amqp::codec::read::Value;
use crate::amqp::codec::write;
use crate::amqp::core::Core;
use crate::amqp::endpoint::unreadable;
use crate::amqp::link::Outgoing;
use crate::amqp::{AmqpError, condition};
use crate::clock::unix_millis;

const EVENT_HUB: &str = "com.microsoft:eventhub";
const PARTITION: &str = "com.microsoft:partition";

/// Why a request is refused: status, condition, text.
struct Refusal(i32, &'static str, String);

/// Answers a request.
pub(crate) fn answer(core: &mut Core, message: &[u8]) -> Result<Outgoing, AmqpError> {
    let sections = Sections::decode(message).map_err(unreadable)?;
    let id = sections.properties().map_err(unreadable)?.message_id;
    let id = id.ok_or_else(|| {
        let text = "A request to $management needs a message-id.";
        AmqpError::new(condition::INVALID_FIELD, text)
    })?;
    let message = match read(core, &sections) {
        Ok(body) => MessageWriter::default()
            .properties(&reply_to(id))
            .application(4, |out| put_status(out, 200, "OK"))
            .value(&body)
            .finish(),
        Err(Refusal(status, condition, text)) => {
            tracing::info!(status, text, "Management request is refused");
            MessageWriter::default()
                .properties(&reply_to(id))
                .application(6, |out| {
                    put_status(out, status, &text);
                    for name in ["error-condition", "errorCondition"] {
                        write::string(out, name);
                        write::symbol(out, condition);
                    }
                })
                .finish()
        }
    };
    Ok(Outgoing::new(message, false))
}

fn reply_to(id: &[u8]) -> OutProperties<'_> {
    OutProperties {
        correlation_id: Some(id),
        ..OutProperties::default()
    }
}

/// Clients differ in how they spell the status.
fn put_status(out: &mut BytesMut, status: i32, text: &str) {
    for name in ["status-code", "statusCode"] {
        write::string(out, name);
        write::int(out, status);
    }
    for name in ["status-description", "statusDescription"] {
        write::string(out, name);
        write::string(out, text);
    }
}

fn read(core: &Core, sections: &Sections<'_>) -> Result<Bytes, Refusal> {
    let property = |name| sections.application_property(name).and_then(Value::text);
    let (hub, log) = (&core.hub, &core.hub.events);
    if let Some(token) = property("security_token") {
        let checked = hub.state().registry.check_token(token, core.now.system);
        checked.map_err(|error| Refusal(401, condition::UNAUTHORIZED, error.to_string()))?;
    }
    if !property("operation").is_some_and(|operation| operation.eq_ignore_ascii_case("READ")) {
        let text = "The operation is not READ.".to_owned();
        return Err(Refusal(400, condition::NOT_IMPLEMENTED, text));
    }
    let entity = entity(core);
    let name = property("name").unwrap_or_default();
    if !name.eq_ignore_ascii_case(&entity) {
        let text = super::no_such_entity(core, name);
        return Err(Refusal(404, condition::NOT_FOUND, text));
    }
    let mut out = BytesMut::new();
    match property("type") {
        Some(EVENT_HUB) => write::map(&mut out, 6, |out| {
            put_names(out, &entity, EVENT_HUB);
            write::string(out, "created_at");
            write::timestamp(out, unix_millis(log.created));
            write::string(out, "partition_count");
            write::int(out, i32::try_from(log.partitions()).unwrap_or(0));
            write::string(out, "georeplication_factor");
            write::int(out, 1);
            write::string(out, "partition_ids");
            let ids: Vec<String> = (0..log.partitions()).map(|id| id.to_string()).collect();
            write::strings(out, &ids);
        }),
        Some(PARTITION) => {
            let id = property("partition").unwrap_or_default();
            let info = super::partition(log, id).and_then(|partition| log.info(partition));
            let info = info.ok_or_else(|| {
                let place = format!("{entity}:eventhub:{entity}~{id}");
                let text = super::tracked(core, &super::no_such_partition(log), &place);
                Refusal(400, condition::ARGUMENT_RANGE, text)
            })?;
            write::map(&mut out, 8, |out| {
                put_names(out, &entity, PARTITION);
                write::string(out, "partition");
                write::string(out, id);
                write::string(out, "begin_sequence_number");
                write::long(out, info.first_sequence);
                write::string(out, "last_enqueued_sequence_number");
                write::long(out, info.last.sequence);
                write::string(out, "last_enqueued_offset");
                write::string(out, &info.last.offset.to_string());
                write::string(out, "last_enqueued_time_utc");
                write::timestamp(out, info.last.enqueued);
                write::string(out, "is_partition_empty");
                write::boolean(out, info.is_empty);
            });
        }
        _ => {
            let text = "There is no such type of entity.".to_owned();
            return Err(Refusal(400, condition::NOT_IMPLEMENTED, text));
        }
    }
    Ok(out.freeze())
}

fn put_names(out: &mut BytesMut, entity: &str, kind: &str) {
    write::string(out, "name");
    write::string(out, entity);
    write::string(out, "type");
    write::string(out, kind);
}
