//! The door for what a network server tells.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::{
    DeviceId, ErrorKind, MessageId, Properties, Settlement, Slot, Uplink as Message,
};
use tokio::time::Instant;

use super::config::ReportConfig;
use super::directory::Device;
use super::shared::Shared;
use crate::event::{DevAddr, DevEui, DeviceAck, DownlinkFailed, Event, Join, TransmitAck, Uplink};
use crate::hex::Digits;
use crate::payload::telemetry::{self, Reading, TelemetryForm};
use crate::payload::{CodecError, DecodeInput, Decoded, guard};
use crate::schedule::Actions;

/// Takes what happens in a LoRaWAN network. Cheap to clone: all clones are one.
///
/// Until the gateway runs, what is for the hub waits.
#[derive(Clone)]
pub struct NetworkEvents(pub(super) Arc<Shared>);

impl fmt::Debug for NetworkEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkEvents").finish_non_exhaustive()
    }
}

impl NetworkEvents {
    /// Takes any event, and says what became of the message that it makes; `Accepted` where it makes
    /// none.
    ///
    /// # Cancel safety
    /// As [`uplink`](Self::uplink).
    pub async fn handle(&self, event: Event) -> Settlement {
        self.handle_as(event, MessageId::random()).await
    }

    /// Takes any event, for the first time or again; its message has this id, unless the event gives
    /// it one.
    pub(crate) async fn handle_as(&self, event: Event, id: MessageId) -> Settlement {
        match event {
            Event::Uplink(uplink) => return self.uplink(uplink).await,
            Event::Join(join) => return self.join(join).await,
            Event::TransmitAck(ack) => self.transmit_ack(ack).await,
            Event::DeviceAck(ack) => self.device_ack(ack).await,
            Event::DownlinkFailed(failed) => self.downlink_failed(failed).await,
            event @ (Event::Status(_) | Event::Located(_) | Event::Log(_)) => {
                return self.report(event, id).await;
            }
        }
        Settlement::Accepted
    }

    /// Takes a frame, gives the command that is to go in its receive windows to the network server,
    /// and says what the hub made of it. Hand in one frame of a device after the other: that is
    /// their order at the hub.
    ///
    /// A frame that is handed in again after [`Settlement::RetryLater`] has the same message id:
    /// its [deduplication id](Uplink::deduplication_id), or else DevEUI, DevAddr and counter. Set
    /// its [window](Uplink::window) to zero then: that has passed, and the frame does not count as
    /// another one of the device. Handed in twice for another reason, as by a broker that delivers at
    /// least once, it is two messages with one id, by which whoever reads them at the hub knows that
    /// they are the same.
    ///
    /// To devices that want an acknowledgement it is a promise: give it after
    /// [`Settlement::Accepted`], and not before.
    ///
    /// # Cancel safety
    /// Safe; the hub may or may not have the message. A command that was being given to the network
    /// server is given back to the hub after its deadline.
    pub async fn uplink(&self, uplink: Uplink) -> Settlement {
        let again = uplink.window == Some(Duration::ZERO);
        let heard = Instant::now();
        let closes = self.closes(&uplink, heard);
        self.hand_in(&uplink, heard, closes, again, &mut None).await
    }

    /// Tells until when the windows of a frame that came then can be used.
    pub(crate) fn closes(&self, uplink: &Uplink, came: Instant) -> Instant {
        came + uplink.window.unwrap_or(self.0.config.window)
    }

    /// Takes a frame that was heard then and whose windows can be used until `closes`, for the first
    /// time or again; see [`uplink`](Self::uplink). What its device's codec reads in it is kept in
    /// `reading` for the next time.
    pub(crate) async fn hand_in(
        &self,
        uplink: &Uplink,
        heard: Instant,
        closes: Instant,
        again: bool,
        reading: &mut Reading,
    ) -> Settlement {
        let _in_flight = self.0.in_flight.token();
        let dev_eui = uplink.dev_eui;
        if let Err(error) = uplink.validate() {
            tracing::debug!(device.id = %dev_eui, error = %error, "Uplink refused");
            return Settlement::Rejected(ErrorKind::Rejected);
        }
        let Some(device) = self.find(dev_eui) else {
            return Settlement::Rejected(ErrorKind::UnknownDevice);
        };
        let now = Instant::now();
        let actions = match again {
            // Its device has said nothing more.
            true => Actions::new(),
            false => (self.0.schedule()).uplink_heard(dev_eui, heard, now, closes),
        };
        let window = (now < closes).then_some(closes);
        self.0.listen(&device, dev_eui, window);
        if uplink.port.is_none() && !self.0.config.reports.empty {
            // Larger than the usual way.
            Box::pin(self.0.perform(actions)).await;
            return Settlement::Accepted;
        }
        if actions.is_empty() {
            // Not kept meanwhile.
            drop(actions);
            return self.pass_on(device, uplink, reading).await;
        }
        // Rare, and as large again.
        let passed_on = self.pass_on(device, uplink, reading);
        let both = async { tokio::join!(self.0.perform(actions), passed_on) };
        let ((), settlement) = Box::pin(both).await;
        settlement
    }

    /// Makes a frame a message, and says what the hub made of that.
    async fn pass_on(&self, device: Device, uplink: &Uplink, reading: &mut Reading) -> Settlement {
        if matches!(reading, None | Some(Err(CodecError::Busy))) {
            *reading = read(&device, uplink).await;
        }
        let slot = self.slot().await;
        slot.deliver(message(device, uplink, reading)).await
    }

    /// Takes a join, and says what the hub made of it.
    ///
    /// # Cancel safety
    /// Safe; the hub may or may not have the message.
    pub async fn join(&self, join: Join) -> Settlement {
        if let Some(device) = self.find(join.dev_eui) {
            self.0.listen(&device, join.dev_eui, None);
        }
        let id = format!("{}-join-{}", join.dev_eui, join.dev_addr);
        let id = MessageId::new(id).unwrap_or_else(|_| MessageId::random());
        self.report(Event::Join(join), id).await
    }

    /// Takes what a concentrator said of a downlink. It returns when the network server has taken
    /// the command that goes next, if one does.
    ///
    /// # Cancel safety
    /// Safe; a command that was being given to the network server is given back to the hub after
    /// its deadline.
    pub async fn transmit_ack(&self, ack: TransmitAck) {
        let actions = self.0.schedule().transmitted(&ack, Instant::now());
        self.0.perform(actions).await;
    }

    /// Takes a device's word on a confirmed downlink. It returns when the network server has taken
    /// the command that goes next, if one does.
    ///
    /// # Cancel safety
    /// As [`transmit_ack`](Self::transmit_ack).
    pub async fn device_ack(&self, ack: DeviceAck) {
        let actions = self.0.schedule().acknowledged(&ack, Instant::now());
        self.0.perform(actions).await;
    }

    /// Takes the end of a downlink that never came to a concentrator. It returns when the network
    /// server has taken the command that goes next, if one does.
    ///
    /// # Cancel safety
    /// As [`transmit_ack`](Self::transmit_ack).
    pub async fn downlink_failed(&self, failed: DownlinkFailed) {
        let actions = self.0.schedule().failed(&failed, Instant::now());
        self.0.perform(actions).await;
    }

    fn find(&self, dev_eui: DevEui) -> Option<Device> {
        let device = self.0.directory.device(dev_eui);
        if device.is_none() {
            tracing::debug!(device.id = %dev_eui, "Device is not in the directory");
        }
        device
    }

    /// Makes an event that is no uplink a message, if it is to be one.
    async fn report(&self, event: Event, id: MessageId) -> Settlement {
        let _in_flight = self.0.in_flight.token();
        let Some(device) = self.find(event.dev_eui()) else {
            return Settlement::Rejected(ErrorKind::UnknownDevice);
        };
        let ReportConfig {
            joins,
            status,
            locations,
            logs,
            ..
        } = self.0.config.reports;
        let (name, is_wanted) = match event {
            Event::Join(_) => ("join", joins),
            Event::Status(_) => ("status", status),
            Event::Located(_) => ("location", locations),
            Event::Log(_) => ("log", logs),
            _ => return Settlement::Accepted,
        };
        match telemetry::report(&event).filter(|_| is_wanted) {
            Some(body) => {
                let slot = self.slot().await;
                slot.deliver(json(device.id, id, body, name)).await
            }
            None => Settlement::Accepted,
        }
    }

    async fn slot(&self) -> Slot {
        self.0.ingress.wait().await.reserve().await
    }
}

/// Lets the device's codec read the payload.
async fn read(device: &Device, uplink: &Uplink) -> Reading {
    let (codec, port) = device.profile.codec.as_ref().zip(uplink.port)?;
    let input = DecodeInput::new(port, uplink.payload.clone(), uplink.received_at);
    let decoded = guard(codec.decode(input)).await;
    let result = decoded.and_then(Decoded::bounded);
    if let Err(error) = &result {
        let device = &device.id;
        tracing::debug!(device.id = %device, error = %error, "Payload not decoded");
    }
    Some(result)
}

/// Makes the hub's message of an uplink.
fn message(device: Device, uplink: &Uplink, reading: &Reading) -> Message {
    let id = message_id(uplink);
    let mut message = match device.profile.config.telemetry {
        TelemetryForm::Json => json(
            device.id,
            id,
            telemetry::own_uplink(uplink, reading),
            "uplink",
        ),
        TelemetryForm::StarterKit => {
            let body = telemetry::starter_kit_uplink(uplink, reading);
            json(device.id, id, body, "uplink")
        }
        TelemetryForm::Raw => raw(device.id, id, uplink),
    };
    message.system.created_at = Some(uplink.received_at);
    message
}

fn message_id(uplink: &Uplink) -> MessageId {
    let given = uplink.deduplication_id.as_ref().map(MessageId::new);
    given.and_then(Result::ok).unwrap_or_else(|| {
        let address = uplink.dev_addr.unwrap_or(DevAddr::new([0; 4]));
        let dev_eui = Digits::new(&uplink.dev_eui.bytes());
        let address = Digits::new(&address.bytes());
        let (dev_eui, address) = (dev_eui.as_str(), address.as_str());
        let id = format!("{dev_eui}-{address}-{}", uplink.frame_counter);
        // Digits and hyphens, some 40: always an id.
        MessageId::new(id).unwrap_or_else(|_| MessageId::random())
    })
}

/// Makes a message of JSON text; the property `event` tells what it is about.
pub(super) fn json(device: DeviceId, id: MessageId, body: Bytes, event: &'static str) -> Message {
    let properties = Properties::from_iter([("event", event)]);
    Message::new(device, id, body)
        .with_properties(properties)
        .with_content("application/json", Some("utf-8"))
}

fn raw(device: DeviceId, id: MessageId, uplink: &Uplink) -> Message {
    let mut properties = Properties::new();
    properties.insert("event", "uplink");
    if let Some(port) = uplink.port {
        properties.insert("lorawan-port", port.to_string());
    }
    properties.insert("lorawan-frame-counter", uplink.frame_counter.to_string());
    properties.insert("lorawan-confirmed", uplink.confirmed.to_string());
    Message::new(device, id, uplink.payload.clone())
        .with_properties(properties)
        .with_content("application/octet-stream", None)
}
