//! The hub's identity registry: who is there, and the check of a token against it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use super::access::{AccessError, AuthMethod, Grant, Policy, Principal};
use super::device::{Auth, Device};
use super::identity;
pub(crate) use super::keys::KeyPair;
pub use super::keys::{DeviceKeys, WhichKey};
use super::sas::SasToken;
use crate::clock::{Ticks, unix_seconds};
use crate::guid::random_bytes;
use crate::limits::Checks;
use crate::tls::Thumbprints;

/// Longest id of a device or module (Microsoft, "Understand the identity registry").
const MAX_ID: usize = 128;

/// The hub's identity registry.
#[derive(Debug)]
pub(crate) struct Registry {
    host: String,
    /// Devices and their modules by identity, so that a device's modules follow it.
    devices: BTreeMap<Arc<str>, Box<Device>>,
    /// How many of them are modules.
    modules: usize,
    policies: Vec<Policy>,
    group_key: Arc<[u8]>,
    auto_register: bool,
    /// A script has moved the hub away: nobody is known.
    away: bool,
    /// What is enforced of the rules about who may do what.
    pub(crate) checks: Checks,
    /// Devices that may have changed since they were last stored; nothing if they are not stored.
    changed: Option<BTreeSet<Arc<str>>>,
    /// Whether the hub's own keys have.
    keys_changed: bool,
}

impl Registry {
    pub(crate) fn new(host: &str, auto_register: bool) -> Self {
        Self {
            host: host.to_owned(),
            devices: BTreeMap::new(),
            modules: 0,
            policies: Policy::built_in(),
            group_key: Arc::new(random_bytes::<32>()),
            auto_register,
            away: false,
            checks: Checks::default(),
            changed: None,
            keys_changed: false,
        }
    }

    /// Starts to remember which devices change.
    pub(crate) fn track_changes(&mut self) {
        self.changed = Some(self.devices.keys().cloned().collect());
    }

    /// The devices that may have changed since this was last asked.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<Arc<str>> {
        self.changed
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Whether the hub's own keys have changed since this was last asked.
    pub(crate) fn take_keys_changed(&mut self) -> bool {
        std::mem::take(&mut self.keys_changed)
    }

    /// Remembers that the hub's own keys have changed.
    pub(crate) fn touch_keys(&mut self) {
        self.keys_changed = true;
    }

    /// Remembers that a device may have changed.
    pub(crate) fn touch(&mut self, id: &str) {
        if let Some(changed) = &mut self.changed
            && !changed.contains(id)
        {
            changed.insert(id.into());
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The host name up to its first dot, as the hub names itself in its texts.
    pub(crate) fn short_name(&self) -> &str {
        self.host.split('.').next().unwrap_or_default()
    }

    pub(crate) fn group_key(&self) -> &[u8] {
        &self.group_key
    }

    pub(crate) fn set_group_key(&mut self, key: Vec<u8>) {
        self.group_key = key.into();
    }

    pub(crate) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    pub(crate) fn policies_mut(&mut self) -> &mut [Policy] {
        &mut self.policies
    }

    pub(crate) fn policy(&self, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    /// Gives a policy one new key; returns both.
    pub(crate) fn regenerate_policy_key(
        &mut self,
        name: &str,
        which: WhichKey,
    ) -> Option<&KeyPair> {
        let mut policies = self.policies.iter_mut();
        let policy = policies.find(|policy| policy.name == name)?;
        policy.keys = policy.keys.regenerate(which);
        self.keys_changed = true;
        Some(&policy.keys)
    }

    /// All devices and modules, in the order of their identities.
    pub(crate) fn devices(&self) -> impl Iterator<Item = (&Arc<str>, &Device)> {
        self.after(None)
    }

    /// The devices and modules whose identities come after `last`.
    pub(crate) fn after(&self, last: Option<&str>) -> impl Iterator<Item = (&Arc<str>, &Device)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.devices
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(id, device)| (id, &**device))
    }

    /// The modules of a device.
    pub(crate) fn modules(&self, device: &str) -> impl Iterator<Item = (&Arc<str>, &Device)> {
        let prefix = identity::module(device, "");
        let from = Bound::Included(&*prefix);
        self.devices
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(id, _)| id.starts_with(&prefix))
            .map(|(id, device)| (id, &**device))
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Device> {
        self.devices.get(id).map(|device| &**device)
    }

    /// A device or module to be changed in what need not be stored.
    pub(crate) fn peek_mut(&mut self, id: &str) -> Option<&mut Device> {
        self.devices.get_mut(id).map(|device| &mut **device)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Device> {
        self.touch(id);
        self.devices.get_mut(id).map(|device| &mut **device)
    }

    pub(crate) fn count_devices(&self) -> usize {
        self.devices.len() - self.modules
    }

    /// Registers a device unless it is there already; its keys derive from the group key if the hub
    /// registers by itself, and are random otherwise.
    pub(crate) fn add(&mut self, id: &str) -> &mut Device {
        self.touch(id);
        match self.devices.entry(id.into()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.modules += usize::from(id.contains('/'));
                let keys = if self.auto_register {
                    KeyPair::derived(&self.group_key, id)
                } else {
                    KeyPair::random()
                };
                entry.insert(Box::new(Device::new(keys, Ticks::now())))
            }
        }
    }

    /// Registers a device or module, in the place of one of the same name.
    pub(crate) fn insert(&mut self, id: &str, device: Device) {
        self.touch(id);
        if self.devices.insert(id.into(), Box::new(device)).is_none() {
            self.modules += usize::from(id.contains('/'));
        }
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<Device> {
        self.touch(id);
        let device = self.devices.remove(id)?;
        self.modules -= usize::from(id.contains('/'));
        Some(*device)
    }

    /// Moves the hub away, or back.
    pub(crate) fn set_away(&mut self, away: bool) {
        self.away = away;
    }

    pub(crate) fn is_away(&self) -> bool {
        self.away
    }

    fn check_present(&self) -> Result<(), AccessError> {
        if self.away {
            let hub = self.short_name().to_owned();
            return Err(AccessError::Away { hub });
        }
        Ok(())
    }

    /// The registered identity, if it exists and is enabled; a module only if its device is as well.
    pub(crate) fn usable(&mut self, id: &str) -> Result<Arc<str>, AccessError> {
        self.check_present()?;
        if self.auto_register && !self.devices.contains_key(id) && is_valid_id(id) {
            self.add(id);
        }
        self.enabled(id)
    }

    fn enabled(&self, id: &str) -> Result<Arc<str>, AccessError> {
        let names = || (id.to_owned(), self.short_name().to_owned());
        let all = !self.checks.disabled;
        let is_enabled = |id: &str| self.get(id).is_some_and(|device| all || device.enabled);
        match self.devices.get_key_value(id) {
            None => {
                let (identity, hub) = names();
                Err(AccessError::NotRegistered { identity, hub })
            }
            Some((id, _)) if is_enabled(id) && is_enabled(identity::split(id).0) => {
                Ok(Arc::clone(id))
            }
            Some(_) => {
                let (identity, hub) = names();
                Err(AccessError::Disabled { identity, hub })
            }
        }
    }

    /// The registered identity, if it is enabled and the certificate is its own.
    ///
    /// Of a device that is vouched for by an authority any certificate is taken: the chain is not
    /// verified. Nobody is registered at first sight: a certificate proves nothing of a stranger.
    pub(crate) fn check_certificate(
        &self,
        id: &str,
        shown: &Thumbprints,
    ) -> Result<Arc<str>, AccessError> {
        self.check_present()?;
        let id = self.enabled(id)?;
        let fits = match self.get(&id).map(|device| &device.auth) {
            Some(Auth::SelfSigned(own)) => own.fit(shown),
            Some(Auth::CertificateAuthority) => true,
            Some(Auth::Sas(_) | Auth::Nothing) | None => false,
        };
        if fits {
            Ok(id)
        } else {
            Err(AccessError::Certificate)
        }
    }

    /// Checks a token: form, audience, identity, signature, expiry.
    pub(crate) fn check_token(
        &mut self,
        text: &str,
        now: SystemTime,
    ) -> Result<Grant, AccessError> {
        self.check_present()?;
        let token = SasToken::parse(text).map_err(|_| AccessError::Malformed)?;
        if self.checks.scope && !token.resource.is_on(&self.host) {
            return Err(AccessError::Audience);
        }
        let (principal, keys) = match &token.policy {
            Some(name) => {
                let policy = self.policy(name).ok_or(AccessError::Signature)?;
                let resource = if self.checks.scope {
                    token.resource.clone()
                } else {
                    token.resource.whole()
                };
                (
                    Principal::Policy {
                        name: policy.name,
                        rights: policy.rights,
                        resource,
                    },
                    policy.keys.clone(),
                )
            }
            None => {
                let id = token.identity(|id| self.get(id).is_some());
                let id = id.ok_or(AccessError::Audience)?;
                if self.auto_register && self.get(&id).is_none() {
                    // Whoever cannot sign shall not fill the registry.
                    let keys = KeyPair::derived(&self.group_key, &id);
                    if self.checks.signature && !keys.signed(&token) {
                        return Err(AccessError::Signature);
                    }
                }
                let id = self.usable(&id)?;
                // A device that shows certificates has no key to sign with.
                let keys = self.get(&id).and_then(Device::keys).cloned();
                (Principal::Device(id), keys.ok_or(AccessError::Signature)?)
            }
        };
        // Event Hubs clients sign with the text of a policy's key, for the event hub of this name.
        let is_for_events = token.policy.is_some() && token.resource.is_below(self.short_name());
        let signed = keys.signed(&token) || is_for_events && keys.signed_as_text(&token);
        if self.checks.signature && !signed {
            return Err(AccessError::Signature);
        }
        if self.checks.expiry && token.expiry <= unix_seconds(now) {
            return Err(AccessError::Expired);
        }
        let expiry = if self.checks.expiry {
            token.expiry
        } else {
            u64::MAX
        };
        Ok(Grant { principal, expiry })
    }
}

/// Whether a device or a module may have this id.
pub(crate) fn is_valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.+%_#*?!(),:=@$'".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HUB: &str = "hub.test";

    fn registry() -> Registry {
        let mut registry = Registry::new(HUB, false);
        registry.add("dev1");
        registry
    }

    fn check(registry: &mut Registry, text: &str) -> Result<Grant, AccessError> {
        registry.check_token(text, SystemTime::UNIX_EPOCH + Duration::from_secs(1000))
    }

    #[test]
    fn either_key_of_a_device_speaks_for_it() {
        let mut registry = registry();
        let keys = registry.get("dev1").unwrap().keys().cloned().unwrap();
        for key in [keys.primary(), keys.secondary()] {
            let grant = check(
                &mut registry,
                &super::super::sas::sign("hub.test/devices/dev1", key, 2000, None),
            );
            assert!(grant.unwrap().principal.may_act_as("dev1"));
        }
    }

    #[test]
    fn a_token_is_refused_for_the_reason_it_is_bad() {
        let mut registry = registry();
        let keys = registry.get("dev1").unwrap().keys().cloned().unwrap();
        let key = keys.primary();
        let sign = |resource: &str, expiry| super::super::sas::sign(resource, key, expiry, None);
        let refused = |registry: &mut Registry, text: &str| check(registry, text).unwrap_err();
        assert_eq!(refused(&mut registry, "nonsense"), AccessError::Malformed);
        assert_eq!(
            refused(&mut registry, &sign("hub.test/devices/dev1", 999)),
            AccessError::Expired
        );
        assert_eq!(
            refused(&mut registry, &sign("other/devices/dev1", 2000)),
            AccessError::Audience
        );
        assert_eq!(
            refused(&mut registry, &sign("hub.test/devices/dev2", 2000)).status(),
            404
        );
        registry.add("dev2");
        assert_eq!(
            refused(&mut registry, &sign("hub.test/devices/dev2", 2000)),
            AccessError::Signature
        );
        registry.get_mut("dev1").unwrap().enabled = false;
        assert_eq!(
            refused(&mut registry, &sign("hub.test/devices/dev1", 2000)).status(),
            404
        );
    }

    #[test]
    fn a_policy_token_reaches_as_far_as_its_resource_and_rights() {
        let mut registry = registry();
        let mut grant = |policy: &str, resource: &str| {
            let keys = registry.policy(policy).unwrap().keys.clone();
            let token = super::super::sas::sign(resource, keys.primary(), 2000, Some(policy));
            check(&mut registry, &token).unwrap().principal
        };
        assert!(grant("device", HUB).may_act_as("dev1"));
        assert!(grant("device", "hub.test/devices").may_act_as("dev1"));
        assert!(!grant("device", "hub.test/devices/dev2").may_act_as("dev1"));
        assert!(!grant("service", HUB).may_act_as("dev1"));
        assert!(grant("service", HUB).may_serve(&["messages"]));
        assert!(!grant("device", HUB).may_serve(&["messages"]));
    }
}
