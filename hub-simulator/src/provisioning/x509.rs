//! Certificates of enrolments: kept as what can be told of them, which is what the service gives back.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::enrolment::Kind;
use super::error::DpsError;
use crate::clock::iso8601;
use crate::tls::Thumbprints;

/// The certificates of an enrolment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct X509 {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_certificates: Option<Pair>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signing_certificates: Option<Pair>,
    /// Names of certificates uploaded to the service; kept, never followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_references: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pair {
    primary: Certificate,
    secondary: Certificate,
}

/// What the service tells of a certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Certificate {
    info: Map<String, Value>,
}

/// The certificates as a client writes them.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubmittedX509 {
    client_certificates: Option<SubmittedPair>,
    signing_certificates: Option<SubmittedPair>,
    ca_references: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct SubmittedPair {
    primary: Option<SubmittedCertificate>,
    secondary: Option<SubmittedCertificate>,
}

#[derive(Debug, Clone, Deserialize)]
struct SubmittedCertificate {
    certificate: Option<String>,
}

impl X509 {
    /// Reads submitted certificates; one that is described but not submitted stays as it was.
    pub(super) fn take(
        given: &SubmittedX509,
        kind: Kind,
        before: Option<&Self>,
    ) -> Result<Self, DpsError> {
        let client = before.and_then(|x509| x509.client_certificates.as_ref());
        let signing = before.and_then(|x509| x509.signing_certificates.as_ref());
        let taken = Self {
            client_certificates: Pair::take(given.client_certificates.as_ref(), client)?,
            signing_certificates: Pair::take(given.signing_certificates.as_ref(), signing)?,
            ca_references: given.ca_references.clone(),
        };
        let usable = match kind {
            Kind::Individual => {
                taken.client_certificates.is_some() || taken.ca_references.is_some()
            }
            Kind::Group => taken.signing_certificates.is_some() || taken.ca_references.is_some(),
        };
        if usable {
            Ok(taken)
        } else {
            Err(DpsError::invalid("The attestation has no certificate."))
        }
    }

    pub(super) fn view(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Whether a certificate that is shown is one of a device's.
    pub(super) fn fits(&self, shown: &Thumbprints) -> bool {
        let known = self.thumbprints();
        known.is_some_and(|known| known.iter().any(|one| shown.fits(one)))
    }

    /// The thumbprints that a device of this enrolment may show.
    pub(super) fn thumbprints(&self) -> Option<[&str; 2]> {
        let pair = self.client_certificates.as_ref()?;
        Some([pair.primary.sha256()?, pair.secondary.sha256()?])
    }
}

impl Pair {
    fn take(
        given: Option<&SubmittedPair>,
        before: Option<&Self>,
    ) -> Result<Option<Self>, DpsError> {
        let Some(given) = given else {
            return Ok(None);
        };
        let take = |one: &Option<SubmittedCertificate>| {
            let text = one.as_ref().and_then(|one| one.certificate.as_deref());
            text.map(Certificate::read).transpose()
        };
        let primary = match take(&given.primary)? {
            Some(primary) => primary,
            None => match before {
                Some(before) => before.primary.clone(),
                None => return Err(DpsError::invalid("The primary certificate is missing.")),
            },
        };
        let kept = before
            .filter(|_| given.secondary.is_some())
            .map(|before| before.secondary.clone());
        // The real service shows a certificate that stands alone twice.
        let secondary = take(&given.secondary)?
            .or(kept)
            .unwrap_or_else(|| primary.clone());
        Ok(Some(Self { primary, secondary }))
    }
}

impl Certificate {
    /// Reads a certificate in PEM, or in DER and base64.
    fn read(text: &str) -> Result<Self, DpsError> {
        let bad = || DpsError::invalid("A certificate is PEM, or base64 of DER.");
        // Some tools wrap a whole PEM file in base64 once more.
        let decoded = decode(text).ok_or_else(bad)?;
        let der = match std::str::from_utf8(&decoded) {
            Ok(pem) if pem.contains("-----BEGIN") => decode(pem).ok_or_else(bad)?,
            _ => decoded,
        };
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| bad())?;
        let thumbprints = Thumbprints::of(&der);
        let time = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
            iso8601(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
        };
        let serial = certificate.raw_serial();
        let serial: String = serial.iter().map(|byte| format!("{byte:02X}")).collect();
        let info = json!({
            "subjectName": certificate.subject().to_string(),
            "sha1Thumbprint": thumbprints.sha1,
            "sha256Thumbprint": thumbprints.sha256,
            "issuerName": certificate.issuer().to_string(),
            "notBeforeUtc": time(certificate.validity().not_before),
            "notAfterUtc": time(certificate.validity().not_after),
            "serialNumber": serial,
            "version": certificate.version().0 + 1,
        });
        match info {
            Value::Object(info) => Ok(Self { info }),
            _ => Err(bad()),
        }
    }

    fn sha256(&self) -> Option<&str> {
        self.info.get("sha256Thumbprint")?.as_str()
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let body: String = text
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .flat_map(str::chars)
        .filter(|character| !character.is_whitespace())
        .collect();
    BASE64.decode(body).ok()
}
