//! Who may connect: the judgement of a CONNECT.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::registrant::Registrant;
use super::{Core, End};
use crate::faults::Attaching;
use crate::hub::error::HubError;
use crate::hub::registry::{AccessError, AuthMethod};
use crate::hub::state::Now;
use crate::hub::throttle::Operation;
use crate::hub::{Hub, Sender};
use crate::mqtt::codec::{Connect, ConnectReturnCode, Publish, QoS};
use crate::mqtt::login::UserName;
use crate::mqtt::topic::{self, Publication};
use crate::provisioning;
use crate::tls::Thumbprints;

/// What the hub makes of a CONNECT that it does not refuse.
#[derive(Debug)]
pub(super) enum Admission {
    Device(Client),
    Registrant(Registrant),
    /// A script gives no answer.
    Unanswered,
}

/// A device or module that may connect.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) sender: Sender,
    pub(super) clean: bool,
    /// How long it may be silent.
    pub(super) max_silence: Duration,
    /// When its token ends; a certificate does not.
    pub(super) expires: Option<Instant>,
    pub(super) will: Option<Publish>,
}

/// A CONNECT that is refused: its CONNACK, and a line for the log.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: ConnectReturnCode,
    pub(super) reason: String,
}

impl Refusal {
    fn new(code: ConnectReturnCode, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { code, reason }
    }
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        let code = if error.status() >= 500 {
            ConnectReturnCode::ServiceUnavailable
        } else {
            ConnectReturnCode::NotAuthorized
        };
        Self::new(code, error.to_string())
    }
}

impl From<HubError> for Refusal {
    fn from(error: HubError) -> Self {
        Self::new(ConnectReturnCode::ServiceUnavailable, error.message)
    }
}

/// Finds out who connects, moves the connection to the hub it means, and judges its credentials.
pub(super) fn judge(core: &mut Core, connect: Connect) -> Result<Admission, Refusal> {
    use ConnectReturnCode as Code;
    if connect.client_id.is_empty() {
        return Err(Refusal::new(Code::BadClientId, "the client id is empty"));
    }
    let login = connect
        .login
        .ok_or_else(|| Refusal::new(Code::NotAuthorized, "there is no user name"))?;
    let cloud = Arc::clone(&core.caller.cloud);
    let user_name = UserName::parse(&login.username, |host| cloud.hub_at(host).is_some())
        .map_err(|error| Refusal::new(Code::BadUserNamePassword, error.to_string()))?;
    let proof = Proof {
        password: &login.password,
        thumbprints: core.caller.thumbprints.clone(),
    };
    let (host, identity, model_id) = match user_name {
        UserName::Hub {
            host,
            identity,
            model_id,
        } => (host, identity, model_id),
        UserName::Provisioning {
            scope,
            registration,
        } => {
            check_client_id(&connect.client_id, registration)?;
            let keep_alive = connect.keep_alive;
            return judge_registrant(core, scope, registration, &proof, keep_alive);
        }
    };
    let hub = cloud
        .hub_at(host)
        .ok_or_else(|| Refusal::new(Code::NotAuthorized, "there is no such hub here"))?;
    check_client_id(&connect.client_id, identity)?;
    core.move_to(Arc::clone(&hub));
    hub.throttles.take(Operation::Connect, core.now.instant)?;
    match hub.script.attaching(identity) {
        Attaching::AsUsual => {}
        Attaching::Withhold => return Ok(Admission::Unanswered),
        Attaching::Refuse(error) => {
            return Err(Refusal::new(Code::NotAuthorized, error.description));
        }
    }
    let (sender, expires) = authenticate(core.now, &hub, identity, &proof)?;
    if let Some(model_id) = model_id {
        hub.state().announce_model(identity, &model_id);
    }
    let will = connect.last_will.map(|will| {
        let mut publish = Publish::from_bytes(will.topic, will.qos, will.message);
        publish.retain = will.retain;
        publish
    });
    if let Some(will) = &will {
        check_will(will, identity)?;
    }
    Ok(Admission::Device(Client {
        sender,
        clean: connect.clean_session,
        max_silence: max_silence(connect.keep_alive, hub.limits.mqtt_max_silence),
        expires,
        will,
    }))
}

/// What a client shows to prove who it is.
struct Proof<'a> {
    /// A token; empty if there is none.
    password: &'a str,
    /// Of the certificate that the line came with.
    thumbprints: Option<Thumbprints>,
}

fn check_client_id(client_id: &str, expected: &str) -> Result<(), Refusal> {
    if client_id == expected {
        return Ok(());
    }
    let text = "the client id is not the one that the user name has";
    Err(Refusal::new(ConnectReturnCode::NotAuthorized, text))
}

/// Checks a token, or without one the certificate.
fn authenticate(
    now: Now,
    hub: &Hub,
    identity: &str,
    proof: &Proof<'_>,
) -> Result<(Sender, Option<Instant>), AccessError> {
    let mut state = hub.state();
    let registry = &mut state.registry;
    if proof.password.is_empty()
        && let Some(shown) = &proof.thumbprints
    {
        let identity = registry.check_certificate(identity, shown)?;
        let auth = AuthMethod::Certificate;
        return Ok((Sender { identity, auth }, None));
    }
    let grant = registry.check_token(proof.password, now.system)?;
    if !grant.principal.may_act_as(identity) {
        return Err(AccessError::Audience);
    }
    let identity = registry.usable(identity)?;
    if let Some((status, text)) = hub.script.token_refusal(&identity) {
        return Err(AccessError::Scripted { status, text });
    }
    let auth = grant.principal.auth_method();
    let expires = now.at_unix(grant.expiry);
    Ok((Sender { identity, auth }, Some(expires)))
}

fn judge_registrant(
    core: &Core,
    scope: &str,
    registration: &str,
    proof: &Proof<'_>,
    keep_alive_s: u16,
) -> Result<Admission, Refusal> {
    let own = match &proof.thumbprints {
        Some(shown) if proof.password.is_empty() => provisioning::Proof::Certificate(shown),
        _ => provisioning::Proof::Token(proof.password),
    };
    let dps = &core.caller.cloud.dps;
    let login = dps
        .log_in(scope, registration, own, core.now)
        .map_err(|error| Refusal::new(ConnectReturnCode::NotAuthorized, error.message))?;
    let max_silence = max_silence(keep_alive_s, core.hub.limits.mqtt_max_silence);
    let expires = login.expiry.map(|expiry| core.now.at_unix(expiry));
    let registrant = Registrant::new(login, max_silence, expires);
    Ok(Admission::Registrant(registrant))
}

/// A will is telemetry, so that its topic must be the sender's own.
fn check_will(will: &Publish, identity: &str) -> Result<(), Refusal> {
    let is_telemetry = matches!(
        topic::parse(&will.topic, identity),
        Ok(Publication::Telemetry(_))
    );
    if is_telemetry && will.qos != QoS::ExactlyOnce {
        Ok(())
    } else {
        let text = "the will is no telemetry of QoS 0 or 1";
        Err(Refusal::new(ConnectReturnCode::NotAuthorized, text))
    }
}

/// One and a half times the keep-alive (MQTT 3.1.1 section 3.1.2.10), within what the hub allows.
fn max_silence(keep_alive_s: u16, cap: Duration) -> Duration {
    match keep_alive_s {
        0 => cap,
        seconds => (Duration::from_secs(seconds.into()) * 3 / 2).min(cap),
    }
}

impl From<HubError> for End {
    fn from(error: HubError) -> Self {
        Self::Refused(error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_bounded_whatever_a_client_asks_for() {
        let cap = Duration::from_secs(1767);
        assert_eq!(max_silence(60, cap), Duration::from_secs(90));
        assert_eq!(max_silence(1178, cap), Duration::from_secs(1767));
        assert_eq!(max_silence(u16::MAX, cap), cap);
        assert_eq!(max_silence(0, cap), cap);
    }
}
