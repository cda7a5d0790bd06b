//! What the service side may write of an identity, and the check of it.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;

use super::device::{Auth, Device, RegisteredThumbprints};
use super::error::{ErrorCode, HubError};
use super::identity_record::{AuthDocument, Capabilities};
use super::keys::KeyPair;
use crate::clock::Ticks;

/// Longest reason for a status, in characters.
const MAX_REASON: usize = 128;
/// Longest key, in bytes.
const MAX_KEY: usize = 1024;

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

impl AuthDocument {
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
    use serde_json::{Value, json};

    fn device() -> Device {
        Device::new(KeyPair::new(b"primary", b"secondary"), Ticks::default())
    }

    fn write(document: Value) -> IdentityWrite {
        serde_json::from_value(document).unwrap()
    }

    fn refusal(document: Value) -> String {
        write(document).resolve(None).unwrap_err().message
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
        let Auth::Sas(keys) = one.resolve(Some(&device())).unwrap().auth else {
            panic!("keys are kept");
        };
        assert_eq!(
            (keys.primary(), keys.secondary()),
            (&b"primary"[..], &b"new"[..])
        );
    }

    #[test]
    fn a_key_never_shows_in_debug() {
        let keys = json!({ "authentication": { "symmetricKey": { "primaryKey": "c2VjcmV0" } } });
        let written = write(keys);
        let resolved = written.resolve(None).unwrap();
        assert!(!format!("{written:?} {resolved:?}").contains("c2VjcmV0"));
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
