//! Who calls, and what they may do.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

use super::HttpState;
use crate::hub::access::{AccessError, AuthMethod, Principal, Rights};
use crate::hub::error::{ErrorCode, HubError};
use crate::hub::peer::Peer;
use crate::hub::state::Now;
use crate::hub::{Hub, Sender};
use crate::tls::Thumbprints;

/// A right that an endpoint asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    RegistryRead,
    RegistryWrite,
    ServiceConnect,
}

impl Right {
    fn is_in(self, rights: Rights) -> bool {
        match self {
            Self::RegistryRead => rights.registry_read,
            Self::RegistryWrite => rights.registry_write,
            Self::ServiceConnect => rights.service_connect,
        }
    }
}

/// A request to a hub from somebody who has shown a good token, or a certificate.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) hub: Arc<Hub>,
    pub(crate) now: Now,
    /// The connection that it came over.
    pub(crate) peer: Arc<Peer>,
    shown: Shown,
    /// The segments of the path, decoded.
    path: Vec<String>,
}

#[derive(Debug)]
enum Shown {
    Token(Principal),
    /// Good for the device that it is registered for.
    Certificate(Thumbprints),
}

impl Call {
    /// Demands a right to what the path names.
    ///
    /// # Errors
    /// Refuses who has it not, or not there.
    pub(crate) fn demand(&self, right: Right) -> Result<(), HubError> {
        let mut path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        // A twin is part of its device.
        if let Some(first) = path.first_mut()
            && first.eq_ignore_ascii_case("twins")
        {
            *first = "devices";
        }
        let has = match &self.shown {
            Shown::Token(principal) => principal
                .rights_at(&path)
                .is_some_and(|rights| right.is_in(rights)),
            Shown::Certificate(_) => false,
        };
        if has { Ok(()) } else { Err(unauthorized()) }
    }

    /// Whom a device's own endpoint is called by.
    ///
    /// # Errors
    /// Refuses anybody who may not act as `identity`, and who is not registered or disabled.
    pub(crate) fn device(&self, identity: &str) -> Result<Sender, HubError> {
        let mut state = self.hub.state();
        let (identity, auth) = match &self.shown {
            Shown::Token(principal) if principal.may_act_as(identity) => {
                (state.registry.usable(identity), principal.auth_method())
            }
            Shown::Token(_) => return Err(unauthorized()),
            Shown::Certificate(thumbprints) => (
                state.registry.check_certificate(identity, thumbprints),
                AuthMethod::Certificate,
            ),
        };
        let identity = identity.map_err(refusal)?;
        if let Shown::Token(_) = &self.shown
            && let Some((status, text)) = self.hub.script.token_refusal(&identity)
        {
            return Err(refusal(AccessError::Scripted { status, text }));
        }
        Ok(Sender { identity, auth })
    }
}

impl FromRequestParts<HttpState> for Call {
    type Rejection = HubError;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, HubError> {
        let host = text(&parts.headers, header::HOST).or(parts.uri.host());
        let hub = state.hub_at(host);
        let now = Now::read();
        let shown = match (
            text(&parts.headers, header::AUTHORIZATION),
            &state.caller().thumbprints,
        ) {
            (Some(token), _) => {
                let checked = hub.state().registry.check_token(token, now.system);
                Shown::Token(checked.map_err(refusal)?.principal)
            }
            (None, Some(thumbprints)) => Shown::Certificate(thumbprints.clone()),
            (None, None) => return Err(unauthorized()),
        };
        check_version(parts.uri.query())?;
        Ok(Self {
            hub,
            now,
            peer: Arc::clone(state.peer()),
            shown,
            path: parts.uri.path().split('/').skip(1).map(decode).collect(),
        })
    }
}

fn unauthorized() -> HubError {
    HubError::new(ErrorCode::IotHubUnauthorizedAccess, "Unauthorized")
}

/// HTTP does not tell why it refuses whom it knows.
fn refusal(error: AccessError) -> HubError {
    tracing::info!(%error, "Request is refused");
    match error {
        AccessError::NotRegistered { .. }
        | AccessError::Disabled { .. }
        | AccessError::Away { .. }
        | AccessError::Scripted { .. } => error.into(),
        _ => unauthorized(),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn decode(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// Every request says which version of the interface it speaks: a date.
fn check_version(query: Option<&str>) -> Result<(), HubError> {
    let version = query
        .unwrap_or_default()
        .split('&')
        .find_map(|field| field.strip_prefix("api-version="));
    if version.is_some_and(|version| version.starts_with("20")) {
        return Ok(());
    }
    let text = "The request needs an api-version, 2021-04-12 for instance.";
    Err(HubError::new(ErrorCode::InvalidProtocolVersion, text))
}
