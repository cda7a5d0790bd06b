//! The provisioning service over AMQP: one login, one pair of links, requests and answers.
//!
//! Source: Microsoft's device SDKs (`azure-iot-provisioning-device-amqp` for Node, the C# SDK's
//! `provisioning/transport/amqp`).

use bytes::BytesMut;

use super::unreadable;
use crate::amqp::codec::message::{MessageWriter, OutProperties, Sections};
use crate::amqp::codec::read::Value;
use crate::amqp::codec::write;
use crate::amqp::core::Core;
use crate::amqp::link::Outgoing;
use crate::amqp::{AmqpError, Info, condition};
use crate::provisioning::{DpsError, Proof, Reply};

/// C# looks for the first, Node for the second.
const RETRY_AFTER: [&str; 2] = ["Retry-After", "retry-after"];

/// Logs a device in that gives its registration as the user, `{id scope}/registrations/{id}`, and a
/// token as the password; tells whether it is let in.
pub(crate) fn log_in(core: &mut Core, user: &str, token: &str) -> bool {
    enter(core, user, Proof::Token(token))
}

/// Logs a device in by the certificate of its connection, if a link's address is a registration's.
pub(crate) fn show_certificate(core: &mut Core, address: &str) {
    if core.provisioning.is_none()
        && let Some(thumbprints) = core.caller.thumbprints.clone()
    {
        enter(core, address, Proof::Certificate(&thumbprints));
    }
}

fn enter(core: &mut Core, address: &str, proof: Proof<'_>) -> bool {
    let Some((scope, registration)) = address.split_once("/registrations/") else {
        return false;
    };
    let dps = &core.caller.cloud.dps;
    let login = dps.log_in(scope, registration, proof, core.now).ok();
    core.provisioning = login;
    core.provisioning.is_some()
}

/// Whether a link may be open at an address: the login's, or any for who shows a certificate, whose
/// requests are refused if it is not enrolled.
pub(crate) fn authorize(core: &Core, address: &str) -> Result<(), AmqpError> {
    let may = match &core.provisioning {
        Some(login) => login.is_at(address),
        None => core.caller.thumbprints.is_some(),
    };
    if may {
        Ok(())
    } else {
        Err(refusal(core, &DpsError::unauthorized()))
    }
}

/// Carries out a device's request.
pub(crate) fn answer(core: &mut Core, message: &[u8]) -> Result<Outgoing, AmqpError> {
    let sections = Sections::decode(message).map_err(unreadable)?;
    let correlation_id = sections.properties().map_err(unreadable)?.correlation_id;
    let body = sections.body().map_err(unreadable)?;
    let property = |name| sections.application_property(name).and_then(Value::text);
    let cloud = &core.caller.cloud;
    let login = core.provisioning.as_ref();
    let login = login.ok_or_else(|| refusal(core, &DpsError::invalid_certificate()))?;
    let reply = match property("iotdps-operation-type") {
        Some("iotdps-register") => cloud.dps.register(cloud, login, &body, core.now),
        Some("iotdps-get-operationstatus") => {
            let operation = property("iotdps-operation-id").unwrap_or_default();
            cloud.dps.operation_status(login, operation, core.now)
        }
        Some("iotdps-get-registration") => cloud.dps.look_up(login, core.now).map(|body| Reply {
            status: 200,
            retry_after: None,
            body,
        }),
        _ => Err(DpsError::invalid("The operation type is not known.")),
    };
    match reply {
        Ok(reply) => Ok(encode(correlation_id, &reply)),
        Err(error) => Err(refusal(core, &error)),
    }
}

fn encode(correlation_id: Option<&[u8]>, reply: &Reply) -> Outgoing {
    let writer = MessageWriter::default().properties(&OutProperties {
        correlation_id,
        content_type: Some("application/json; charset=utf-8"),
        ..OutProperties::default()
    });
    let writer = match reply.retry_after {
        Some(seconds) => writer.application(2, |out: &mut BytesMut| {
            for name in RETRY_AFTER {
                write::string(out, name);
                write::string(out, &seconds.to_string());
            }
        }),
        None => writer,
    };
    let message = writer.data(reply.body.to_string().as_bytes()).finish();
    Outgoing::new(message, false)
}

fn refusal(core: &Core, error: &DpsError) -> AmqpError {
    let condition = match error.status() {
        401 => condition::UNAUTHORIZED,
        403 => condition::RESOURCE_LIMIT,
        404 => condition::NOT_FOUND,
        429 => "com.microsoft:device-container-throttled",
        400..500 => condition::NOT_ALLOWED,
        _ => condition::INTERNAL,
    };
    let refusal = AmqpError::new(condition, error.body(core.now.system).to_string());
    match error.retry_after {
        Some(seconds) => RETRY_AFTER.into_iter().fold(refusal, |refusal, name| {
            refusal.with(name, Info::Text(seconds.to_string()))
        }),
        None => refusal,
    }
}
