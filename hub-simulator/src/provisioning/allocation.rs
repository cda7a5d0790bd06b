//! Which hub a device is assigned to.
//!
//! Source: Microsoft, "How to use allocation policies to provision devices across IoT hubs".

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::enrolment::{AllocationPolicy, Terms};

/// A hub that the service may assign devices to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkedHub {
    pub(crate) host: String,
    /// Its share of hashed devices beside the others' shares.
    pub(crate) weight: u32,
}

/// How many registrations each hub was assigned, by host name in lower case.
#[derive(Debug, Default)]
pub(crate) struct Loads(BTreeMap<String, usize>);

impl Loads {
    pub(super) fn add(&mut self, hub: Option<&str>) {
        if let Some(hub) = hub {
            *self.0.entry(hub.to_lowercase()).or_default() += 1;
        }
    }

    pub(super) fn take(&mut self, hub: Option<&str>) {
        if let Some(load) = hub.and_then(|hub| self.0.get_mut(&hub.to_lowercase())) {
            *load -= 1;
        }
    }

    pub(super) fn of(&self, hub: &str) -> usize {
        self.0.get(&hub.to_lowercase()).copied().unwrap_or_default()
    }
}

/// Chooses a hub; `None` if no linked hub is one that the enrolment allows.
///
/// `current` is where the device is now, and `load` tells how many devices a hub was assigned.
pub(crate) fn choose(
    terms: &Terms,
    hubs: &[LinkedHub],
    registration_id: &str,
    current: Option<&str>,
    load: impl Fn(&str) -> usize,
) -> Option<String> {
    let allowed = terms.allowed_hubs();
    let mut candidates = hubs
        .iter()
        .filter(|hub| hub.weight > 0 && (allowed.is_empty() || names(&allowed, &hub.host)));
    let chosen = match terms.allocation() {
        AllocationPolicy::Hashed => candidates
            .max_by(|a, b| share(registration_id, a).total_cmp(&share(registration_id, b))),
        AllocationPolicy::Static => match allowed.first() {
            Some(first) => candidates.find(|hub| hub.host.eq_ignore_ascii_case(first)),
            None => candidates.next(),
        },
        // Every simulated hub is equally near: devices spread evenly, and stay where they are.
        AllocationPolicy::GeoLatency => candidates.min_by_key(|hub| {
            let stays = current.is_some_and(|current| current.eq_ignore_ascii_case(&hub.host));
            (!stays, load(&hub.host))
        }),
        AllocationPolicy::Custom => None,
    };
    chosen.map(|hub| hub.host.clone())
}

pub(crate) fn names(hosts: &[&str], host: &str) -> bool {
    hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Weighted rendezvous hashing: a hub that comes or goes moves its own devices only.
fn share(registration_id: &str, hub: &LinkedHub) -> f64 {
    let key = format!(
        "{}\n{}",
        registration_id.to_lowercase(),
        hub.host.to_lowercase()
    );
    let hash = Sha256::digest(key.as_bytes());
    let high = hash
        .first_chunk::<4>()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes));
    // In the open interval from 0 to 1.
    let even = (f64::from(high) + 0.5) / (f64::from(u32::MAX) + 1.0);
    -f64::from(hub.weight) / even.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hubs(weights: &[u32]) -> Vec<LinkedHub> {
        weights
            .iter()
            .enumerate()
            .map(|(at, weight)| LinkedHub {
                host: format!("hub-{at}"),
                weight: *weight,
            })
            .collect()
    }

    fn terms(policy: AllocationPolicy) -> Terms {
        Terms {
            allocation_policy: Some(policy),
            ..Terms::default()
        }
    }

    fn hashed(hubs: &[LinkedHub], id: &str) -> String {
        choose(&terms(AllocationPolicy::Hashed), hubs, id, None, |_| 0).unwrap()
    }

    #[test]
    fn hashing_spreads_devices_by_weight() {
        let hubs = hubs(&[1, 1, 2, 0]);
        let mut counts = BTreeMap::<String, u32>::new();
        for number in 0..2000 {
            *counts
                .entry(hashed(&hubs, &format!("device-{number}")))
                .or_default() += 1;
        }
        let of = |hub: &str| counts.get(hub).copied().unwrap_or(0);
        assert!((400..600).contains(&of("hub-0")), "{counts:?}");
        assert!((400..600).contains(&of("hub-1")), "{counts:?}");
        assert!((880..1120).contains(&of("hub-2")), "{counts:?}");
        assert_eq!(of("hub-3"), 0);
    }

    #[test]
    fn a_hub_that_goes_moves_its_own_devices_only() {
        let (all, fewer) = (hubs(&[1, 1, 1]), hubs(&[1, 1]));
        for number in 0..200 {
            let id = format!("device-{number}");
            let before = hashed(&all, &id);
            if before != "hub-2" {
                assert_eq!(hashed(&fewer, &id), before);
            }
        }
    }

    #[test]
    fn geo_latency_fills_hubs_evenly_and_leaves_a_device_where_it_is() {
        let hubs = hubs(&[1, 1]);
        let terms = terms(AllocationPolicy::GeoLatency);
        let load = |hub: &str| usize::from(hub == "hub-0");
        assert_eq!(
            choose(&terms, &hubs, "d", None, load).as_deref(),
            Some("hub-1")
        );
        assert_eq!(
            choose(&terms, &hubs, "d", Some("HUB-0"), load).as_deref(),
            Some("hub-0")
        );
    }

    #[test]
    fn a_static_enrolment_names_its_hub() {
        let hubs = hubs(&[1, 1]);
        let mut terms = terms(AllocationPolicy::Static);
        terms.iot_hubs = Some(vec!["Hub-1".to_owned()]);
        assert_eq!(
            choose(&terms, &hubs, "d", None, |_| 0).as_deref(),
            Some("hub-1")
        );
        terms.iot_hubs = Some(vec!["elsewhere".to_owned()]);
        assert_eq!(choose(&terms, &hubs, "d", None, |_| 0), None);
    }
}
