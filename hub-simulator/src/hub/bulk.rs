//! Many writes to the registry in one request.
//!
//! Source: Microsoft, REST reference of IoT Hub, "Bulk Registry - Update Registry".

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Hub;
use super::error::{ErrorCode, HubError};
use super::identities::Expected;
use super::identity;
use super::identity_write::{IdentityWrite, invalid};
use super::twin::{Change, Mode, Twin};
use crate::clock::Ticks;

/// Identities that one request may name.
const MAX_ITEMS: usize = 100;

/// What became of the writes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BulkResult {
    pub(crate) is_successful: bool,
    errors: Vec<BulkError>,
    warnings: [(); 0],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BulkError {
    device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_id: Option<String>,
    error_code: &'static str,
    error_status: String,
    operation: &'static str,
}

/// The parts of a write that are not of the identity itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Item {
    id: Option<String>,
    module_id: Option<String>,
    #[serde(rename = "eTag", alias = "etag")]
    etag: Option<String>,
    #[serde(rename = "twinETag", alias = "twinEtag")]
    twin_etag: Option<String>,
    import_mode: Option<String>,
}

/// What is done with an identity; the writes with an entity tag do it if the tag fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImportMode {
    Create,
    CreateOrUpdate { if_match: bool },
    Update { if_match: bool },
    UpdateTwin { if_match: bool },
    Delete { if_match: bool },
}

impl ImportMode {
    /// Reads the word for it, in any case as the SDKs write it.
    fn parse(word: Option<&str>) -> Option<Self> {
        let word = word.unwrap_or("createOrUpdate").to_ascii_lowercase();
        let (verb, if_match) = match word.strip_suffix("ifmatchetag") {
            Some(verb) => (verb, true),
            None => (word.as_str(), false),
        };
        match verb {
            "create" if !if_match => Some(Self::Create),
            "createorupdate" => Some(Self::CreateOrUpdate { if_match }),
            "update" => Some(Self::Update { if_match }),
            "updatetwin" => Some(Self::UpdateTwin { if_match }),
            "delete" => Some(Self::Delete { if_match }),
            _ => None,
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreateOrUpdate { .. } => "createOrUpdate",
            Self::Update { .. } => "update",
            Self::UpdateTwin { .. } => "updateTwin",
            Self::Delete { .. } => "delete",
        }
    }
}

impl Hub {
    /// Carries out writes, each by itself.
    ///
    /// # Errors
    /// Refuses all of them if they are too many.
    pub(crate) fn bulk(&self, items: &[Value]) -> Result<BulkResult, HubError> {
        if items.len() > MAX_ITEMS {
            let text = "A bulk request names at most 100 identities.";
            return Err(HubError::new(ErrorCode::TooManyDevices, text));
        }
        let mut named = HashSet::new();
        let errors: Vec<_> = items
            .iter()
            .filter_map(|item| self.bulk_item(item, &mut named).err())
            .collect();
        Ok(BulkResult {
            is_successful: errors.is_empty(),
            errors,
            warnings: [],
        })
    }

    fn bulk_item(&self, value: &Value, named: &mut HashSet<String>) -> Result<(), BulkError> {
        let parsed = Item::deserialize(value);
        let item = parsed.as_ref().ok();
        let mode = ImportMode::parse(item.and_then(|item| item.import_mode.as_deref()));
        let error = |error: HubError| BulkError {
            device_id: item.and_then(|item| item.id.clone()).unwrap_or_default(),
            module_id: item.and_then(|item| item.module_id.clone()),
            error_code: error.code.name(),
            error_status: error.message,
            operation: mode.map_or("unknown", ImportMode::verb),
        };
        let unreadable = |error: &serde_json::Error| {
            HubError::new(ErrorCode::IotHubFormatError, error.to_string())
        };
        let item = parsed.as_ref().map_err(|cause| error(unreadable(cause)))?;
        let mode = mode.ok_or_else(|| error(invalid("No such import mode.")))?;
        let device = item.id.as_deref().unwrap_or_default();
        let id = match item.module_id.as_deref().filter(|id| !id.is_empty()) {
            Some(module) => identity::module(device, module),
            None => device.to_owned(),
        };
        if !named.insert(id.clone()) {
            let text = format!("The identity '{id}' is named more than once.");
            return Err(error(HubError::new(
                ErrorCode::DeviceDefinedMultipleTimes,
                text,
            )));
        }
        let write = IdentityWrite::deserialize(value).map_err(|cause| error(unreadable(&cause)))?;
        self.import(&id, item, mode, &write, value).map_err(error)
    }

    fn import(
        &self,
        id: &str,
        item: &Item,
        mode: ImportMode,
        write: &IdentityWrite,
        document: &Value,
    ) -> Result<(), HubError> {
        let etag = item.etag.as_deref().unwrap_or_default().trim_matches('"');
        let twin_etag = item.twin_etag.as_deref().unwrap_or_default();
        let anything_or = |if_match, etag| {
            if if_match {
                Expected::Etag(etag)
            } else {
                Expected::Anything
            }
        };
        let exists = self.state().registry.get(id).is_some();
        let expected = match mode {
            ImportMode::Delete { if_match } => {
                return self.delete_identity(id, anything_or(if_match, etag));
            }
            ImportMode::UpdateTwin { if_match } => {
                let expected = anything_or(if_match, twin_etag.trim_matches('"'));
                return self
                    .write_twin(id, document, Mode::Merge, expected)
                    .map(drop);
            }
            ImportMode::Create => Expected::Nothing,
            ImportMode::CreateOrUpdate { .. } if !exists => Expected::Nothing,
            ImportMode::CreateOrUpdate { if_match } | ImportMode::Update { if_match } => {
                anything_or(if_match, etag)
            }
        };
        let change = Change::of(document)?;
        if expected != Expected::Nothing {
            self.put_identity(id, write, expected)?;
            if change.is_some() {
                self.state().write_twin(id, change, Mode::Merge)?;
            }
            return Ok(());
        }
        // A twin that cannot begin so shall not leave a device behind.
        Twin::new(Ticks::default()).begin_with(change)?;
        self.put_identity(id, write, expected)?;
        let mut state = self.state();
        if let Some(device) = state.registry.get_mut(id).filter(|_| change.is_some()) {
            device.twin_mut(id).begin_with(change)?;
        }
        Ok(())
    }
}
