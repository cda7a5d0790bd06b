//! What a device publishes.

use std::sync::atomic::Ordering;

use super::device::Device;
use super::{Core, End};
use crate::faults::Settling;
use crate::hub::error::HubError;
use crate::mqtt::bag::Property;
use crate::mqtt::codec::{Publish, QoS};
use crate::mqtt::message;
use crate::mqtt::topic::{self, Publication};

impl Device {
    pub(super) fn published(&mut self, core: &mut Core, publish: Publish) -> Result<(), End> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(End::refused("QoS 2 is not supported"));
        }
        self.check_acks()?;
        let publication = topic::parse(&publish.topic, self.identity())
            .map_err(|error| End::Refused(format!("{error}: {}", publish.topic)))?;
        if !matches!(publication, Publication::Telemetry(_)) {
            core.hub.demand_standard_tier()?;
        }
        let settling = match publication {
            Publication::Telemetry(properties) => {
                self.telemetry(core, properties, &publish, None)?
            }
            Publication::MethodAnswer { status, request } => {
                self.answered(core, status, &request, &publish.payload)?;
                Settling::Now
            }
            Publication::TwinGet(request) => {
                self.twin_read(core, &request)?;
                Settling::Now
            }
            Publication::TwinPatch(request) => {
                self.twin_patched(core, &request, &publish.payload);
                Settling::Now
            }
        };
        if publish.qos == QoS::AtLeastOnce {
            self.acks.push(publish.pkid, settling, core.now.instant);
            self.send_acks(core);
        }
        Ok(())
    }

    /// Hands a message to the hub; tells how it is to be acknowledged.
    fn telemetry(
        &self,
        core: &Core,
        properties: Vec<Property>,
        publish: &Publish,
        kind: Option<&str>,
    ) -> Result<Settling, HubError> {
        let now = core.now;
        let mut message = message::telemetry(
            self.identity(),
            properties,
            &publish.payload,
            now.system,
            core.peer.id,
        );
        let mut set = |name: &str, value: &str| {
            message.properties.insert(name.to_owned(), value.to_owned());
        };
        if publish.retain {
            set("mqtt-retain", "true");
        }
        if let Some(kind) = kind {
            set("iothub-MessageType", kind);
        }
        let settling = core.hub.accept(vec![message], &self.sender, now)?;
        core.peer.messages.fetch_add(1, Ordering::Relaxed);
        Ok(settling)
    }

    /// Sends what the device has left for the case that it goes without a word.
    pub(super) fn send_will(&self, core: &Core, will: Publish) {
        let Ok(Publication::Telemetry(properties)) = topic::parse(&will.topic, self.identity())
        else {
            return;
        };
        if let Err(error) = self.telemetry(core, properties, &will, Some("Will")) {
            tracing::warn!(device.id = self.identity(), %error, "The will is not taken");
        }
    }
}
