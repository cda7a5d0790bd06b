//! What the hub writes onto every message of a sender.

use std::sync::Arc;

use super::identity;
use super::registry::AuthMethod;

/// Who sent a telemetry message and how that was proved; a device cannot forge it.
///
/// Source: Microsoft, "Create and read IoT Hub messages", system properties of D2C messages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stamps {
    /// `iothub-connection-device-id`.
    pub device_id: String,
    /// `iothub-connection-module-id`; none for a device's own message.
    pub module_id: Option<String>,
    /// `iothub-connection-auth-method`: a JSON object.
    pub auth_method: &'static str,
    /// `iothub-connection-auth-generation-id`: tells a device from one of the same name before it.
    pub generation_id: String,
    /// `dt-dataschema`: the Plug and Play model that the device says it is of, if it does.
    pub model_id: Option<String>,
}

impl Stamps {
    pub(crate) fn new(
        sender: &str,
        auth: AuthMethod,
        generation: u64,
        model: Option<&str>,
    ) -> Arc<Self> {
        let (device, module) = identity::split(sender);
        Arc::new(Self {
            device_id: device.to_owned(),
            module_id: module.map(str::to_owned),
            auth_method: auth.stamp(),
            generation_id: generation.to_string(),
            model_id: model.map(str::to_owned),
        })
    }
}
