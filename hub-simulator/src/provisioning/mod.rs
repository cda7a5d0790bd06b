//! The Device Provisioning Service of a cloud: it assigns enrolled devices to the cloud's hubs.
//!
//! A protocol's front drives it so, with [`Dps`] from `Caller::cloud`:
//!
//! ```text
//! let login = dps.log_in(id_scope, registration_id, Proof::Token(text), now)?;   // once
//! let reply = dps.register(&cloud, &login, body, now)?;             // 202, `retry-after`, operation id
//! let reply = dps.operation_status(&login, operation_id, now)?;     // 202 again, or 200 with the result
//! ```
//!
//! Every refusal is a [`DpsError`], which knows its HTTP status and its JSON body. A login is good for
//! its registration id until it expires, or its enrolment is removed.

mod allocation;
mod enrolment;
mod error;
mod handle;
mod key;
mod login;
mod meter;
mod options;
mod placing;
mod registration;
pub(crate) mod service;
mod state;
mod stored;
mod table;
#[cfg(test)]
mod tests;
mod x509;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::Value;

use allocation::LinkedHub;
pub(crate) use enrolment::Kind;
pub(crate) use error::DpsError;
pub use handle::{Provisioning, ProvisioningError, Registered};
use key::Key;
pub(crate) use login::{Login, Proof};
pub use options::ProvisioningOptions;
use state::Pace;
pub(crate) use state::{Reply, State};
pub(crate) use stored::{Changes, Stored};
pub(crate) use table::Rows;

use crate::cloud::Cloud;
use crate::hub::Hub;
use crate::hub::state::Now;

/// The group that every service is made with; its key is the hub's group key.
const DEFAULT_GROUP: &str = "default";
/// Largest payload that a device may send along.
const MAX_PAYLOAD: usize = 64 * 1024;

/// The provisioning service behind every protocol.
#[derive(Debug)]
pub(crate) struct Dps {
    /// The service's host name.
    pub(crate) host: String,
    pace: Pace,
    state: Mutex<State>,
    /// Shares of hashed devices, by hub in lower case; 1 unless it says otherwise.
    weights: Mutex<BTreeMap<String, u32>>,
}

/// What a device sends with its registration.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    registration_id: Option<String>,
    payload: Option<Value>,
    tpm: Option<Value>,
}

impl Dps {
    /// Takes up the stored state, or starts afresh with a default group under `group_key`.
    pub(crate) fn new(
        options: &ProvisioningOptions,
        default_host: &str,
        stored: Option<State>,
        group_key: &[u8],
        now: Now,
    ) -> Self {
        let mut state = stored.unwrap_or_else(|| State::new(None));
        if let Some(id_scope) = &options.id_scope {
            state.id_scope.clone_from(id_scope);
        }
        state.keep_group(DEFAULT_GROUP, Key::new(group_key), now.system);
        Self {
            host: options.host.as_deref().unwrap_or(default_host).to_owned(),
            pace: options.pace(),
            state: Mutex::new(state),
            weights: Mutex::default(),
        }
    }

    /// The state, to be changed; never held across an await. It is locked before any hub's state, never after.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, to be looked at only.
    pub(crate) fn peek(&self) -> impl Deref<Target = State> {
        self.state()
    }

    fn weights(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.weights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hubs that devices can be assigned to; one that is away gets none.
    pub(crate) fn linked(&self, cloud: &Cloud) -> Vec<LinkedHub> {
        let weights = self.weights().clone();
        let weight = |hub: &Hub| match hub.state().registry.is_away() {
            true => 0,
            false => weights.get(&hub.host.to_lowercase()).copied().unwrap_or(1),
        };
        let hubs = cloud.hubs().into_iter();
        hubs.map(|hub| LinkedHub {
            weight: weight(&hub),
            host: hub.host.clone(),
        })
        .collect()
    }

    /// Lets a device in that proves to be enrolled.
    ///
    /// # Errors
    /// 401002 if the proof does not hold, 404001 if the id scope is another service's.
    pub(crate) fn log_in(
        &self,
        id_scope: &str,
        registration_id: &str,
        proof: Proof<'_>,
        now: Now,
    ) -> Result<Login, DpsError> {
        let login = self
            .peek()
            .log_in(id_scope, registration_id, proof, now.system);
        if let Err(error) = &login {
            tracing::info!(registration.id = registration_id, %error, "Registration is refused");
        }
        login
    }

    /// Starts to assign the device; `body` is its request in JSON, or empty.
    ///
    /// A forced registration is no other: each one asks the enrolment's policies again.
    pub(crate) fn register(
        &self,
        cloud: &Cloud,
        login: &Login,
        body: &[u8],
        now: Now,
    ) -> Result<Reply, DpsError> {
        let request = Request::read(body)?;
        let own = |id: &str| id.eq_ignore_ascii_case(&login.registration_id);
        if !request.registration_id.as_deref().is_none_or(own) {
            return Err(DpsError::invalid(
                "The body names another registration id than the address.",
            ));
        }
        if request.tpm.is_some() {
            return Err(DpsError::invalid("The simulator has no TPM attestation."));
        }
        let linked = self.linked(cloud);
        let mut state = self.state();
        let (reply, placement) =
            state.register(login, request.payload, &linked, &self.pace, now.system)?;
        // Under the lock: two registrations of one device must not cross.
        if let Some(placement) = placement {
            placing::carry_out(&cloud.hubs(), placement);
        }
        Ok(reply)
    }

    /// Tells the device how far its operation is.
    pub(crate) fn operation_status(
        &self,
        login: &Login,
        operation: &str,
        now: Now,
    ) -> Result<Reply, DpsError> {
        self.state()
            .operation_status(login, operation, &self.pace, now.system)
    }

    /// Demands a good token of the policy `provisioningserviceowner`.
    ///
    /// # Errors
    /// 401002 if it is none.
    pub(crate) fn check_owner(&self, token: &str, now: Now) -> Result<(), DpsError> {
        if self.peek().may_serve(token, &[&self.host], now.system) {
            Ok(())
        } else {
            Err(error::Code::Unauthorized.into())
        }
    }

    /// Tells the device its registration state.
    pub(crate) fn look_up(&self, login: &Login, now: Now) -> Result<Value, DpsError> {
        self.peek().look_up(login, now.system)
    }
}

impl Request {
    fn read(body: &[u8]) -> Result<Self, DpsError> {
        if body.len() > MAX_PAYLOAD {
            return Err(DpsError::invalid("The request is over 64 KB."));
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        serde_json::from_slice(body)
            .map_err(|error| DpsError::invalid(format!("The request cannot be read: {error}")))
    }
}
