//! The provisioning service as tests and programs use it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::DpsError;
use super::service::{IfMatch, OWNER_POLICY};
use super::{DEFAULT_GROUP, Kind};
use crate::cloud::Cloud;
use crate::connection_string::{ConnectionString, KeyOwner};
use crate::hub::keys::{DeviceKeys, KeyPair};
use crate::hub::state::Now;

/// The Device Provisioning Service that hubs behind the same listeners share.
#[derive(Debug, Clone)]
pub struct Provisioning {
    cloud: Arc<Cloud>,
}

/// The provisioning service does not take an enrolment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} ({code})")]
pub struct ProvisioningError {
    /// The service's error code, as 409201.
    pub code: u32,
    text: String,
}

impl From<DpsError> for ProvisioningError {
    fn from(error: DpsError) -> Self {
        Self {
            code: error.code.number(),
            text: error.message.into_owned(),
        }
    }
}

/// A device that has registered.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Registered {
    /// Its id in the hub.
    pub device_id: String,
    /// The host name of its hub; none if it was never assigned.
    pub hub: Option<String>,
    /// What it sent along the last time; null if nothing.
    pub payload: Value,
}

impl Provisioning {
    pub(crate) fn new(cloud: Arc<Cloud>) -> Self {
        Self { cloud }
    }

    /// Returns the service's host name.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.cloud.dps.host
    }

    /// Returns the id scope that devices name.
    #[must_use]
    pub fn id_scope(&self) -> String {
        self.cloud.dps.peek().id_scope.clone()
    }

    /// Returns the key, in base64, of the group that every service is made with.
    #[must_use]
    pub fn group_key(&self) -> String {
        self.keys(Kind::Group, DEFAULT_GROUP)
            .map(|keys| keys.primary)
            .unwrap_or_default()
    }

    /// Returns the connection string of the policy `provisioningserviceowner`.
    #[must_use]
    pub fn service_connection_string(&self) -> String {
        let owner = KeyOwner::Policy(OWNER_POLICY.to_owned());
        let key = self.cloud.dps.peek().policy.primary_key.clone();
        ConnectionString::new(self.host(), owner, key.bytes()).to_string()
    }

    /// Enrols a group of devices whose keys derive from the group's; returns the group's keys.
    ///
    /// `terms` is an enrolment group as the service API writes it, null for the defaults: keys made at
    /// random, devices spread over all hubs. A group that is there is replaced.
    ///
    /// ```
    /// # use hub_simulator::HubSimulator;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hub = HubSimulator::builder().start().await?;
    /// let keys = hub.provisioning().enrol_group(
    ///     "meters",
    ///     &serde_json::json!({ "allocationPolicy": "static", "iotHubs": [hub.host()] }),
    /// )?;
    /// # assert!(!keys.primary.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Fails on what the service API would refuse.
    pub fn enrol_group(&self, name: &str, terms: &Value) -> Result<DeviceKeys, ProvisioningError> {
        self.enrol(Kind::Group, name, terms)
    }

    /// Enrols one device; returns its keys, both empty if it is to show a certificate instead.
    ///
    /// `terms` is an individual enrolment as the service API writes it, null for the defaults. An
    /// enrolment that is there is replaced.
    ///
    /// # Errors
    /// Fails on what the service API would refuse.
    pub fn enrol_device(
        &self,
        registration_id: &str,
        terms: &Value,
    ) -> Result<DeviceKeys, ProvisioningError> {
        self.enrol(Kind::Individual, registration_id, terms)
    }

    fn enrol(&self, kind: Kind, id: &str, terms: &Value) -> Result<DeviceKeys, ProvisioningError> {
        let mut terms = match terms {
            Value::Null => json!({}),
            terms => terms.clone(),
        };
        if terms["attestation"].is_null() {
            terms["attestation"] = json!({ "type": "symmetricKey" });
        }
        let dps = &self.cloud.dps;
        let hubs = dps.linked(&self.cloud);
        let body = terms.to_string();
        let any = IfMatch(Some("*"));
        dps.state()
            .put(kind, id, body.as_bytes(), any, &hubs, Now::read().system)?;
        Ok(self
            .keys(kind, id)
            .unwrap_or_else(|| KeyPair::default().encoded()))
    }

    fn keys(&self, kind: Kind, id: &str) -> Option<DeviceKeys> {
        self.cloud.dps.peek().keys_of(kind, id)
    }

    /// Disables an individual enrolment, or a group of that name if there is none; devices in their
    /// hubs stay there. Returns whether there is one.
    pub fn disable_enrolment(&self, id: &str) -> bool {
        self.cloud.dps.state().set_enabled(id, false)
    }

    /// Enables an enrolment again. Returns whether there is one.
    pub fn enable_enrolment(&self, id: &str) -> bool {
        self.cloud.dps.state().set_enabled(id, true)
    }

    /// Sets a hub's share of the devices to come, 1 by default; at 0 it gets none, and those that it
    /// has go elsewhere when they register again and their enrolment lets them.
    pub fn set_weight(&self, hub: &str, weight: u32) {
        self.cloud.dps.weights().insert(hub.to_lowercase(), weight);
    }

    /// Returns what became of a registration id; none if it never registered.
    #[must_use]
    pub fn registered(&self, registration_id: &str) -> Option<Registered> {
        let state = self.cloud.dps.peek();
        let registration = state.registration(registration_id)?;
        Some(Registered {
            device_id: registration.device_id.clone(),
            hub: registration.hub.clone(),
            payload: registration.payload.clone().unwrap_or_default(),
        })
    }
}
