//! What the provisioning service knows and decides; pure, the time and the hubs are passed in.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::allocation::{self, LinkedHub, Loads};
use super::enrolment::{
    Attestation, Capabilities, Enrolment, InitialTwin, Kind, ProvisioningStatus, Terms,
};
use super::error::{Code, DpsError};
use super::key::{Key, Keys};
use super::login::{Credentials, Login};
use super::meter::Meter;
use super::registration::{Outcome, Registration, Substatus};
use super::table::Table;
use crate::guid::{Guid, random_bytes};
use crate::hub::keys::DeviceKeys;

/// Longest registration id (Microsoft, "IoT Hub Device Provisioning Service terminology").
const MAX_REGISTRATION_ID: usize = 128;
/// Devices that one service registers (Microsoft, "IoT Hub DPS limits").
const MAX_REGISTRATIONS: usize = 1_000_000;
/// How the service takes its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pace {
    /// When a device is asked to come again.
    pub(crate) retry_after: Duration,
    /// How long an assignment is under way.
    pub(crate) assigning: Duration,
    /// Whether the service's rate limits hold.
    pub(crate) throttled: bool,
}

/// Enrolments, registrations and the service's own names and keys.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) id_scope: String,
    /// Keys of the policy `provisioningserviceowner`.
    pub(crate) policy: Keys,
    // Rows of their own; older simulators stored them in here.
    #[serde(default, skip_serializing)]
    pub(super) individuals: Table<Enrolment>,
    #[serde(default, skip_serializing)]
    pub(super) groups: Table<Enrolment>,
    #[serde(default, skip_serializing)]
    pub(super) registrations: Table<Registration>,
    #[serde(skip)]
    pub(super) loads: Loads,
    /// Whether what is not in tables is yet to be stored.
    #[serde(skip)]
    pub(super) service_changed: bool,
    #[serde(skip)]
    meter: Meter,
    /// Takes any token that it can read, of whichever scope: for fuzz targets.
    #[serde(skip)]
    pub(crate) lenient: bool,
}

/// An answer to a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Reply {
    /// 202 while the operation is under way, 200 at its end.
    pub(crate) status: u16,
    /// Seconds after which to ask again; only while it is under way.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Value,
}

/// What has to happen in the hubs for a registration to be true.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placement {
    pub(crate) hub: String,
    pub(crate) device_id: String,
    pub(crate) credentials: Credentials,
    /// Whether a device that is there stays as it is.
    pub(crate) if_missing: bool,
    /// Where the device leaves.
    pub(crate) from: Option<Departure>,
    pub(crate) initial_twin: Option<InitialTwin>,
    pub(crate) capabilities: Option<Capabilities>,
}

/// A device's leaving of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) hub: String,
    pub(crate) device_id: String,
    /// Whether the twin goes along.
    pub(crate) migrate: bool,
}

impl State {
    pub(crate) fn new(id_scope: Option<String>) -> Self {
        Self {
            id_scope: id_scope.unwrap_or_else(random_scope),
            policy: Keys::random(),
            individuals: Table::default(),
            groups: Table::default(),
            registrations: Table::default(),
            loads: Loads::default(),
            service_changed: false,
            meter: Meter::default(),
            lenient: false,
        }
    }

    /// Makes sure of a group with this primary key.
    pub(crate) fn keep_group(&mut self, name: &str, primary_key: Key, now: SystemTime) {
        let group = self
            .groups
            .get_or_insert_with(name.to_lowercase(), || Enrolment {
                id: name.to_owned(),
                device_id: None,
                attestation: Attestation::SymmetricKey(Keys::random()),
                terms: Terms {
                    provisioning_status: Some(ProvisioningStatus::Enabled),
                    ..Terms::default()
                },
                etag: new_etag(),
                created: now,
                updated: now,
            });
        if let Attestation::SymmetricKey(keys) = &mut group.attestation {
            keys.primary_key = primary_key;
        }
    }

    /// The symmetric keys of an enrolment.
    pub(crate) fn keys_of(&self, kind: Kind, id: &str) -> Option<DeviceKeys> {
        match &self.enrolment_of(kind, id).ok()?.attestation {
            Attestation::SymmetricKey(keys) => Some(keys.encoded()),
            Attestation::X509(_) => None,
        }
    }

    /// Enables or disables an individual enrolment, or else a group; returns whether there is one.
    pub(crate) fn set_enabled(&mut self, id: &str, enabled: bool) -> bool {
        let key = id.to_lowercase();
        let individual = self.individuals.get_mut(&key);
        let Some(enrolment) = individual.or_else(|| self.groups.get_mut(&key)) else {
            return false;
        };
        enrolment.terms.provisioning_status = Some(if enabled {
            ProvisioningStatus::Enabled
        } else {
            ProvisioningStatus::Disabled
        });
        enrolment.etag = new_etag();
        true
    }

    pub(crate) fn registration(&self, id: &str) -> Option<&Registration> {
        self.registrations.get(&id.to_lowercase())
    }

    /// Forgets a registration, by its key.
    pub(super) fn forget(&mut self, key: &str) {
        if let Some(registration) = self.registrations.remove(key) {
            self.loads.take(registration.hub.as_deref());
        }
    }

    /// Starts to assign a device; what has to happen in the hubs comes with the answer.
    pub(crate) fn register(
        &mut self,
        login: &Login,
        payload: Option<Value>,
        hubs: &[LinkedHub],
        pace: &Pace,
        now: SystemTime,
    ) -> Result<(Reply, Option<Placement>), DpsError> {
        if pace.throttled {
            self.meter.registration(now)?;
        }
        let enrolment = self.enrolment(login, now).ok_or(Code::Unauthorized)?;
        let id = login.registration_id.to_lowercase();
        if self.registrations.len() >= MAX_REGISTRATIONS && !self.registrations.contains_key(&id) {
            return Err(Code::QuotaExceeded.into());
        }
        let device_id =
            enrolment
                .device_id
                .clone()
                .unwrap_or_else(|| match self.registrations.get(&id) {
                    Some(known) if known.group.is_some() => known.device_id.clone(),
                    _ => login.registration_id.clone(),
                });
        let decided = self.decide(login, enrolment, &device_id, hubs);
        let (outcome, placement) = match decided {
            Ok((substatus, placement)) => (Outcome::Assigned(substatus), placement),
            Err(None) => (Outcome::Disabled, None),
            Err(Some(error)) => {
                let (code, message) = (error.code.number(), error.message.into_owned());
                (Outcome::Failed { code, message }, None)
            }
        };
        let group = login.is_by_group().then(|| enrolment.id.clone());
        let by_certificate = matches!(enrolment.attestation, Attestation::X509(_));
        let operation = self.operation_id();
        let registration = self.registrations.get_or_insert_with(id, || {
            Registration::new(login.registration_id.clone(), device_id, now)
        });
        if let Some(placement) = &placement {
            self.loads.take(registration.hub.as_deref());
            self.loads.add(Some(&placement.hub));
            registration.hub = Some(placement.hub.clone());
            registration.device_id.clone_from(&placement.device_id);
        }
        registration.outcome = outcome;
        registration.group = group;
        registration.by_certificate = by_certificate;
        registration.payload = payload;
        registration.updated = now + pace.assigning;
        registration.etag = new_etag();
        registration.operations.start(operation.clone(), now);
        let body = serde_json::json!({ "operationId": operation, "status": "assigning" });
        let reply = Reply {
            status: 202,
            retry_after: Some(pace.retry_after.as_secs()),
            body,
        };
        Ok((reply, placement))
    }

    /// Where a device goes; `Err(None)` if its enrolment is disabled.
    fn decide(
        &self,
        login: &Login,
        enrolment: &Enrolment,
        device_id: &str,
        hubs: &[LinkedHub],
    ) -> Result<(Substatus, Option<Placement>), Option<DpsError>> {
        let terms = &enrolment.terms;
        if !terms.is_enabled() {
            return Err(None);
        }
        let id = login.registration_id.to_lowercase();
        let before = self
            .registrations
            .get(&id)
            .and_then(|known| Some((known, known.hub.as_deref()?)));
        let policy = terms.reprovision_policy.unwrap_or_default();
        if let Some((known, hub)) = before
            && !policy.update_hub_assignment
        {
            let substatus = match known.outcome {
                Outcome::Assigned(substatus) => substatus,
                Outcome::Failed { .. } | Outcome::Disabled => Substatus::InitialAssignment,
            };
            let placement = Placement {
                hub: hub.to_owned(),
                device_id: known.device_id.clone(),
                credentials: login.credentials(enrolment).map_err(Some)?,
                if_missing: true,
                from: None,
                initial_twin: terms.initial_twin.clone(),
                capabilities: terms.capabilities,
            };
            return Ok((substatus, Some(placement)));
        }
        let current = before.map(|(_, hub)| hub);
        let load = |host: &str| self.loads.of(host);
        let hub = allocation::choose(terms, hubs, &login.registration_id, current, load)
            .ok_or(Some(Code::IotHubNotLinked.into()))?;
        let stays = before.is_some_and(|(known, current)| {
            current.eq_ignore_ascii_case(&hub) && known.device_id == device_id
        });
        let substatus = match before {
            None => Substatus::InitialAssignment,
            Some(_) if stays => Substatus::ReprovisionedToInitialAssignment,
            Some(_) if policy.migrate_device_data => Substatus::DeviceDataMigrated,
            Some(_) => Substatus::DeviceDataReset,
        };
        let from = before.filter(|_| !stays).map(|(known, hub)| Departure {
            hub: hub.to_owned(),
            device_id: known.device_id.clone(),
            migrate: policy.migrate_device_data,
        });
        let placement = Placement {
            hub,
            device_id: device_id.to_owned(),
            credentials: login.credentials(enrolment).map_err(Some)?,
            if_missing: false,
            from,
            initial_twin: terms.initial_twin.clone(),
            capabilities: terms.capabilities,
        };
        Ok((substatus, Some(placement)))
    }

    /// Tells a device how far its operation is.
    pub(crate) fn operation_status(
        &mut self,
        login: &Login,
        operation: &str,
        pace: &Pace,
        now: SystemTime,
    ) -> Result<Reply, DpsError> {
        if pace.throttled {
            self.meter.operation(now)?;
        }
        self.enrolment(login, now).ok_or(Code::Unauthorized)?;
        let registration = self
            .registrations
            .peek_mut(&login.registration_id.to_lowercase())
            .filter(|registration| registration.operations.know(operation, now))
            .ok_or(Code::OperationNotFound)?;
        if pace.throttled && registration.polls_too_often(now) {
            return Err(super::meter::throttled());
        }
        let under_way = registration.is_under_way(now);
        Ok(Reply {
            status: if under_way { 202 } else { 200 },
            retry_after: under_way.then_some(pace.retry_after.as_secs()),
            body: registration.operation_view(operation, now),
        })
    }

    /// Tells a device its registration state.
    pub(crate) fn look_up(&self, login: &Login, now: SystemTime) -> Result<Value, DpsError> {
        self.enrolment(login, now).ok_or(Code::Unauthorized)?;
        self.registrations
            .get(&login.registration_id.to_lowercase())
            .map(|registration| registration.device_view(now))
            .ok_or_else(|| Code::RegistrationNotFound.into())
    }

    /// `4.`, a number that stands for the service, and a GUID, as the real ids look.
    fn operation_id(&self) -> String {
        let service = crate::hub::sas::hmac_sha256(self.id_scope.as_bytes(), &[b"operations"]);
        let service = service
            .first_chunk::<8>()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        format!("4.{service:016x}.{}", Guid::random())
    }
}

/// `0ne` and eight hexadecimal digits.
fn random_scope() -> String {
    format!("0ne{:08X}", u32::from_be_bytes(random_bytes()))
}

/// An etag as the service makes them: a quoted GUID in base64.
pub(super) fn new_etag() -> String {
    BASE64.encode(format!("\"{}\"", Guid::random()))
}

/// Letters, digits, `-`, `.`, `_` and `:`; the last one a letter, a digit or `-`.
pub(super) fn is_valid_registration_id(id: &str) -> bool {
    let ends_well = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    id.len() <= MAX_REGISTRATION_ID
        && id.as_bytes().last().is_some_and(ends_well)
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte))
}
