//! What survives a restart: certificates, policy keys and devices, in one directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use crate::hub::registry::{KeyPair, Registry};
use crate::provisioning::State;
use crate::tls::Authority;

/// The file of the provisioning service.
const PROVISIONING: &str = "provisioning.json";

/// Stored state cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The registry file does not hold a registry.
    #[error("{path} does not hold a registry")]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// The directory that the state is kept in.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct RegistryFile {
    group_key: String,
    policies: Vec<KeysEntry>,
    devices: Vec<DeviceEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeysEntry {
    name: String,
    primary: String,
    secondary: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct DeviceEntry {
    #[serde(flatten)]
    keys: KeysEntry,
    enabled: bool,
    generation: u64,
}

impl KeysEntry {
    fn new(name: &str, keys: &KeyPair) -> Self {
        let encoded = keys.encoded();
        Self {
            name: name.to_owned(),
            primary: encoded.primary,
            secondary: encoded.secondary,
        }
    }

    fn keys(&self) -> Option<KeyPair> {
        let decode = |text: &str| BASE64.decode(text).ok();
        Some(KeyPair::new(
            &decode(&self.primary)?,
            &decode(&self.secondary)?,
        ))
    }
}

impl Store {
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = Self {
            directory: directory.to_owned(),
        };
        fs::create_dir_all(directory).map_err(|source| file_error(directory, source))?;
        Ok(store)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn read(&self, name: &str) -> Result<Option<String>, StoreError> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(file_error(&path, source)),
        }
    }

    /// The stored authority, made and stored on first use.
    pub(crate) fn authority(&self) -> Result<Authority, crate::StartError> {
        if let (Some(certificate), Some(key)) = (self.read("ca.pem")?, self.read("ca-key.pem")?) {
            return Ok(Authority { certificate, key });
        }
        let authority = Authority::make()?;
        write_atomically(&self.path("ca-key.pem"), &authority.key)?;
        write_atomically(&self.path("ca.pem"), &authority.certificate)?;
        Ok(authority)
    }

    /// Puts the stored keys and devices into a fresh registry.
    pub(crate) fn load(&self, registry: &mut Registry) -> Result<(), StoreError> {
        let path = self.path("registry.json");
        let Some(text) = self.read("registry.json")? else {
            return Ok(());
        };
        let bad = || StoreError::Content { path: path.clone() };
        let stored: RegistryFile = serde_json::from_str(&text).map_err(|_| bad())?;
        let group_key = BASE64.decode(&stored.group_key);
        registry.set_group_key(group_key.map_err(|_| bad())?);
        for entry in &stored.policies {
            let policy = registry
                .policies_mut()
                .iter_mut()
                .find(|policy| policy.name == entry.name);
            policy.ok_or_else(bad)?.keys = entry.keys().ok_or_else(bad)?;
        }
        for entry in &stored.devices {
            let keys = entry.keys.keys().ok_or_else(bad)?;
            let device = registry.add(&entry.keys.name);
            device.set_keys(keys);
            (device.enabled, device.generation) = (entry.enabled, entry.generation);
        }
        Ok(())
    }

    /// The stored provisioning service, if there is one.
    pub(crate) fn load_provisioning(&self) -> Result<Option<State>, StoreError> {
        let Some(text) = self.read(PROVISIONING)? else {
            return Ok(None);
        };
        let path = self.path(PROVISIONING);
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|_| StoreError::Content { path })
    }

    pub(crate) fn save_provisioning(&self, state: &State) -> Result<(), StoreError> {
        let path = self.path(PROVISIONING);
        let text =
            serde_json::to_string_pretty(state).map_err(|error| file_error(&path, error.into()))?;
        write_atomically(&path, &text)
    }

    pub(crate) fn save(&self, registry: &Registry) -> Result<(), StoreError> {
        let devices = registry
            .devices()
            .filter_map(|(id, device)| {
                Some(DeviceEntry {
                    keys: KeysEntry::new(id, device.keys()?),
                    enabled: device.enabled,
                    generation: device.generation,
                })
            })
            .collect();
        let policies = registry
            .policies()
            .iter()
            .map(|policy| KeysEntry::new(policy.name, &policy.keys))
            .collect();
        let file = RegistryFile {
            group_key: BASE64.encode(registry.group_key()),
            policies,
            devices,
        };
        let path = self.path("registry.json");
        let text =
            serde_json::to_string_pretty(&file).map_err(|error| file_error(&path, error.into()))?;
        write_atomically(&path, &text)
    }
}

/// Writes a file so that it is there whole or not at all, readable by its owner only.
///
/// # Errors
/// Fails if the file cannot be written or put in place.
pub fn write_atomically(path: &Path, text: &str) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = directory.join(format!(".{name}.new"));
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&draft)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> StoreError {
    StoreError::File {
        path: path.to_owned(),
        source,
    }
}
