//! What several tests share.

use std::time::{Duration, SystemTime};

use gateway_core::credential::{
    HubPolicyCredentials, SasToken, SharedAccessPolicy, SymmetricKey, sas_resource,
};
use gateway_core::{DeviceId, MessageId, Uplink};

pub(crate) fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

pub(crate) fn uplink(device: &DeviceId, id: &str) -> Uplink {
    Uplink::new(device.clone(), MessageId::new(id).unwrap(), id.to_owned())
}

pub(crate) fn key() -> SymmetricKey {
    SymmetricKey::from_base64("c2VjcmV0").unwrap()
}

pub(crate) fn policy() -> HubPolicyCredentials {
    HubPolicyCredentials::new(SharedAccessPolicy::new("device", key()))
}

pub(crate) fn token(device: &DeviceId, key: &SymmetricKey, life: Duration) -> SasToken {
    SasToken::sign(&sas_resource("hub", device), key, SystemTime::now() + life)
}
