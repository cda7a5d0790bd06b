//! What all links of devices have in common: addresses and properties.

use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::primitives::{Symbol, Value};
use gateway_core::credential::sas_resource;

use crate::device::Device;
use crate::env::Env;

/// The properties that every link carries.
pub(crate) fn client_properties() -> Fields {
    let mut properties = Fields::new();
    let version = concat!("iot-gateway/", env!("CARGO_PKG_VERSION"));
    properties.insert(
        Symbol::from("com.microsoft:client-version"),
        Value::String(version.to_owned()),
    );
    properties
}

/// The address of one of a device's nodes at the hub.
pub(crate) fn address(env: &Env, device: &Device, path: &str) -> String {
    format!(
        "amqps://{}/{path}",
        sas_resource(&env.config.host, &device.id)
    )
}
