//! How an attach is judged and answered (AMQP 1.0 section 2.6.3).

use std::collections::VecDeque;
use std::sync::Arc;

use super::address;
use super::codec::encode::{self, AttachReply};
use super::codec::performative::Attach;
use super::codec::read::Value;
use super::core::Core;
use super::events::{self, Consumer};
use super::link::{Kind, Link, Terms};
use super::session::{Session, Slot};
use super::{AmqpError, MAX_NAME, condition, endpoint};
use crate::faults::Attaching;
use crate::hub::Sender;
use crate::hub::error::ErrorCode;
use crate::hub::peer::Route;
use crate::hub::stamps::Stamps;

/// The max-message-size that a refused attach was seen to be answered with.
const REFUSED_SIZE: u64 = 262_144;

/// A link that may be: what it is for and whose.
struct Granted {
    kind: Kind,
    sender: Option<Sender>,
    consumer: Option<Box<Consumer>>,
}

impl Session {
    /// Opens a link, refuses it, or leaves it unanswered as a script may ask.
    ///
    /// # Errors
    /// A handle beyond what the hub takes, or one in use, ends the session.
    pub(super) fn on_attach(
        &mut self,
        core: &mut Core,
        attach: &Attach<'_>,
    ) -> Result<(), AmqpError> {
        let at = attach.handle as usize;
        if attach.handle > core.hub.limits.handle_max {
            return Err(AmqpError::new(
                condition::RESOURCE_LIMIT,
                "The handle is over handle-max.",
            ));
        }
        if self.slots.len() <= at {
            core.reserve_handles(at + 1 - self.slots.len())?;
            self.slots.resize_with(at + 1, Slot::default);
        }
        if !matches!(self.slots[at], Slot::Free) {
            let text = format!("Handle {} is in use.", attach.handle);
            return Err(AmqpError::new(condition::HANDLE_IN_USE, text));
        }
        endpoint::provisioning::show_certificate(core, attach.address().unwrap_or_default());
        match self.judge(core, attach) {
            Ok(None) => self.slots[at] = Slot::Deaf,
            Ok(Some(granted)) => self.open_link(core, attach, granted),
            Err(error) => {
                tracing::info!(link = attach.name, error = %error.condition, "Attach is refused");
                self.slots[at] = Slot::Deaf;
                self.answer(core, attach, None);
                encode::detach(
                    &mut core.out,
                    self.channel,
                    attach.handle,
                    true,
                    Some(&error),
                );
            }
        }
        Ok(())
    }

    /// What the link is and whose; `None` if the script wants no answer.
    fn judge(&self, core: &Core, attach: &Attach<'_>) -> Result<Option<Granted>, AmqpError> {
        if !core.has_room_for_link() {
            return Err(AmqpError::new(
                condition::RESOURCE_LIMIT,
                "The connection has too many links.",
            ));
        }
        let correlation = correlation_of(attach).unwrap_or_default();
        if attach.name.len() > MAX_NAME || correlation.len() > MAX_NAME {
            let text = format!("The name or correlation id of a link is over {MAX_NAME} bytes.");
            return Err(AmqpError::new(condition::INVALID_FIELD, text));
        }
        if self
            .names
            .contains(&(attach.name.into(), attach.peer_receives))
        {
            let text = format!(
                "A link with name '{}' is already attached in session {}.",
                attach.name, self.channel
            );
            return Err(AmqpError::new(condition::RESOURCE_LOCKED, text));
        }
        let address = attach.address().unwrap_or_default();
        if let Some(granted) = self.judge_reader(core, attach, address)? {
            return Ok(Some(granted));
        }
        let place = address::resolve(address, attach.peer_receives).ok_or_else(|| {
            let text =
                format!("The link address '{address}' did not match any of the expected formats.");
            core.refusal_as(condition::NOT_FOUND, ErrorCode::LinkAddressNotFound, &text)
        })?;
        if let Some(device) = &place.device {
            match core.hub.script.attaching(device) {
                Attaching::AsUsual => {}
                Attaching::Refuse(error) => return Err(error),
                Attaching::Withhold => return Ok(None),
            }
        }
        let kind = place.kind;
        let sender = core.authorize(kind, place.device.as_deref())?;
        if kind.is_device_receiver() {
            let opened = core.hub.state().openings.add(core.now.instant);
            opened.map_err(|error| core.refusal(&error))?;
        }
        Ok(Some(Granted {
            kind,
            sender,
            consumer: None,
        }))
    }

    /// Judges the attach of an Event Hubs client; `None` if it is none.
    fn judge_reader(
        &self,
        core: &Core,
        attach: &Attach<'_>,
        address: &str,
    ) -> Result<Option<Granted>, AmqpError> {
        let Some(segments) = address::segments(address) else {
            return Ok(None);
        };
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        let route = Route::pack(self.channel, attach.handle, core.next_serial());
        let granted = events::judge(core, attach, &path, route)?;
        Ok(granted.map(|granted| Granted {
            kind: granted.kind,
            sender: None,
            consumer: granted.consumer,
        }))
    }

    fn open_link(&mut self, core: &mut Core, attach: &Attach<'_>, granted: Granted) {
        let Granted {
            kind,
            sender,
            consumer,
        } = granted;
        let stamps = sender
            .as_ref()
            .filter(|_| kind == Kind::Telemetry)
            .map(|sender| announced(core, sender, attach));
        let partition = stamps
            .as_ref()
            .and_then(|stamps| core.hub.events.partition_of(&stamps.device_id));
        let device = sender.map(|sender| sender.identity);
        let handle = attach.handle;
        let name: Arc<str> = attach.name.into();
        self.names.insert((Arc::clone(&name), kind.hub_sends()));
        let full_credit = core
            .hub
            .script
            .credit()
            .unwrap_or_else(|| kind.credit(&core.hub.limits));
        let counter = (kind == Kind::Telemetry)
            .then(|| {
                device
                    .as_deref()
                    .map(|device| core.hub.record.counter(device))
            })
            .flatten();
        let activity = (kind == Kind::Telemetry)
            .then(|| core.hub.state().activity(device.as_deref()?))
            .flatten();
        let mut terms = kind.terms();
        if consumer
            .as_ref()
            .is_some_and(|consumer| consumer.presettled)
        {
            terms.sender_settle_mode = Some(1);
        }
        let correlation = correlation_of(attach);
        self.join_pair(core, handle, kind, device.as_ref(), correlation);
        let link = Link {
            name,
            kind,
            serial: core.link_opened(device.as_ref()),
            delivery_count: if kind.hub_sends() {
                0
            } else {
                attach.initial_delivery_count
            },
            credit: if kind.hub_sends() { 0 } else { full_credit },
            full_credit,
            held: 0,
            drain: false,
            waits_for_window: false,
            unsent: 0,
            partial: None,
            outbox: VecDeque::new(),
            correlation: correlation.map(Into::into),
            counter,
            activity,
            consumer,
            stamps,
            partition,
            device,
        };
        tracing::debug!(device.id = link.device.as_deref(), ?kind, "Link is open");
        self.slots[handle as usize] = Slot::Open(Box::new(link));
        self.answer(core, attach, Some(terms));
        if !kind.hub_sends() {
            self.send_flow(core, Some(handle));
        }
        self.subscribe(core, handle);
    }

    /// The hub's attach: an echo of the peer's, or with null termini if the link is refused.
    fn answer(&self, core: &mut Core, attach: &Attach<'_>, terms: Option<Terms>) {
        let reply = AttachReply {
            name: attach.name,
            handle: attach.handle,
            hub_receives: !attach.peer_receives,
            sender_settle_mode: terms.and_then(|terms| terms.sender_settle_mode),
            receiver_settle_mode: terms.and_then(|terms| terms.receiver_settle_mode),
            source: terms.and(attach.source),
            target: terms.and(attach.target),
            max_message_size: terms.map_or(Some(REFUSED_SIZE), |terms| terms.max_message_size),
            properties: attach.properties,
        };
        encode::attach(&mut core.out, self.channel, &reply);
    }
}

/// What tells which links are a pair.
fn correlation_of<'a>(attach: &Attach<'a>) -> Option<&'a str> {
    let correlation = attach.property("com.microsoft:channel-correlation-id");
    correlation.and_then(Value::text)
}

/// What to write onto the telemetry of a link; notes the Plug and Play model that the device says it
/// is of (the Java SDK's `AmqpsSenderLinkHandler`).
fn announced(core: &Core, sender: &Sender, attach: &Attach<'_>) -> Arc<Stamps> {
    let mut state = core.hub.state();
    let model = attach.property("com.microsoft:model-id");
    if let Some(model) = model.and_then(Value::text) {
        state.announce_model(&sender.identity, model);
    }
    state.stamps(sender)
}
