//! Who a device is: its proof against the enrolments.
//!
//! Source: Microsoft, "Symmetric key attestation" and "X.509 certificate attestation" of the Device
//! Provisioning Service.

use std::time::SystemTime;

use super::enrolment::{Attestation, Enrolment};
use super::error::{Code, DpsError};
use super::key::Keys;
use super::state::{State, is_valid_registration_id};
use crate::clock::unix_seconds;
use crate::hub::sas::SasToken;
use crate::tls::Thumbprints;

/// The policy that devices name in their tokens.
const DEVICE_POLICY: &str = "registration";

/// How a device proves who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Proof<'a> {
    /// A shared access signature.
    Token(&'a str),
    /// The client certificate of its TLS connection.
    Certificate(&'a Thumbprints),
}

/// A device that has proved to be enrolled; good for one registration id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// As the device wrote it.
    pub(crate) registration_id: String,
    id_scope: String,
    /// Seconds since the Unix epoch at which its token expires; none for a certificate.
    pub(crate) expiry: Option<u64>,
    via: Via,
}

impl Login {
    /// Whether this is the registration at an address, `{id scope}/registrations/{registration id}`.
    pub(crate) fn is_at(&self, address: &str) -> bool {
        format!("{}/registrations/{}", self.id_scope, self.registration_id)
            .eq_ignore_ascii_case(address)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Via {
    Individual,
    Group {
        /// The group's key in the map.
        group: String,
        /// The spelling of the registration id that the device's key derives from.
        keyed_as: String,
    },
}

/// By what the device will prove itself to its hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Keys(Keys),
    /// SHA-256, primary and secondary.
    Thumbprints([String; 2]),
}

impl Login {
    /// What the hub is to know the device by.
    pub(super) fn credentials(&self, enrolment: &Enrolment) -> Result<Credentials, DpsError> {
        match (&enrolment.attestation, &self.via) {
            (Attestation::SymmetricKey(keys), Via::Individual) => {
                Ok(Credentials::Keys(keys.clone()))
            }
            (Attestation::SymmetricKey(keys), Via::Group { keyed_as, .. }) => {
                Ok(Credentials::Keys(keys.derive(keyed_as)))
            }
            (Attestation::X509(x509), _) => x509
                .thumbprints()
                .map(|both| Credentials::Thumbprints(both.map(str::to_owned)))
                .ok_or_else(|| Code::Unauthorized.into()),
        }
    }

    pub(super) fn is_by_group(&self) -> bool {
        matches!(self.via, Via::Group { .. })
    }
}

impl State {
    /// Lets a device in that proves to be enrolled.
    ///
    /// An individual enrolment goes before every group.
    pub(crate) fn log_in(
        &self,
        id_scope: &str,
        registration_id: &str,
        proof: Proof<'_>,
        now: SystemTime,
    ) -> Result<Login, DpsError> {
        if !self.lenient && !id_scope.eq_ignore_ascii_case(&self.id_scope) {
            return Err(Code::ServiceNotFound.into());
        }
        if !is_valid_registration_id(registration_id) {
            return Err(DpsError::invalid("The registration id is not valid."));
        }
        let login = |via, expiry| Login {
            registration_id: registration_id.to_owned(),
            id_scope: id_scope.to_owned(),
            expiry,
            via,
        };
        let individual = self.individuals.get(&registration_id.to_lowercase());
        let attestation = individual.map(|one| &one.attestation);
        match proof {
            Proof::Certificate(shown) => match attestation {
                Some(Attestation::X509(x509)) if x509.fits(shown) => {
                    Ok(login(Via::Individual, None))
                }
                _ => Err(DpsError::invalid_certificate()),
            },
            Proof::Token(text) => {
                let token = self.token(text, registration_id, now)?;
                let signed =
                    |keys: &Keys| keys.either().map(|key| token.is_signed_with(key.bytes()));
                let fits = |keys: &Keys| self.lenient || signed(keys).contains(&true);
                let via = match attestation {
                    Some(Attestation::SymmetricKey(keys)) => fits(keys).then_some(Via::Individual),
                    Some(Attestation::X509(_)) => None,
                    None => self.group_of(registration_id, fits),
                };
                let via = via.ok_or(Code::Unauthorized)?;
                Ok(login(via, (!self.lenient).then_some(token.expiry)))
            }
        }
    }

    fn token<'a>(
        &self,
        text: &'a str,
        registration_id: &str,
        now: SystemTime,
    ) -> Result<SasToken<'a>, DpsError> {
        let token = SasToken::parse(text).map_err(|_| Code::Unauthorized)?;
        let own = token.resource.is_on(&self.id_scope)
            && token.resource.covers(&["registrations", registration_id]);
        let named = token
            .policy
            .as_deref()
            .is_none_or(|name| name == DEVICE_POLICY);
        if self.lenient || own && named && token.expiry > unix_seconds(now) {
            Ok(token)
        } else {
            Err(Code::Unauthorized.into())
        }
    }

    fn group_of(&self, registration_id: &str, fits: impl Fn(&Keys) -> bool) -> Option<Via> {
        let spellings = [registration_id.to_owned(), registration_id.to_lowercase()];
        self.groups.iter().find_map(|(name, group)| {
            let Attestation::SymmetricKey(keys) = &group.attestation else {
                return None;
            };
            let keyed_as = spellings
                .iter()
                .find(|spelling| fits(&keys.derive(spelling)))?;
            Some(Via::Group {
                group: name.clone(),
                keyed_as: keyed_as.clone(),
            })
        })
    }

    /// The enrolment of a login, if both are still good.
    pub(super) fn enrolment(&self, login: &Login, now: SystemTime) -> Option<&Enrolment> {
        if login
            .expiry
            .is_some_and(|expiry| expiry <= unix_seconds(now))
        {
            return None;
        }
        let id = login.registration_id.to_lowercase();
        match &login.via {
            Via::Individual => self.individuals.get(&id),
            Via::Group { .. } if self.individuals.contains_key(&id) => None,
            Via::Group { group, .. } => self.groups.get(group),
        }
    }
}
