use serde_json::{Map, Value};

use crate::error::ErrorKind;

/// A device's twin as a hub keeps it.
#[derive(Debug, Default)]
pub(super) struct Twin {
    desired: Map<String, Value>,
    reported: Map<String, Value>,
    desired_version: u64,
    reported_version: u64,
}

impl Twin {
    pub(super) fn read(&self) -> Vec<u8> {
        let with_version = |properties: &Map<String, Value>, version: u64| {
            let mut properties = properties.clone();
            properties.insert("$version".to_owned(), version.into());
            Value::Object(properties)
        };
        let desired = with_version(&self.desired, self.desired_version);
        let reported = with_version(&self.reported, self.reported_version);
        serde_json::json!({ "desired": desired, "reported": reported })
            .to_string()
            .into_bytes()
    }

    /// The version of the desired properties.
    pub(super) fn version(&self) -> u64 {
        self.desired_version
    }

    /// Changes the reported properties and gives their new version.
    pub(super) fn patch_reported(&mut self, patch: &[u8]) -> Result<u64, ErrorKind> {
        merge(&mut self.reported, parse(patch)?);
        self.reported_version += 1;
        Ok(self.reported_version)
    }

    /// Changes the desired properties and gives their new version.
    pub(super) fn patch_desired(&mut self, patch: &[u8]) -> Result<u64, ErrorKind> {
        merge(&mut self.desired, parse(patch)?);
        self.desired_version += 1;
        Ok(self.desired_version)
    }
}

fn parse(patch: &[u8]) -> Result<Map<String, Value>, ErrorKind> {
    serde_json::from_slice(patch).map_err(|_| ErrorKind::Rejected)
}

/// RFC 7396.
fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(&name);
            }
            Value::Object(patch) => {
                let slot = target.entry(name).or_insert(Value::Null);
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(target) = slot {
                    merge(target, patch);
                }
            }
            value => {
                target.insert(name, value);
            }
        }
    }
}
