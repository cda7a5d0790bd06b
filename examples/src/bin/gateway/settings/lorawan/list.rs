//! The devices that are listed in a file of their own, with their keys where the network server is
//! inside.

use std::collections::HashSet;
use std::path::PathBuf;

use gateway_downstream_lorawan::server::{DeviceConfig, parse_devices};

use super::super::files::resolve;
use super::profiles::Profiles;
use super::ways;
use crate::document::Document;
use crate::secret::Surroundings;

const KEY: &str = "downstream.lorawan.devices_file";

/// Whether a device is the network server's inside.
pub(super) fn has_keys(device: &DeviceConfig) -> bool {
    device.otaa.is_some() || device.abp.is_some()
}

/// Reads the list that the file names; what is wrong is noted. Without one, no device is listed.
pub(super) fn read(
    document: &mut Document<'_>,
    around: &Surroundings<'_>,
    profiles: &Profiles,
) -> Option<Vec<DeviceConfig>> {
    if !document.has(KEY) {
        return Some(Vec::new());
    }
    let mut path: PathBuf = document.take(KEY)?;
    resolve(document, around.directory, KEY, Some(&mut path));
    let text = std::fs::read_to_string(&path).ok()?;
    let devices = match parse_devices(&text) {
        Ok(devices) => devices,
        Err(error) => {
            document.note(KEY, format!("names {}: {error}", path.display()));
            return None;
        }
    };
    let mut names = HashSet::new();
    for device in &devices {
        let place = format!("lists {}, which ", device.dev_eui);
        if let Some(profile) = &device.profile {
            profiles.check(document, KEY, &place, profile);
        }
        if device.id.as_ref().is_some_and(|name| !names.insert(name)) {
            document.note(
                KEY,
                format!("{place}has the id of another; allowed: each once"),
            );
        }
        let problem = match (has_keys(device), document.has(ways::SERVER)) {
            (true, false) => "has keys, but the network server is elsewhere",
            (false, true) if !ways::is_elsewhere(document) => "has no keys",
            _ => continue,
        };
        let allowed = format!(
            "keys only with `{}`, and then of every device",
            ways::SERVER
        );
        document.note(KEY, format!("{place}{problem}; allowed: {allowed}"));
    }
    Some(devices)
}
