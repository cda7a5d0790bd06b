//! Certificates of this machine.

use std::fs;
use std::path::PathBuf;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tempfile::TempDir;

/// Is a server's certificate, which is its own authority, and its key, in files.
pub(crate) struct Identity {
    directory: TempDir,
    pub(crate) certified: CertifiedKey<KeyPair>,
}

impl Identity {
    /// Makes one for `localhost` and 127.0.0.1.
    pub(crate) fn generate() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certified = generate_simple_self_signed(names).expect("a certificate");
        let identity = Self {
            directory: TempDir::new().expect("a directory"),
            certified,
        };
        let CertifiedKey { cert, signing_key } = &identity.certified;
        fs::write(identity.certificate_file(), cert.pem()).expect("a file");
        fs::write(identity.key_file(), signing_key.serialize_pem()).expect("a file");
        identity
    }

    pub(crate) fn certificate_file(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }
}
