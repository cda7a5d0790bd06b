//! Files that the configuration names: made absolute, and tried. What is wrong with them is noted.

use std::path::{Path, PathBuf};

use gateway_core::DeviceId;
use gateway_core::credential::Secret;
use gateway_downstream_coap::dtls::StaticPskStore;
use gateway_net::tls::client;
use gateway_net::tls::server::{self, Clients};
use gateway_net::{BindError, read_secrets};

use crate::document::Document;

/// Makes a path absolute, and notes it if nobody can read there.
pub(super) fn resolve(
    document: &mut Document<'_>,
    directory: &Path,
    key: &str,
    path: Option<&mut PathBuf>,
) {
    let Some(path) = path else { return };
    *path = directory.join(&*path);
    if let Err(error) = std::fs::File::open(&path) {
        document.note(
            key,
            format!("names {}, which cannot be read: {error}", path.display()),
        );
    }
}

/// Secrets by device.
pub(super) fn secrets(
    document: &mut Document<'_>,
    directory: &Path,
    key: &str,
    path: Option<&mut PathBuf>,
) {
    let Some(path) = path else { return };
    resolve(document, directory, key, Some(path));
    if let Err(error) = read_secrets::<DeviceId, Secret>(path, "secrets by device") {
        note(document, key, error);
    }
}

/// Keys by identity, for DTLS.
pub(super) fn dtls_keys(
    document: &mut Document<'_>,
    directory: &Path,
    key: &str,
    path: Option<&mut PathBuf>,
) {
    let Some(path) = path else { return };
    resolve(document, directory, key, Some(path));
    if let Err(error) = StaticPskStore::new().read_file(path) {
        note(document, key, error);
    }
}

/// What a section speaks TLS to devices with.
pub(super) fn server_tls(
    document: &mut Document<'_>,
    directory: &Path,
    section: &str,
    certificate: &mut PathBuf,
    key: &mut PathBuf,
    mut client_ca: Option<&mut PathBuf>,
) {
    let at = |name: &str| format!("{section}.{name}");
    resolve(document, directory, &at("certificate"), Some(certificate));
    resolve(document, directory, &at("key"), Some(key));
    resolve(
        document,
        directory,
        &at("client_ca"),
        client_ca.as_deref_mut(),
    );
    let clients = match &client_ca {
        None => Clients::Unasked,
        Some(roots) => Clients::Asked {
            roots,
            required: false,
        },
    };
    if let Err(error) = server::config(certificate, key, clients) {
        let name = match &error {
            BindError::File { path, .. } if path == key => "key",
            BindError::File { path, .. } if client_ca.is_some_and(|ca| path == ca) => "client_ca",
            _ => "certificate",
        };
        note(document, &at(name), error);
    }
}

/// Whom a section trusts that speaks TLS to a hub or another server, where it says so.
pub(super) fn client_tls(
    document: &mut Document<'_>,
    directory: &Path,
    section: &str,
    mut ca_file: Option<&mut PathBuf>,
    ca_pem: Option<&str>,
) {
    let key = format!("{section}.ca_file");
    resolve(document, directory, &key, ca_file.as_deref_mut());
    let ca_file = ca_file.map(|path| &**path);
    if (ca_file.is_some() || ca_pem.is_some())
        && let Err(error) = client::config(ca_file, ca_pem)
    {
        document.note_error(section, &error);
    }
}

fn note(document: &mut Document<'_>, key: &str, error: BindError) {
    let error = anyhow::Error::from(error);
    document.note(key, format!("is wrong: {error:#}"));
}
