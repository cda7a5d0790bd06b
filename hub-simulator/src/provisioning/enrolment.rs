//! Enrolments: who may register, how they prove it, and where they go.
//!
//! Source: Microsoft, REST reference "Individual Enrollment" and "Enrollment Group", api-version
//! 2021-10-01; what is left out of which answer was seen in recordings of the real service
//! (`azure-sdk-for-python`, `sdk/iothub/azure-iot-deviceprovisioning/tests/recordings`).

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::DpsError;
use super::key::{Key, Keys};
use super::x509::{SubmittedX509, X509};
use crate::clock::Ticks;

/// The two kinds of enrolment, which the service keeps apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Individual,
    Group,
}

impl Kind {
    pub(crate) fn id_field(self) -> &'static str {
        match self {
            Self::Individual => "registrationId",
            Self::Group => "enrollmentGroupId",
        }
    }
}

/// How devices are spread over hubs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum AllocationPolicy {
    /// By a hash of the registration id, in proportion to the hubs' weights.
    Hashed,
    /// To the nearest hub; simulated hubs are equally near, so that devices spread evenly.
    GeoLatency,
    /// To the one hub that the enrolment names.
    Static,
    /// By a function of the user's, which the simulator does not call.
    Custom,
}

/// Whether devices of an enrolment are provisioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ProvisioningStatus {
    Enabled,
    Disabled,
}

/// What happens to a device that registers again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ReprovisionPolicy {
    /// The allocation policy is asked again.
    pub(crate) update_hub_assignment: bool,
    /// The device's twin goes with it to another hub.
    pub(crate) migrate_device_data: bool,
}

impl Default for ReprovisionPolicy {
    fn default() -> Self {
        Self {
            update_hub_assignment: true,
            migrate_device_data: true,
        }
    }
}

/// What a device can do besides sending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Capabilities {
    pub(crate) iot_edge: bool,
}

/// The twin that a device starts with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct InitialTwin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tags: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) properties: Option<InitialProperties>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct InitialProperties {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) desired: Option<Map<String, Value>>,
}

/// What enrolments of both kinds agree on with their devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Terms {
    /// Enabled if it is left out; a null stays one and is written, as the real service does.
    #[serde(default = "enabled")]
    pub(crate) provisioning_status: Option<ProvisioningStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) allocation_policy: Option<AllocationPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reprovision_policy: Option<ReprovisionPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iot_hub_host_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iot_hubs: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) initial_twin: Option<InitialTwin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) capabilities: Option<Capabilities>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) optional_device_information: Option<Value>,
}

fn enabled() -> Option<ProvisioningStatus> {
    Some(ProvisioningStatus::Enabled)
}

impl Terms {
    pub(crate) fn is_enabled(&self) -> bool {
        self.provisioning_status != Some(ProvisioningStatus::Disabled)
    }

    /// The allocation policy; an enrolment that names one hub and no policy means that hub.
    pub(crate) fn allocation(&self) -> AllocationPolicy {
        let default = if self.iot_hub_host_name.is_some() {
            AllocationPolicy::Static
        } else {
            AllocationPolicy::Hashed
        };
        self.allocation_policy.unwrap_or(default)
    }

    /// The hubs that devices may go to; none means any.
    pub(crate) fn allowed_hubs(&self) -> Vec<&str> {
        match &self.iot_hubs {
            Some(hubs) if !hubs.is_empty() => hubs.iter().map(String::as_str).collect(),
            _ => self.iot_hub_host_name.as_deref().into_iter().collect(),
        }
    }
}

/// How a device proves that an enrolment is about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Attestation {
    SymmetricKey(Keys),
    X509(Box<X509>),
}

impl Attestation {
    /// As answers show it; keys are shown to who has just set them or asks for the mechanism.
    pub(crate) fn view(&self, with_keys: bool) -> Value {
        match self {
            Self::SymmetricKey(keys) if with_keys => {
                serde_json::json!({ "type": "symmetricKey", "symmetricKey": keys })
            }
            Self::SymmetricKey(_) => serde_json::json!({ "type": "symmetricKey" }),
            Self::X509(x509) => serde_json::json!({ "type": "x509", "x509": x509.view() }),
        }
    }
}

/// An enrolment as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Enrolment {
    /// The registration id of an individual enrolment, the name of a group.
    pub(crate) id: String,
    /// Individual enrolments only; the registration id by default.
    pub(crate) device_id: Option<String>,
    pub(crate) attestation: Attestation,
    pub(crate) terms: Terms,
    pub(crate) etag: String,
    pub(crate) created: SystemTime,
    pub(crate) updated: SystemTime,
}

impl Enrolment {
    pub(crate) fn view(&self, kind: Kind, with_keys: bool) -> Value {
        let mut view = serde_json::to_value(&self.terms).unwrap_or_default();
        view[kind.id_field()] = self.id.as_str().into();
        if let Some(device_id) = &self.device_id {
            view["deviceId"] = device_id.as_str().into();
        }
        view["attestation"] = self.attestation.view(with_keys);
        view["etag"] = self.etag.as_str().into();
        view["createdDateTimeUtc"] = Ticks::from(self.created).to_string().into();
        view["lastUpdatedDateTimeUtc"] = Ticks::from(self.updated).to_string().into();
        view
    }
}

/// An enrolment as a client of the service API writes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Submitted {
    registration_id: Option<String>,
    enrollment_group_id: Option<String>,
    pub(crate) device_id: Option<String>,
    attestation: SubmittedAttestation,
    custom_allocation_definition: Option<Value>,
    pub(crate) etag: Option<String>,
    #[serde(flatten)]
    pub(crate) terms: Terms,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubmittedAttestation {
    r#type: String,
    symmetric_key: Option<SubmittedKeys>,
    x509: Option<SubmittedX509>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubmittedKeys {
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

impl Submitted {
    pub(crate) fn id(&self, kind: Kind) -> Option<&str> {
        match kind {
            Kind::Individual => self.registration_id.as_deref(),
            Kind::Group => self.enrollment_group_id.as_deref(),
        }
    }

    /// Refuses what the simulator does not do.
    pub(crate) fn check(&self) -> Result<(), DpsError> {
        let custom = self.terms.allocation_policy == Some(AllocationPolicy::Custom);
        if custom || self.custom_allocation_definition.is_some() {
            return Err(DpsError::invalid(
                "The simulator has no custom allocation: use hashed, geoLatency or static.",
            ));
        }
        Ok(())
    }

    /// The attestation; what is left out stays as `before`, or is made.
    pub(crate) fn attestation(
        &self,
        kind: Kind,
        before: Option<&Attestation>,
    ) -> Result<Attestation, DpsError> {
        match self.attestation.r#type.as_str() {
            "symmetricKey" => {
                let given = self.attestation.symmetric_key.clone().unwrap_or_default();
                let before = match before {
                    Some(Attestation::SymmetricKey(keys)) => keys.clone(),
                    _ => Keys::random(),
                };
                Ok(Attestation::SymmetricKey(Keys {
                    primary_key: key_or(given.primary_key, before.primary_key)?,
                    secondary_key: key_or(given.secondary_key, before.secondary_key)?,
                }))
            }
            "x509" => {
                let given = self.attestation.x509.as_ref();
                let given =
                    given.ok_or_else(|| DpsError::invalid("The attestation has no x509."))?;
                let before = match before {
                    Some(Attestation::X509(x509)) => Some(&**x509),
                    _ => None,
                };
                Ok(Attestation::X509(Box::new(X509::take(
                    given, kind, before,
                )?)))
            }
            "tpm" => Err(DpsError::invalid(
                "The simulator has no TPM attestation: use symmetricKey or x509.",
            )),
            _ => Err(DpsError::invalid(
                "The attestation type is symmetricKey or x509.",
            )),
        }
    }
}

/// A submitted key, or the one there is; null and empty both mean that none is submitted.
fn key_or(given: Option<String>, before: Key) -> Result<Key, DpsError> {
    match given.filter(|text| !text.is_empty()) {
        None => Ok(before),
        Some(text) => Key::parse(&text)
            .ok_or_else(|| DpsError::invalid("A symmetric key is base64 of 16 to 64 bytes.")),
    }
}
