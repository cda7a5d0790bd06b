//! The side that Event Hubs clients read telemetry from (Microsoft, "Read device-to-cloud messages
//! from the built-in endpoint" and "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide").
//!
//! It has the hub's own host name and port; its event hub is called as the hub is.

mod consumer;
pub(crate) mod encode;
pub(crate) mod management;
mod place;
pub(crate) mod selector;

pub(crate) use consumer::Consumer;

use super::codec::performative::Attach;
use super::core::Core;
use super::link::Kind;
use super::{AmqpError, Info, condition};
use crate::clock::iso8601;
use crate::guid::Guid;
use crate::hub::events::EventLog;
use crate::hub::peer::{Route, Subscriber};
use place::Place;

/// A link that may be.
pub(super) struct Granted {
    pub(super) kind: Kind,
    pub(super) consumer: Option<Box<Consumer>>,
}

/// Judges an attach; `None` if its address is none of this side's.
///
/// # Errors
/// Refuses what no token covers, what is not there, and what others have. Sends on who calls on the
/// hub's own address.
pub(super) fn judge(
    core: &Core,
    attach: &Attach<'_>,
    path: &[&str],
    route: Route,
) -> Result<Option<Granted>, AmqpError> {
    let own = entity(core);
    let Some(place) = place::resolve(path, attach.peer_receives, &own) else {
        return Ok(None);
    };
    let granted = |kind, consumer| Ok(Some(Granted { kind, consumer }));
    match place {
        Place::Management => {
            authorize_management(core)?;
            let kind = if attach.peer_receives {
                Kind::ManagementReplies
            } else {
                Kind::ManagementRequests
            };
            granted(kind, None)
        }
        Place::Partition {
            entity,
            group,
            partition,
        } => {
            authorize(core, path, "Listen")?;
            if !entity.eq_ignore_ascii_case(&own) {
                let text = no_such_entity(core, entity);
                return Err(AmqpError::new(condition::NOT_FOUND, text));
            }
            let subscriber = Subscriber {
                peer: std::sync::Arc::clone(&core.peer),
                route,
            };
            let consumer = Consumer::enter(core, attach, path, [group, partition], subscriber)?;
            granted(Kind::Events, Some(Box::new(consumer)))
        }
        Place::Producer { .. } => Err(unauthorized(core, path, "Send")),
        Place::BuiltIn { suffix } => {
            authorize(core, &["messages", "events"], "Listen")?;
            Err(redirect(core, &own, suffix))
        }
    }
}

/// The name of the event hub.
fn entity(core: &Core) -> String {
    core.hub.state().registry.short_name().to_owned()
}

/// Whether a token on the connection lets its holder read at `path`.
fn authorize(core: &Core, path: &[&str], claim: &str) -> Result<(), AmqpError> {
    if core.tokens.allow_events(path) {
        Ok(())
    } else {
        Err(unauthorized(core, path, claim))
    }
}

/// Whether a token on the connection lets its holder ask about the event hub.
pub(super) fn authorize_management(core: &Core) -> Result<(), AmqpError> {
    authorize(core, &[&entity(core), "$management"], "Manage,EventHub")
}

fn unauthorized(core: &Core, path: &[&str], claim: &str) -> AmqpError {
    let (host, path) = (&core.hub.host, path.join("/"));
    let text = format!(
        "Unauthorized access. '{claim}' claim(s) are required to perform this operation. Resource: 'sb://{host}/{path}'."
    );
    AmqpError::new(condition::UNAUTHORIZED, tracked(core, &text, "gateway5"))
}

fn no_such_entity(core: &Core, name: &str) -> String {
    let host = &core.hub.host;
    let text = format!("The messaging entity 'sb://{host}/{name}' could not be found.");
    tracked(core, &text, "gateway5")
}

fn no_such_partition(log: &EventLog) -> String {
    let last = log.partitions() - 1;
    format!(
        "The specified partition is invalid for an EventHub partition sender or receiver. It should be between 0 and {last}.\r\nParameter name: PartitionId"
    )
}

/// The number of a partition by its id.
fn partition(log: &EventLog, id: &str) -> Option<usize> {
    let number: usize = id.parse().ok()?;
    (number < log.partitions() && number.to_string() == id).then_some(number)
}

/// A text with what Event Hubs adds to help its operators.
fn tracked(core: &Core, text: &str, place: &str) -> String {
    let tracking = Guid::random().simple();
    let time = iso8601(core.now.system);
    let time = time.trim_end_matches('Z');
    format!("{text} TrackingId:{tracking}_G0, SystemTracker:{place}, Timestamp:{time}")
}

/// Sends a client on from the hub's own address. The port must stand in the new one: clients look
/// for it to find the path.
fn redirect(core: &Core, entity: &str, suffix: &[&str]) -> AmqpError {
    let host = &core.hub.host;
    let port = core.caller.cloud.addresses.amqps.port();
    let path = suffix.join("/");
    let address = format!("amqps://{host}:{port}/{entity}/{path}");
    let text = format!("The link is redirected to '{address}'.");
    AmqpError::new(condition::REDIRECT, text)
        .with("hostname", Info::Text(host.clone()))
        .with("network-host", Info::Text(host.clone()))
        .with("port", Info::Int(port.into()))
        .with("address", Info::Text(address))
}
