//! Who is registered, and how they connect.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::HubSimulator;
use crate::connection_string::{ConnectionString, KeyOwner};
use crate::hub::registry::{DeviceKeys, KeyPair, WhichKey};

impl HubSimulator {
    /// Registers a device unless it is registered, and returns its keys; empty ones if it is there
    /// and shows certificates instead.
    pub fn add_device(&self, id: &str) -> DeviceKeys {
        self.keys_of(id).encoded()
    }

    fn keys_of(&self, id: &str) -> KeyPair {
        let mut state = self.hub.state();
        state.registry.add(id).keys().cloned().unwrap_or_default()
    }

    /// Registers many devices.
    pub fn add_devices<I>(&self, ids: I)
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut state = self.hub.state();
        for id in ids {
            state.registry.add(id.as_ref());
        }
    }

    /// Returns the keys of a registered device.
    #[must_use]
    pub fn device_keys(&self, id: &str) -> Option<DeviceKeys> {
        let state = self.hub.state();
        Some(state.registry.get(id)?.keys()?.encoded())
    }

    /// Enables or disables a device; a disabled one loses its links. Returns whether it is registered.
    pub fn set_enabled(&self, id: &str, enabled: bool) -> bool {
        self.hub.set_enabled(id, enabled)
    }

    /// Gives a device new keys; tokens put before stay good until they expire.
    pub fn rotate_keys(&self, id: &str) -> Option<DeviceKeys> {
        let mut state = self.hub.state();
        let device = state.registry.get_mut(id)?;
        let keys = KeyPair::random();
        device.set_keys(keys.clone());
        Some(keys.encoded())
    }

    /// Gives a device one new key and returns both; none if it is not registered or has no keys.
    /// Tokens put before stay good until they expire.
    pub fn regenerate_key(&self, id: &str, which: WhichKey) -> Option<DeviceKeys> {
        let mut state = self.hub.state();
        let device = state.registry.get_mut(id)?;
        let keys = device.keys()?.regenerate(which);
        device.set_keys(keys.clone());
        Some(keys.encoded())
    }

    /// Returns the keys of a built-in policy; none if there is no such policy.
    #[must_use]
    pub fn policy_keys(&self, policy: &str) -> Option<DeviceKeys> {
        let state = self.hub.state();
        Some(state.registry.policy(policy)?.keys.encoded())
    }

    /// Gives a built-in policy one new key and returns both; none if there is no such policy. Tokens
    /// put before stay good until they expire.
    pub fn regenerate_policy_key(&self, policy: &str, which: WhichKey) -> Option<DeviceKeys> {
        let mut state = self.hub.state();
        let keys = state.registry.regenerate_policy_key(policy, which)?;
        Some(keys.encoded())
    }

    /// Removes a device with its modules: its links are detached, its messages purged. Returns whether it was there.
    pub fn remove_device(&self, id: &str) -> bool {
        self.hub.remove_identity(id)
    }

    /// Returns the connection string of a built-in policy: `iothubowner`, `service`, `device`,
    /// `registryRead` or `registryReadWrite`.
    ///
    /// # Panics
    /// Panics on any other name.
    #[must_use]
    pub fn policy_connection_string(&self, policy: &str) -> String {
        let state = self.hub.state();
        let keys = state
            .registry
            .policy(policy)
            .expect("the hub has the built-in policies only")
            .keys
            .clone();
        drop(state);
        let owner = KeyOwner::Policy(policy.to_owned());
        ConnectionString::new(self.host(), owner, keys.primary()).to_string()
    }

    /// Returns the connection string that Event Hubs clients read telemetry with, in the name of the
    /// policy `iothubowner`. They call on port 5671 unless told otherwise.
    #[must_use]
    pub fn eventhub_connection_string(&self) -> String {
        const POLICY: &str = "iothubowner";
        let state = self.hub.state();
        let registry = &state.registry;
        let policy = registry.policy(POLICY);
        let key = policy.map(|policy| policy.keys.encoded().primary);
        let (host, entity) = (self.host(), registry.short_name());
        format!(
            "Endpoint=sb://{host}/;SharedAccessKeyName={POLICY};SharedAccessKey={};EntityPath={entity}",
            key.unwrap_or_default()
        )
    }

    /// Returns the connection string of a device, which is registered if it is not yet.
    #[must_use]
    pub fn device_connection_string(&self, id: &str) -> String {
        let keys = self.keys_of(id);
        ConnectionString::new(self.host(), KeyOwner::Device(id.to_owned()), keys.primary())
            .to_string()
    }

    /// Returns the key, in base64, that keys of automatically registered devices derive from.
    #[must_use]
    pub fn group_key(&self) -> String {
        BASE64.encode(self.hub.state().registry.group_key())
    }
}
