//! Files of secrets.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::bind::BindError;

/// Reads a JSON file of one object: something secret for each name. Errors do not repeat what is in
/// it.
///
/// # Errors
/// The file cannot be read, or is not such an object.
pub fn read_secrets<K, T>(path: &Path, purpose: &'static str) -> Result<HashMap<K, T>, BindError>
where
    K: DeserializeOwned + Eq + Hash,
    T: DeserializeOwned,
{
    let text = std::fs::read(path).map_err(|error| BindError::file(path, purpose, error))?;
    serde_json::from_slice(&text).map_err(|error| {
        // Its message repeats values; the place must do.
        let place = format!("line {}, column {}", error.line(), error.column());
        BindError::file(path, purpose, place)
    })
}
