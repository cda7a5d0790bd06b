//! The tokens that a connection has put, and what they allow.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::hub::identity;
use crate::hub::registry::{AuthMethod, Grant, Principal};

/// Tokens by the name they were put under; the same name again renews.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    by_name: HashMap<Arc<str>, Grant>,
    /// The name of a token of each device that has one: the latest, while that is there.
    of_device: HashMap<Arc<str>, Arc<str>>,
    /// Names of the policy tokens.
    of_policies: Vec<Arc<str>>,
    expiries: BTreeSet<(u64, Arc<str>)>,
}

impl Tokens {
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(crate) fn put(&mut self, name: &str, grant: Grant) {
        self.remove(name);
        let name: Arc<str> = name.into();
        match &grant.principal {
            Principal::Device(device) => {
                self.of_device.insert(Arc::clone(device), Arc::clone(&name));
            }
            Principal::Policy { .. } => self.of_policies.push(Arc::clone(&name)),
        }
        self.expiries.insert((grant.expiry, Arc::clone(&name)));
        self.by_name.insert(name, grant);
    }

    /// Forgets a token; tells whether there was one of that name.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some((name, grant)) = self.by_name.remove_entry(name) else {
            return false;
        };
        self.expiries.remove(&(grant.expiry, Arc::clone(&name)));
        match &grant.principal {
            Principal::Device(device) => {
                if self.of_device.get(device) == Some(&name) {
                    self.of_device.remove(device);
                    let mut others = self.by_name.iter();
                    let other = others.find(|(_, other)| other.principal == grant.principal);
                    if let Some((other, _)) = other {
                        self.of_device.insert(Arc::clone(device), Arc::clone(other));
                    }
                }
            }
            Principal::Policy { .. } => self.of_policies.retain(|other| *other != name),
        }
        true
    }

    /// Forgets the tokens of a device and tells whether there were any.
    pub(crate) fn remove_of(&mut self, device: &str) -> bool {
        let mut any = false;
        while let Some(name) = self.of_device.get(device).cloned() {
            any |= self.remove(&name);
        }
        any
    }

    /// The earliest expiry, in seconds since the Unix epoch.
    pub(crate) fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|(expiry, _)| *expiry)
    }

    /// Drops the tokens that have expired by `unix_now` and tells whether there were any.
    pub(crate) fn expire(&mut self, unix_now: u64) -> bool {
        let mut any = false;
        while let Some((expiry, name)) = self.expiries.first().cloned()
            && expiry <= unix_now
        {
            self.remove(&name);
            any = true;
        }
        any
    }

    /// Drops a device's tokens, or all tokens, and tells whether there were any.
    pub(crate) fn drop_of(&mut self, device: Option<&str>) -> bool {
        match device {
            Some(device) => self.remove_of(device),
            None => !std::mem::take(self).by_name.is_empty(),
        }
    }

    /// How a token here lets its holder act as a device or module, if one does: as
    /// `Principal::may_act_as` has it, without a look at every token.
    pub(crate) fn acting_as(&self, id: &str) -> Option<AuthMethod> {
        let device = identity::split(id).0;
        if self.of_device.contains_key(id) || self.of_device.contains_key(device) {
            return Some(AuthMethod::IdentityKey);
        }
        self.policies()
            .any(|policy| policy.may_act_as(id))
            .then_some(AuthMethod::HubPolicy)
    }

    /// Whether a token here lets its holder use the service endpoint at `path`.
    pub(crate) fn allow_service(&self, path: &[&str]) -> bool {
        self.policies().any(|principal| principal.may_serve(path))
    }

    /// Whether a token here lets its holder read at `path` of the event hub.
    pub(crate) fn allow_events(&self, path: &[&str]) -> bool {
        self.policies()
            .any(|principal| principal.may_read_events(path))
    }

    fn policies(&self) -> impl Iterator<Item = &Principal> {
        self.of_policies
            .iter()
            .filter_map(|name| Some(&self.by_name.get(name)?.principal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_acts_by_any_of_its_tokens_while_one_is_left() {
        let device = |expiry| Grant {
            principal: Principal::Device("d".into()),
            expiry,
        };
        let mut tokens = Tokens::default();
        tokens.put("a", device(300));
        tokens.put("b", device(200));
        tokens.put("c", device(100));
        for (unix_now, is_left) in [(100, true), (200, true), (300, false)] {
            assert!(tokens.expire(unix_now));
            assert_eq!(tokens.acting_as("d").is_some(), is_left);
        }
        tokens.put("a", device(300));
        tokens.put("b", device(200));
        assert!(tokens.remove_of("d"));
        assert_eq!((tokens.len(), tokens.acting_as("d")), (0, None));
    }
}
