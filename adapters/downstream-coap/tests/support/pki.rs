//! Certificates for tests.

use std::path::PathBuf;

use gateway_downstream_coap::TlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// A certificate authority (`ca.pem`), and this machine's certificate and key (`cert.pem`,
/// `key.pem`), in files.
pub(crate) struct Pki(TempDir);

impl Pki {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "test root");
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &root).unwrap();
        for (file, text) in [
            ("ca.pem", root.pem()),
            ("cert.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        Self(directory)
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// The settings of a gateway that shows the certificate, on a free port.
    pub(crate) fn config(&self) -> TlsConfig {
        let mut tls = TlsConfig::new(self.path("cert.pem"), self.path("key.pem"));
        tls.listen = "127.0.0.1:0".parse().unwrap();
        tls
    }
}
