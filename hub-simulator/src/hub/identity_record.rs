//! Identities and twins as documents: what the service side is shown, and what it may write.
//!
//! Source: answers of the real hub that are recorded in the tests of Azure's .NET SDK, and Microsoft,
//! "Understand the identity registry in your IoT hub".

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::device::{Auth, Device, RegisteredThumbprints};
use super::error::{ErrorCode, HubError};
use super::identity;
use super::keys::KeyPair;
use crate::clock::Ticks;

/// Longest reason for a status, in characters.
const MAX_REASON: usize = 128;
/// Longest key, in bytes.
const MAX_KEY: usize = 1024;

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
    symmetric_key: Option<KeysDocument>,
    #[serde(rename = "x509Thumbprint")]
    x509_thumbprint: Option<ThumbprintsDocument>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct KeysDocument {
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ThumbprintsDocument {
    primary_thumbprint: Option<String>,
    secondary_thumbprint: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Capabilities {
    iot_edge: Option<bool>,
}

/// What a client writes of an identity; what only the hub writes is passed over.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IdentityWrite {
    pub(crate) device_id: Option<String>,
    pub(crate) module_id: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) status_reason: Option<String>,
    pub(crate) authentication: Option<AuthDocument>,
    pub(crate) capabilities: Option<Capabilities>,
    pub(crate) device_scope: Option<String>,
    pub(crate) parent_scopes: Option<Vec<String>>,
    pub(crate) managed_by: Option<String>,
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
            last_activity_time: device.last_activity.to_string(),
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
    put("lastActivityTime", device.last_activity.to_string().into());
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

    /// What this makes of an identity; keys that are not given stay, or are made.
    fn resolve(&self, before: Option<&Auth>) -> Result<Auth, HubError> {
        let thumbprints = self.x509_thumbprint.clone().unwrap_or_default();
        let thumbprints = RegisteredThumbprints {
            primary: thumbprint(thumbprints.primary_thumbprint)?,
            secondary: thumbprint(thumbprints.secondary_thumbprint)?,
        };
        let has_thumbprint = thumbprints != RegisteredThumbprints::default();
        let kind = match self.kind.as_deref().filter(|kind| !kind.is_empty()) {
            Some(kind) => kind.to_ascii_lowercase(),
            None if has_thumbprint => "selfsigned".to_owned(),
            None => "sas".to_owned(),
        };
        match kind.as_str() {
            "sas" => self.keys(before).map(Auth::Sas),
            "selfsigned" if !has_thumbprint => Err(invalid(
                "A device that shows certificates of its own needs a thumbprint.",
            )),
            "selfsigned" => Ok(Auth::SelfSigned(Box::new(thumbprints))),
            "certificateauthority" => Ok(Auth::CertificateAuthority),
            "none" => Ok(Auth::Nothing),
            other => Err(invalid(format!("No such authentication type: '{other}'."))),
        }
    }

    fn keys(&self, before: Option<&Auth>) -> Result<KeyPair, HubError> {
        let given = self.symmetric_key.clone().unwrap_or_default();
        let (primary, secondary) = (decode(given.primary_key)?, decode(given.secondary_key)?);
        let kept = match before {
            Some(Auth::Sas(keys)) => keys.clone(),
            _ => KeyPair::random(),
        };
        Ok(KeyPair::new(
            primary.as_deref().unwrap_or(kept.primary()),
            secondary.as_deref().unwrap_or(kept.secondary()),
        ))
    }
}

/// A key as a client gives it; an empty one is none.
fn decode(key: Option<String>) -> Result<Option<Vec<u8>>, HubError> {
    let Some(key) = key.filter(|key| !key.is_empty()) else {
        return Ok(None);
    };
    match BASE64.decode(key) {
        Ok(key) if key.len() <= MAX_KEY => Ok(Some(key)),
        Ok(_) => Err(invalid("A symmetric key is at most 1 KB.")),
        Err(_) => Err(invalid("A symmetric key is not base64.")),
    }
}

/// A thumbprint as a client gives it: SHA-1 or SHA-256 in hexadecimal, with colons or without.
fn thumbprint(given: Option<String>) -> Result<Option<String>, HubError> {
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Ok(None);
    };
    let mut digits = given.chars().filter(|c| *c != ':');
    if digits.all(|c| c.is_ascii_hexdigit())
        && matches!(given.chars().filter(|c| *c != ':').count(), 40 | 64)
    {
        Ok(Some(given))
    } else {
        Err(invalid(
            "A thumbprint has 40 or 64 hexadecimal digits (SHA-1 or SHA-256).",
        ))
    }
}

pub(crate) fn invalid(text: impl Into<String>) -> HubError {
    HubError::new(ErrorCode::ArgumentInvalid, text)
}

impl IdentityWrite {
    /// What the identity looks like after this write, checked; nothing is changed yet.
    ///
    /// # Errors
    /// Refuses values that the registry does not take.
    pub(crate) fn resolve(&self, before: Option<&Device>) -> Result<Resolved, HubError> {
        let enabled = match self.status.as_deref().map(str::to_ascii_lowercase) {
            None => before.is_none_or(|before| before.enabled),
            Some(status) => match status.as_str() {
                "enabled" => true,
                "disabled" => false,
                _ => return Err(invalid("A status is 'enabled' or 'disabled'.")),
            },
        };
        let reason = self.status_reason.as_deref().unwrap_or_default();
        if reason.chars().count() > MAX_REASON {
            return Err(invalid("A status reason has at most 128 characters."));
        }
        let auth = match (&self.authentication, before) {
            (Some(authentication), _) => {
                authentication.resolve(before.map(|before| &before.auth))?
            }
            (None, Some(before)) => before.auth.clone(),
            (None, None) => Auth::Sas(KeyPair::random()),
        };
        Ok(Resolved {
            auth,
            enabled,
            status_reason: self.status_reason.clone(),
            iot_edge: self
                .capabilities
                .and_then(|capabilities| capabilities.iot_edge),
            device_scope: self.device_scope.clone().filter(|scope| !scope.is_empty()),
            parent_scopes: self.parent_scopes.clone().unwrap_or_default(),
            managed_by: self.managed_by.clone(),
        })
    }
}

/// A write that has been checked.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) auth: Auth,
    enabled: bool,
    status_reason: Option<String>,
    iot_edge: Option<bool>,
    device_scope: Option<String>,
    parent_scopes: Vec<String>,
    managed_by: Option<String>,
}

impl Resolved {
    /// Carries the write out.
    pub(crate) fn apply(self, id: &str, device: &mut Device, now: Ticks) {
        device.auth = self.auth;
        device.set_enabled(self.enabled, now);
        let is_edge = self.iot_edge.unwrap_or(device.is_edge());
        // The hub names the scope of an edge device; a leaf below it copies the name.
        let device_scope = if is_edge {
            Some(format!("ms-azure-iot-edge://{id}-{}", device.generation))
        } else {
            self.device_scope
        };
        let parent_scopes = match &device_scope {
            Some(scope) if !is_edge && self.parent_scopes.is_empty() => vec![scope.clone()],
            _ => self.parent_scopes,
        };
        let mut details = device.details.take().unwrap_or_default();
        details.status_reason = self.status_reason;
        details.iot_edge = is_edge;
        details.device_scope = device_scope;
        details.parent_scopes = parent_scopes;
        details.managed_by = self.managed_by;
        device.details = (*details != Default::default()).then_some(details);
        device.written();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn device(id: &str) -> Device {
        let keys = KeyPair::new(b"primary", b"secondary");
        let mut device = Device::new(keys, Ticks(637_612_875_267_717_085));
        device.etag = 343_060_356;
        assert!(!id.is_empty());
        device
    }

    fn write(document: Value) -> IdentityWrite {
        serde_json::from_value(document).unwrap()
    }

    fn refusal(document: Value) -> String {
        write(document).resolve(None).unwrap_err().message
    }

    #[test]
    fn a_device_reads_as_the_hub_writes_it() {
        let document = IdentityDocument::of("dev", &device("dev"));
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
        let document = serde_json::to_value(IdentityDocument::of("dev/mod", &device("m"))).unwrap();
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
            twin_document("dev", &device("dev"), false),
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

    #[test]
    fn what_is_not_given_is_kept_or_made() {
        let made = write(
            json!({ "authentication": { "type": "sas", "symmetricKey": { "primaryKey": "" } } }),
        );
        let Auth::Sas(keys) = made.resolve(None).unwrap().auth else {
            panic!("keys are made");
        };
        assert_eq!((keys.primary().len(), keys.secondary().len()), (32, 32));
        let one =
            write(json!({ "authentication": { "symmetricKey": { "secondaryKey": "bmV3" } } }));
        let Auth::Sas(keys) = one.resolve(Some(&device("d"))).unwrap().auth else {
            panic!("keys are kept");
        };
        assert_eq!(
            (keys.primary(), keys.secondary()),
            (&b"primary"[..], &b"new"[..])
        );
    }

    #[test]
    fn values_that_the_registry_does_not_take_are_refused() {
        let key =
            |key: &str| json!({ "authentication": { "symmetricKey": { "primaryKey": key } } });
        assert_eq!(refusal(key("no base64!")), "A symmetric key is not base64.");
        refusal(json!({ "status": "broken" }));
        refusal(json!({ "statusReason": "x".repeat(129) }));
        refusal(json!({ "authentication": { "type": "selfSigned" } }));
        refusal(json!({ "authentication": { "type": "magic" } }));
        let thumbprint = |text: &str| json!({ "authentication": { "x509Thumbprint": { "primaryThumbprint": text } } });
        refusal(thumbprint("abc"));
        refusal(thumbprint(&"g".repeat(40)));
        let taken = write(thumbprint(&"a1".repeat(20)))
            .resolve(None)
            .unwrap()
            .auth;
        assert_eq!(taken.kind(), "selfSigned");
    }
}
