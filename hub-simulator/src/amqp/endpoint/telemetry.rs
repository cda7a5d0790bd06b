//! Device-to-cloud messages.
//!
//! Source: Microsoft, "Create and read IoT Hub messages"; the batch format is the .NET SDK's.

use std::sync::atomic::Ordering;

use super::unreadable;
use crate::amqp::AmqpError;
use crate::amqp::codec::DecodeError;
use crate::amqp::codec::encode::Outcome;
use crate::amqp::codec::message::{BATCH_FORMAT, Sections, display_id};
use crate::amqp::core::Core;
use crate::amqp::link::Link;
use crate::clock::Ticks;
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::record::{Accepted, RecordMode};
use crate::hub::throttle::{METER, Operation};

/// Most messages in a batch.
const MAX_BATCH: usize = 500;

/// Takes a message or a batch of them, all or none.
pub(crate) fn accept(core: &mut Core, link: &Link, format: u32, message: &[u8]) -> Outcome {
    let Some(device) = link.device.as_deref() else {
        return Outcome::Released;
    };
    if let Some(error) = core.hub.script.rejection(device) {
        tracing::debug!(device.id = device, condition = %error.condition, "Telemetry is rejected by script");
        return Outcome::Rejected(error);
    }
    let before = core.batch.kept.len();
    let events = link
        .partition
        .map(|partition| (partition, core.batch.events.mark(partition)));
    match take(core, link, device, format, message) {
        Ok(count) => {
            core.batch.count += count as u64;
            if let Some(counter) = &link.counter {
                counter.fetch_add(count as u64, Ordering::Relaxed);
            }
            if let Some(activity) = &link.activity {
                activity.store(Ticks::from(core.now.system).0, Ordering::Relaxed);
            }
            tracing::trace!(device.id = device, count, "Telemetry is accepted");
            Outcome::Accepted
        }
        Err(error) => {
            core.batch.kept.truncate(before);
            if let Some((partition, mark)) = events {
                core.batch.events.back_to(partition, mark);
            }
            Outcome::Rejected(error)
        }
    }
}

/// The size of a message or batch as the hub meters it, or that of its encoding where both come to
/// the same.
fn size(core: &Core, format: u32, message: &[u8]) -> Result<usize, DecodeError> {
    let limit = match core.hub.throttles.has_quota() {
        true => METER,
        false => core.hub.limits.max_telemetry_size,
    };
    if message.len() <= limit {
        return Ok(message.len());
    }
    let metered = |message| {
        let mut accepted = Accepted::bare("", core.now.system, core.peer.id);
        describe(&mut accepted, &Sections::decode(message)?)?;
        Ok(accepted.size())
    };
    match format {
        BATCH_FORMAT => {
            let mut parts = Sections::decode(message)?.data();
            parts.try_fold(0, |sum, part| Ok(sum + metered(part?)?))
        }
        _ => metered(message),
    }
}

/// Asks throttle and quota for messages.
fn pay(core: &mut Core, count: usize, len: usize) -> Result<(), AmqpError> {
    core.throttle(Operation::D2c, count)?;
    let counted = core.hub.throttles.count_message(len, core.now.system);
    counted.map_err(|error| core.refusal(&error))
}

/// Takes a message, or each of a batch, and counts them.
fn take(
    core: &mut Core,
    link: &Link,
    device: &str,
    format: u32,
    message: &[u8],
) -> Result<usize, AmqpError> {
    let size = size(core, format, message).map_err(unreadable)?;
    if size > core.hub.limits.max_telemetry_size {
        let text = "The message or batch is over the size limit.";
        let error = HubError::new(ErrorCode::MessageTooLarge, text);
        return Err(core.refusal(&error));
    }
    let mut count = 0;
    if format == BATCH_FORMAT {
        for part in Sections::decode(message).map_err(unreadable)?.data() {
            part.and_then(|part| keep(core, link, device, part))
                .map_err(unreadable)?;
            count += 1;
        }
        if count == 0 {
            return Err(unreadable(DecodeError("a batch holds no message")));
        }
        if count > MAX_BATCH {
            let text = "A batch holds at most 500 messages.";
            let error = HubError::new(ErrorCode::MessageTooLarge, text);
            return Err(core.refusal(&error));
        }
    } else {
        keep(core, link, device, message).map_err(unreadable)?;
        count = 1;
    }
    pay(core, count, size)?;
    Ok(count)
}

/// Checks a message, and keeps it as an event and in the record as far as they want it.
fn keep(core: &mut Core, link: &Link, device: &str, message: &[u8]) -> Result<(), DecodeError> {
    let sections = Sections::decode(message)?;
    if let (Some(partition), Some(stamps)) = (link.partition, &link.stamps) {
        core.batch.events.push(partition, stamps, message);
    }
    record(core, link, device, &sections)
}

/// Keeps of a message what the record's mode asks for.
fn record(
    core: &mut Core,
    link: &Link,
    device: &str,
    sections: &Sections<'_>,
) -> Result<(), DecodeError> {
    let mode = core.hub.record.mode();
    if mode == RecordMode::Count {
        return Ok(());
    }
    let mut accepted = Accepted::bare(device, core.now.system, core.peer.id);
    if matches!(mode, RecordMode::Full | RecordMode::Recent(_)) {
        describe(&mut accepted, sections)?;
        accepted.stamps = link.stamps.clone();
        sections.each_annotation(|name, value| {
            accepted.annotations.insert(name.to_owned(), value);
        })?;
    } else {
        accepted.message_id = display_id(sections.properties()?.message_id);
    }
    core.batch.kept.push(accepted);
    Ok(())
}

/// Notes what the hub meters of a message.
fn describe(accepted: &mut Accepted, sections: &Sections<'_>) -> Result<(), DecodeError> {
    let properties = sections.properties()?;
    accepted.message_id = display_id(properties.message_id);
    accepted.correlation_id = display_id(properties.correlation_id);
    accepted.content_type = properties.content_type.map(str::to_owned);
    accepted.content_encoding = properties.content_encoding.map(str::to_owned);
    accepted.user_id = properties
        .user_id
        .map(|user| String::from_utf8_lossy(user).into_owned());
    accepted.body = sections.body()?;
    sections.each_application_property(|name, value| {
        accepted.properties.insert(name.to_owned(), value);
    })
}
