//! Identities and twins as documents that the service side is shown.
//!
//! Source: answers of the real hub that are recorded in the tests of Azure's .NET SDK, and Microsoft,
//! "Understand the identity registry in your IoT hub".

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::device::{Auth, Device, RegisteredThumbprints};
use super::identity;

/// An identity as the service side reads it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IdentityDocument {
    #[serde(flatten)]
    name: Name,
    generation_id: String,
    pub(crate) etag: String,
    connection_state: &'static str,
    /// Of a device; a module has the status of its device.
    #[serde(flatten)]
    status: Option<Status>,
    connection_state_updated_time: String,
    last_activity_time: String,
    cloud_to_device_message_count: usize,
    authentication: AuthDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Capabilities>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_scope: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parent_scopes: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum Name {
    Device {
        device_id: String,
    },
    Module {
        module_id: String,
        managed_by: Option<String>,
        device_id: String,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    status: &'static str,
    status_reason: Option<String>,
    status_updated_time: String,
}

/// How an identity shows who it is, as it is written and read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AuthDocument {
    pub(super) symmetric_key: Option<KeysDocument>,
    #[serde(rename = "x509Thumbprint")]
    pub(super) x509_thumbprint: Option<ThumbprintsDocument>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct KeysDocument {
    pub(super) primary_key: Option<String>,
    pub(super) secondary_key: Option<String>,
}

impl fmt::Debug for KeysDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeysDocument").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ThumbprintsDocument {
    pub(super) primary_thumbprint: Option<String>,
    pub(super) secondary_thumbprint: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Capabilities {
    pub(super) iot_edge: Option<bool>,
}

impl IdentityDocument {
    pub(crate) fn of(id: &str, device: &Device) -> Self {
        let details = device.details.as_deref();
        let (device_id, module) = identity::split(id);
        let device_id = device_id.to_owned();
        let is_device = module.is_none();
        Self {
            name: match module {
                None => Name::Device { device_id },
                Some(module) => Name::Module {
                    module_id: module.to_owned(),
                    managed_by: details.and_then(|details| details.managed_by.clone()),
                    device_id,
                },
            },
            generation_id: device.generation.to_string(),
            etag: device.etag_text(),
            connection_state: device.connection_state(),
            status: is_device.then(|| Status {
                status: device.status(),
                status_reason: details.and_then(|details| details.status_reason.clone()),
                status_updated_time: device.status_updated().to_string(),
            }),
            connection_state_updated_time: device.connection_updated.to_string(),
            last_activity_time: device.last_activity().to_string(),
            cloud_to_device_message_count: device.queued(),
            authentication: AuthDocument::of(&device.auth),
            capabilities: is_device.then(|| Capabilities {
                iot_edge: Some(device.is_edge()),
            }),
            device_scope: details.and_then(|details| details.device_scope.clone()),
            parent_scopes: details.map_or_else(Vec::new, |details| details.parent_scopes.clone()),
        }
    }
}

/// A twin as the service side reads it; queries show the capabilities of modules too.
pub(crate) fn twin_document(id: &str, device: &Device, queried: bool) -> Value {
    let details = device.details.as_deref();
    let twin = device.twin(id);
    let (device_id, module) = identity::split(id);
    let mut document = Map::new();
    let mut put = |name: &str, value: Value| {
        document.insert(name.to_owned(), value);
    };
    put("deviceId", device_id.into());
    if let Some(module) = module {
        put("moduleId", module.into());
    }
    put("etag", twin.etag().into());
    put("deviceEtag", device.etag_text().into());
    put("status", device.status().into());
    if let Some(reason) = details.and_then(|details| details.status_reason.as_deref()) {
        put("statusReason", reason.into());
    }
    put(
        "statusUpdateTime",
        device.status_updated().to_string().into(),
    );
    put("connectionState", device.connection_state().into());
    put(
        "lastActivityTime",
        device.last_activity().to_string().into(),
    );
    put("cloudToDeviceMessageCount", device.queued().into());
    put("authenticationType", device.auth.kind().into());
    put("x509Thumbprint", thumbprints_value(&device.auth));
    put("modelId", twin.model_id.as_str().into());
    put("version", twin.version().into());
    if !twin.tags().is_empty() {
        put("tags", twin.tags().values().into());
    }
    put("properties", twin.properties());
    if module.is_none() || queried {
        put(
            "capabilities",
            serde_json::json!({ "iotEdge": device.is_edge() }),
        );
    }
    if let Some(scope) = details.and_then(|details| details.device_scope.as_deref()) {
        put("deviceScope", scope.into());
    }
    if let Some(details) = details.filter(|details| !details.parent_scopes.is_empty()) {
        put("parentScopes", details.parent_scopes.clone().into());
    }
    document.into()
}

/// The thumbprints of a twin: both names, whether there are any or not.
pub(crate) fn thumbprints_value(auth: &Auth) -> Value {
    let own = auth.thumbprints();
    serde_json::json!({
        "primaryThumbprint": own.primary,
        "secondaryThumbprint": own.secondary,
    })
}

impl Auth {
    /// The word for it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Sas(_) => "sas",
            Self::SelfSigned(_) => "selfSigned",
            Self::CertificateAuthority => "certificateAuthority",
            Self::Nothing => "none",
        }
    }

    fn thumbprints(&self) -> RegisteredThumbprints {
        match self {
            Self::SelfSigned(own) => RegisteredThumbprints::clone(own),
            _ => RegisteredThumbprints::default(),
        }
    }
}

impl AuthDocument {
    fn of(auth: &Auth) -> Self {
        let keys = match auth {
            Auth::Sas(keys) => {
                let keys = keys.encoded();
                KeysDocument {
                    primary_key: Some(keys.primary),
                    secondary_key: Some(keys.secondary),
                }
            }
            _ => KeysDocument::default(),
        };
        let own = auth.thumbprints();
        Self {
            symmetric_key: Some(keys),
            x509_thumbprint: Some(ThumbprintsDocument {
                primary_thumbprint: own.primary,
                secondary_thumbprint: own.secondary,
            }),
            kind: Some(auth.kind().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Ticks;
    use crate::hub::keys::KeyPair;
    use serde_json::json;

    fn device() -> Device {
        let keys = KeyPair::new(b"primary", b"secondary");
        let mut device = Device::new(keys, Ticks(637_612_875_267_717_085));
        device.etag = 343_060_356;
        device
    }

    #[test]
    fn a_device_reads_as_the_hub_writes_it() {
        let document = IdentityDocument::of("dev", &device());
        assert_eq!(
            serde_json::to_value(document).unwrap(),
            json!({
                "deviceId": "dev",
                "generationId": "637612875267717085",
                "etag": "MzQzMDYwMzU2",
                "connectionState": "Disconnected",
                "status": "enabled",
                "statusReason": null,
                "connectionStateUpdatedTime": "0001-01-01T00:00:00Z",
                "statusUpdatedTime": "0001-01-01T00:00:00Z",
                "lastActivityTime": "0001-01-01T00:00:00Z",
                "cloudToDeviceMessageCount": 0,
                "authentication": {
                    "symmetricKey": { "primaryKey": "cHJpbWFyeQ==", "secondaryKey": "c2Vjb25kYXJ5" },
                    "x509Thumbprint": { "primaryThumbprint": null, "secondaryThumbprint": null },
                    "type": "sas",
                },
                "capabilities": { "iotEdge": false },
            })
        );
    }

    #[test]
    fn a_module_reads_as_the_hub_writes_it() {
        let document = serde_json::to_value(IdentityDocument::of("dev/mod", &device())).unwrap();
        let mut keys: Vec<_> = document.as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(
            keys,
            [
                "authentication",
                "cloudToDeviceMessageCount",
                "connectionState",
                "connectionStateUpdatedTime",
                "deviceId",
                "etag",
                "generationId",
                "lastActivityTime",
                "managedBy",
                "moduleId",
            ]
        );
    }

    #[test]
    fn a_twin_reads_as_the_hub_writes_it() {
        let fresh = json!({
            "$metadata": { "$lastUpdated": "2021-07-07T20:45:26.7717085Z" },
            "$version": 1,
        });
        assert_eq!(
            twin_document("dev", &device(), false),
            json!({
                "deviceId": "dev",
                "etag": "AAAAAAAAAAE=",
                "deviceEtag": "MzQzMDYwMzU2",
                "status": "enabled",
                "statusUpdateTime": "0001-01-01T00:00:00Z",
                "connectionState": "Disconnected",
                "lastActivityTime": "0001-01-01T00:00:00Z",
                "cloudToDeviceMessageCount": 0,
                "authenticationType": "sas",
                "x509Thumbprint": { "primaryThumbprint": null, "secondaryThumbprint": null },
                "modelId": "",
                "version": 2,
                "properties": { "desired": fresh, "reported": fresh },
                "capabilities": { "iotEdge": false },
            })
        );
    }
}
