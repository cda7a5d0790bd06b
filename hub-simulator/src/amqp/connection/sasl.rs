//! The SASL layer (AMQP 1.0 section 5.3): who logs in, and as whom.

use std::sync::Arc;

use super::{Connection, LOGIN, Phase, undecodable};
use crate::amqp::codec::encode::{self, SaslCode};
use crate::amqp::codec::{DecodeError, code, read};
use crate::amqp::{AmqpError, endpoint};
use crate::hub::Hub;
use crate::hub::registry::Principal;

impl Connection {
    pub(super) fn sasl_init(&mut self, body: &[u8]) -> Result<(), AmqpError> {
        let (mechanism, response) = parse_sasl_init(body).map_err(undecodable)?;
        let outcome = match mechanism {
            // The identity comes by a token on $cbs.
            "MSSBCBS" | "ANONYMOUS" => SaslCode::Ok,
            // The identity is the certificate's, so there must be one (RFC 4422 appendix A).
            "EXTERNAL" if self.core.caller.thumbprints.is_some() => SaslCode::Ok,
            "PLAIN" => self.login(response.unwrap_or_default()),
            _ => SaslCode::Auth,
        };
        encode::sasl_outcome(&mut self.core.out, outcome);
        self.phase = if outcome == SaslCode::Ok {
            Phase::Header { after_sasl: true }
        } else {
            Phase::Closed
        };
        Ok(())
    }

    /// `PLAIN`: the user names the identity and the short name of the hub, the password is a token.
    fn login(&mut self, response: &[u8]) -> SaslCode {
        let mut parts = response
            .split(|byte| *byte == 0)
            .skip(1)
            .map(std::str::from_utf8);
        let (Some(Ok(user)), Some(Ok(token)), None) = (parts.next(), parts.next(), parts.next())
        else {
            return SaslCode::Auth;
        };
        if endpoint::provisioning::log_in(&mut self.core, user, token) {
            return SaslCode::Ok;
        }
        let Some((identity, scope)) = user.rsplit_once('@') else {
            return SaslCode::Auth;
        };
        let Some(hub) = scope.strip_prefix("sas.") else {
            return SaslCode::Auth;
        };
        let policy_hub = hub.strip_prefix("root.");
        let named =
            |other: &Arc<Hub>| other.state().registry.short_name() == policy_hub.unwrap_or(hub);
        let own = Some(Arc::clone(&self.core.hub)).filter(named);
        let hubs = || self.core.caller.cloud.hubs().into_iter();
        match own.or_else(|| hubs().find(named)) {
            Some(hub) => self.core.move_to(hub),
            None => return SaslCode::Sys,
        }
        let mut state = self.core.hub.state();
        let checked = state.registry.check_token(token, self.core.now.system);
        drop(state);
        let fits = |principal: &Principal| match principal {
            Principal::Device(device) => policy_hub.is_none() && &**device == identity,
            Principal::Policy { name, .. } => policy_hub.is_some() && *name == identity,
        };
        match checked {
            Ok(grant) if fits(&grant.principal) => {
                self.core.tokens.put(LOGIN, grant);
                self.core.token_count_changed();
                self.has_login = true;
                SaslCode::Ok
            }
            Ok(_) => SaslCode::Auth,
            Err(error) => {
                tracing::info!(user, %error, "Login is refused");
                SaslCode::Auth
            }
        }
    }
}

fn parse_sasl_init(body: &[u8]) -> Result<(&str, Option<&[u8]>), DecodeError> {
    match read::split(body)?.0 {
        read::Value::Described(described) if described.code == code::SASL_INIT => {
            let mut fields = described.fields()?;
            let mechanism = fields
                .text()?
                .ok_or(DecodeError("sasl-init names no mechanism"))?;
            Ok((mechanism, fields.binary()?))
        }
        _ => Err(DecodeError("not a sasl-init")),
    }
}
