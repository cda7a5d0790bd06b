//! The service API on the state: enrolments and registrations written, read, listed and removed.
//!
//! Source: Microsoft, REST reference of the Device Provisioning Service, api-version 2021-10-01, and
//! recordings of the real service (`azure-sdk-for-python`).

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::{Value, json};

use super::allocation::{LinkedHub, names};
use super::enrolment::{Enrolment, Kind, Submitted};
use super::error::{Code, DpsError};
use super::registration::Registration;
use super::state::{State, is_valid_registration_id, new_etag};
use super::table::Table;
use crate::hub::registry::is_valid_id;
use crate::hub::sas::SasToken;

/// The policy of the service API.
pub(crate) const OWNER_POLICY: &str = "provisioningserviceowner";
/// Enrolments and groups of a service (Microsoft, "IoT Hub DPS limits").
const MAX_ENROLMENTS: usize = 1_000_000;
const MAX_GROUPS: usize = 100;
/// Enrolments in one bulk operation.
const MAX_BULK: usize = 10;
/// Items on a page, by default and at most.
const PAGE: usize = 100;

/// A condition on what is there before a write: `If-Match`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IfMatch<'a>(pub(crate) Option<&'a str>);

impl IfMatch<'_> {
    fn is_given(self) -> bool {
        self.0.is_some()
    }

    /// Whether an etag meets the condition; none given is met by any.
    fn is_met_by(self, etag: &str) -> bool {
        let Some(wanted) = self.0 else {
            return true;
        };
        // SDKs differ in quotes: around the etag, around `*`, or none.
        let wanted = wanted.trim().trim_matches('"');
        wanted == "*" || wanted == etag
    }
}

/// A page of a query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    pub(crate) items: Vec<Value>,
    /// Asks for the next page, if there is one.
    pub(crate) continuation: Option<String>,
}

/// Which page of a query.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PageRequest<'a> {
    pub(crate) continuation: Option<&'a str>,
    pub(crate) size: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bulk {
    mode: BulkMode,
    enrollments: Option<Vec<Value>>,
    enrollment_groups: Option<Vec<Value>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum BulkMode {
    Create,
    Update,
    #[serde(alias = "updateIfMatchEtag")]
    UpdateIfMatchETag,
    Delete,
}

impl State {
    /// Whether a token is the service policy's, for one of these host names.
    pub(crate) fn may_serve(&self, token: &str, hosts: &[&str], now: SystemTime) -> bool {
        SasToken::parse(token).is_ok_and(|token| {
            let signed = self.policy.either();
            let signed = signed.map(|key| token.is_signed_with(key.bytes()));
            let good = token.policy.as_deref() == Some(OWNER_POLICY)
                && hosts.iter().any(|host| token.resource.is_on(host))
                && token.resource.covers(&[])
                && signed.contains(&true)
                && token.expiry > crate::clock::unix_seconds(now);
            good || self.lenient
        })
    }

    fn table(&mut self, kind: Kind) -> &mut Table<Enrolment> {
        match kind {
            Kind::Individual => &mut self.individuals,
            Kind::Group => &mut self.groups,
        }
    }

    /// Finds an enrolment.
    pub(crate) fn enrolment_of(&self, kind: Kind, id: &str) -> Result<&Enrolment, DpsError> {
        let (table, missing) = match kind {
            Kind::Individual => (&self.individuals, Code::EnrollmentNotFound),
            Kind::Group => (&self.groups, Code::GroupNotFound),
        };
        table.get(&id.to_lowercase()).ok_or_else(|| missing.into())
    }

    /// Creates an enrolment, or replaces one whose etag is given.
    pub(crate) fn put(
        &mut self,
        kind: Kind,
        id: &str,
        body: &[u8],
        if_match: IfMatch<'_>,
        hubs: &[LinkedHub],
        now: SystemTime,
    ) -> Result<Value, DpsError> {
        let submitted: Submitted = serde_json::from_slice(body).map_err(|error| {
            DpsError::invalid(format!("The enrollment cannot be read: {error}"))
        })?;
        self.write(kind, id, &submitted, if_match, hubs, now)
    }

    fn write(
        &mut self,
        kind: Kind,
        id: &str,
        submitted: &Submitted,
        if_match: IfMatch<'_>,
        hubs: &[LinkedHub],
        now: SystemTime,
    ) -> Result<Value, DpsError> {
        submitted.check()?;
        let same = |other: &str| other.eq_ignore_ascii_case(id);
        if !is_valid_registration_id(id) || !submitted.id(kind).is_none_or(same) {
            return Err(DpsError::invalid(format!(
                "The {} is not valid.",
                kind.id_field()
            )));
        }
        if !submitted.device_id.as_deref().is_none_or(is_valid_id) {
            return Err(DpsError::invalid("The deviceId is not valid."));
        }
        for host in submitted.terms.allowed_hubs() {
            if !hubs.iter().any(|hub| names(&[host], &hub.host)) {
                return Err(DpsError {
                    message: format!("The IoT hub {host} is not linked.").into(),
                    ..Code::IotHubNotLinked.into()
                });
            }
        }
        let (most, exists) = match kind {
            Kind::Individual => (MAX_ENROLMENTS, Code::EnrollmentExists),
            Kind::Group => (MAX_GROUPS, Code::GroupExists),
        };
        let table = self.table(kind);
        let key = id.to_lowercase();
        let before = table.get(&key);
        match before {
            Some(_) if !if_match.is_given() => return Err(exists.into()),
            Some(before) if !if_match.is_met_by(&before.etag) => {
                return Err(Code::PreconditionFailed.into());
            }
            None if if_match.is_given() && !if_match.is_met_by("") => {
                return Err(Code::PreconditionFailed.into());
            }
            None if table.len() >= most => return Err(Code::QuotaExceeded.into()),
            _ => {}
        }
        let enrolment = Enrolment {
            id: before.map_or_else(|| id.to_owned(), |before| before.id.clone()),
            device_id: submitted
                .device_id
                .clone()
                .filter(|_| kind == Kind::Individual),
            attestation: submitted.attestation(kind, before.map(|before| &before.attestation))?,
            terms: submitted.terms.clone(),
            etag: new_etag(),
            created: before.map_or(now, |before| before.created),
            updated: now,
        };
        let view = enrolment.view(kind, true);
        table.insert(key, enrolment);
        Ok(view)
    }

    /// Shows an enrolment; an individual one with its registration state.
    pub(crate) fn show(&self, kind: Kind, id: &str, now: SystemTime) -> Result<Value, DpsError> {
        let enrolment = self.enrolment_of(kind, id)?;
        let mut view = enrolment.view(kind, false);
        if kind == Kind::Individual {
            view["registrationState"] = match self.registrations.get(&id.to_lowercase()) {
                Some(registration) => registration.view(now),
                None => json!({ "registrationId": enrolment.id, "status": "unassigned" }),
            };
        }
        Ok(view)
    }

    pub(crate) fn attestation_mechanism(&self, kind: Kind, id: &str) -> Result<Value, DpsError> {
        Ok(self.enrolment_of(kind, id)?.attestation.view(true))
    }

    /// Removes an enrolment with its registrations; devices stay in their hubs.
    pub(crate) fn remove(
        &mut self,
        kind: Kind,
        id: &str,
        if_match: IfMatch<'_>,
    ) -> Result<(), DpsError> {
        if !if_match.is_met_by(&self.enrolment_of(kind, id)?.etag) {
            return Err(Code::PreconditionFailed.into());
        }
        let key = id.to_lowercase();
        self.table(kind).remove(&key);
        match kind {
            Kind::Individual => self.forget(&key),
            Kind::Group => {
                let of_group = self.of_group(id).map(|(key, _)| key.clone());
                for key in of_group.collect::<Vec<_>>() {
                    self.forget(&key);
                }
            }
        }
        Ok(())
    }

    /// Lists enrolments, without keys.
    pub(crate) fn query(
        &self,
        kind: Kind,
        body: &[u8],
        page: PageRequest<'_>,
    ) -> Result<Page, DpsError> {
        check_query(body)?;
        let table = match kind {
            Kind::Individual => &self.individuals,
            Kind::Group => &self.groups,
        };
        paged(
            table
                .iter()
                .map(|(key, enrolment)| (key, || enrolment.view(kind, false))),
            page,
        )
    }

    /// Lists the registrations of a group.
    pub(crate) fn query_registrations(
        &self,
        group: &str,
        page: PageRequest<'_>,
        now: SystemTime,
    ) -> Result<Page, DpsError> {
        self.enrolment_of(Kind::Group, group)?;
        let of_group = self.of_group(group);
        paged(
            of_group.map(|(key, registration)| (key, || registration.view(now))),
            page,
        )
    }

    fn of_group(&self, group: &str) -> impl Iterator<Item = (&String, &Registration)> {
        self.registrations.iter().filter(move |(_, registration)| {
            let own = registration.group.as_deref();
            own.is_some_and(|own| own.eq_ignore_ascii_case(group))
        })
    }

    pub(crate) fn show_registration(&self, id: &str, now: SystemTime) -> Result<Value, DpsError> {
        self.registrations
            .get(&id.to_lowercase())
            .map(|registration| registration.view(now))
            .ok_or_else(|| Code::RegistrationNotFound.into())
    }

    /// Forgets a registration; the device stays in its hub.
    pub(crate) fn remove_registration(
        &mut self,
        id: &str,
        if_match: IfMatch<'_>,
    ) -> Result<(), DpsError> {
        let key = id.to_lowercase();
        let registration = self
            .registrations
            .get(&key)
            .ok_or(Code::RegistrationNotFound)?;
        if !if_match.is_met_by(&registration.etag) {
            return Err(Code::PreconditionFailed.into());
        }
        self.forget(&key);
        Ok(())
    }

    /// Writes or removes up to ten enrolments, each for itself.
    pub(crate) fn bulk(
        &mut self,
        kind: Kind,
        body: &[u8],
        hubs: &[LinkedHub],
        now: SystemTime,
    ) -> Result<Value, DpsError> {
        let bulk: Bulk = serde_json::from_slice(body).map_err(|error| {
            DpsError::invalid(format!("The bulk operation cannot be read: {error}"))
        })?;
        let items = match kind {
            Kind::Individual => bulk.enrollments,
            Kind::Group => bulk.enrollment_groups,
        }
        .unwrap_or_default();
        if items.is_empty() || items.len() > MAX_BULK {
            return Err(DpsError::invalid(
                "A bulk operation has 1 to 10 enrollments.",
            ));
        }
        let mut errors = Vec::new();
        for item in items {
            let id = item[kind.id_field()]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if let Err(error) = self.bulk_item(kind, bulk.mode, &id, item, hubs, now) {
                errors.push(json!({
                    kind.id_field(): id,
                    "errorCode": error.code.number(),
                    "errorStatus": error.message,
                }));
            }
        }
        Ok(json!({ "isSuccessful": errors.is_empty(), "errors": errors }))
    }

    fn bulk_item(
        &mut self,
        kind: Kind,
        mode: BulkMode,
        id: &str,
        item: Value,
        hubs: &[LinkedHub],
        now: SystemTime,
    ) -> Result<(), DpsError> {
        if mode == BulkMode::Delete {
            let etag = item["etag"].as_str();
            return self.remove(kind, id, IfMatch(etag));
        }
        let submitted: Submitted = serde_json::from_value(item).map_err(|error| {
            DpsError::invalid(format!("The enrollment cannot be read: {error}"))
        })?;
        let etag = submitted.etag.as_deref();
        // The real service refuses to update what it knows unless an etag comes along.
        let condition = match mode {
            BulkMode::Create | BulkMode::Delete => None,
            BulkMode::Update => etag.map(|_| "*"),
            BulkMode::UpdateIfMatchETag => etag,
        };
        if mode != BulkMode::Create {
            self.enrolment_of(kind, id)?;
        }
        self.write(kind, id, &submitted, IfMatch(condition), hubs, now)?;
        Ok(())
    }
}

/// Queries select everything: `SELECT *`, with or without `FROM`, as SDKs and samples ask.
fn check_query(body: &[u8]) -> Result<(), DpsError> {
    #[derive(Deserialize)]
    struct Specification {
        query: String,
    }
    if body.is_empty() {
        return Ok(());
    }
    let specification: Specification = serde_json::from_slice(body)
        .map_err(|_| DpsError::invalid("The query specification cannot be read."))?;
    let words: Vec<String> = specification
        .query
        .split_whitespace()
        .map(str::to_lowercase)
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["select", "*"] | ["select", "*", "from", _] => Ok(()),
        _ => Err(DpsError::invalid(
            "The simulator answers queries of the form SELECT * FROM enrollments.",
        )),
    }
}

/// Cuts a page out of ordered items; a continuation names the last one before it.
fn paged<'a, V: FnOnce() -> Value>(
    items: impl Iterator<Item = (&'a String, V)>,
    page: PageRequest<'_>,
) -> Result<Page, DpsError> {
    let after = page
        .continuation
        .map(|token| {
            let bytes = BASE64.decode(token).ok();
            bytes.and_then(|bytes| String::from_utf8(bytes).ok())
        })
        .map(|after| after.ok_or_else(|| DpsError::invalid("The continuation is not valid.")))
        .transpose()?;
    let size = page.size.unwrap_or(PAGE).clamp(1, PAGE);
    let mut items = items
        .skip_while(|(key, _)| after.as_ref().is_some_and(|after| *key <= after))
        .peekable();
    let (mut views, mut last) = (Vec::new(), None);
    while views.len() < size
        && let Some((key, view)) = items.next()
    {
        views.push(view());
        last = Some(key);
    }
    let more = items.peek().is_some();
    let continuation = last.filter(|_| more).map(|key| BASE64.encode(key));
    Ok(Page {
        items: views,
        continuation,
    })
}
