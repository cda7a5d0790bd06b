//! The rows of the database, and how they come from the hub's state and go back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::clock::Ticks;
use crate::hub::device::{Auth, Details, Device, Fate, QueuedC2d};
use crate::hub::keys::{self, KeyPair};
use crate::hub::message::C2d;
use crate::hub::queue::{Queue, Waiting};
use crate::hub::registry::Registry;
use crate::hub::state::{HubState, Now};
use crate::hub::twin::Twin;
use crate::mqtt::session::StoredSession;
use crate::provisioning;

/// What has changed and belongs into one store.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) hub: Option<HubRow>,
    /// Devices that have changed, with nothing for those that are gone.
    pub(super) devices: Vec<(Arc<str>, Option<DeviceRow>)>,
    /// With the first hub, what the provisioning service has changed.
    pub(super) provisioning: Option<provisioning::Changes>,
}

impl Changes {
    /// What has changed since this was last called.
    pub(super) fn take(state: &mut HubState, now: Now) -> Self {
        let registry = &mut state.registry;
        let changed = registry.take_changed().into_iter();
        let devices = changed.map(|id| {
            let row = registry.get(&id).map(|device| DeviceRow::of(device, now));
            (id, row)
        });
        let devices = devices.collect();
        let keys_changed = registry.take_keys_changed();
        Self {
            hub: keys_changed.then(|| HubRow::of(registry)),
            devices,
            provisioning: None,
        }
    }

    /// Remembers them as changed again.
    pub(super) fn put_back(&self, state: &mut HubState) {
        for (id, _) in &self.devices {
            state.registry.touch(id);
        }
        if self.hub.is_some() {
            state.registry.touch_keys();
        }
    }

    /// Whether anything is new or different.
    pub(super) fn have_come(&self) -> bool {
        let provisioning = self.provisioning.as_ref();
        self.hub.is_some()
            || provisioning.is_some_and(|changes| !changes.is_empty())
            || self.devices.iter().any(|(_, row)| row.is_some())
    }

    /// Whether devices are gone.
    pub(super) fn have_gone(&self) -> bool {
        self.devices.iter().any(|(_, row)| row.is_none())
    }
}

/// What there is one of: the policies' keys and the group key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HubRow {
    #[serde(with = "keys::base64_bytes")]
    group_key: Vec<u8>,
    policies: BTreeMap<String, KeyPair>,
}

impl HubRow {
    pub(super) fn of(registry: &Registry) -> Self {
        let policies = registry.policies().iter();
        Self {
            group_key: registry.group_key().to_vec(),
            policies: policies
                .map(|policy| (policy.name.to_owned(), policy.keys.clone()))
                .collect(),
        }
    }

    pub(super) fn restore(self, state: &mut HubState) {
        state.registry.set_group_key(self.group_key);
        for policy in state.registry.policies_mut() {
            if let Some(keys) = self.policies.get(policy.name) {
                policy.keys = keys.clone();
            }
        }
    }
}

/// A device or module with everything that is kept for it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DeviceRow {
    auth: Auth,
    enabled: bool,
    generation: u64,
    etag: u32,
    connection_updated: Ticks,
    last_activity: Ticks,
    details: Option<Box<Details>>,
    twin: Option<Box<Twin>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    queue: Vec<MessageRow>,
    #[serde(default)]
    last_sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mqtt: Option<StoredSession>,
}

/// A cloud-to-device message that waits.
#[derive(Debug, Serialize, Deserialize)]
struct MessageRow {
    sequence: u64,
    deliveries: u32,
    expires: Ticks,
    enqueued: Ticks,
    message: C2d,
}

impl DeviceRow {
    pub(super) fn of(device: &Device, now: Now) -> Self {
        let queue = device.queue.as_deref();
        let message = |waiting: Waiting<&QueuedC2d>| MessageRow {
            sequence: waiting.sequence,
            deliveries: waiting.deliveries,
            expires: (now.system + (waiting.expires.saturating_duration_since(now.instant))).into(),
            enqueued: waiting.item.enqueued.into(),
            message: C2d::clone(&waiting.item.message),
        };
        Self {
            auth: device.auth.clone(),
            enabled: device.enabled,
            generation: device.generation,
            etag: device.etag,
            connection_updated: device.connection_updated,
            last_activity: device.last_activity(),
            details: device.details.clone(),
            twin: device.twin.clone(),
            queue: queue
                .into_iter()
                .flat_map(Queue::waiting)
                .map(message)
                .collect(),
            last_sequence: queue.map_or(0, Queue::last_sequence),
            mqtt: device.mqtt.as_ref().and_then(|session| session.stored()),
        }
    }

    pub(super) fn restore(self, state: &mut HubState, id: &str, now: Now) {
        let waiting: Vec<_> = self
            .queue
            .into_iter()
            .map(|row| {
                let left = SystemTime::from(row.expires)
                    .duration_since(now.system)
                    .unwrap_or_default();
                Waiting {
                    sequence: row.sequence,
                    deliveries: row.deliveries,
                    expires: now.instant + left,
                    item: QueuedC2d {
                        message: Arc::new(row.message),
                        enqueued: row.enqueued.into(),
                        fate: Fate::new(),
                    },
                }
            })
            .collect();
        let device = state.registry.add(id);
        device.auth = self.auth;
        device.enabled = self.enabled;
        device.generation = self.generation;
        device.etag = self.etag;
        device.connection_updated = self.connection_updated;
        device.last_activity = self.last_activity;
        device.details = self.details;
        device.twin = self.twin;
        device.mqtt = self.mqtt.map(|session| Box::new(session.into()));
        if self.last_sequence > 0 {
            device.queue = Some(Box::new(Queue::restore(waiting, self.last_sequence)));
        }
        state.arm(id);
    }
}
