//! The one token of a connection whose devices are all under a policy of the hub.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use gateway_core::credential::{SasToken, SharedAccessPolicy, SymmetricKey};
use gateway_core::{Credential, DeviceIdentity, ErrorKind};
use tokio::time::Instant;

use super::{Holder, Keeper};
use crate::authorize::{Ask, Signed, newer, put_signed};
use crate::connection::Connection;
use crate::env::lock;
use crate::error::AmqpError;
use crate::wheel::{Due, Entry};

/// How long a token that was put because of a doubt is beyond doubt: what the hub says then of many
/// devices was meant for the one before.
const YOUNG: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct PolicyToken {
    /// Taken while it is put: one device puts it for all.
    putting: tokio::sync::Mutex<()>,
    put: Mutex<Option<Put>>,
    prefers_secondary: AtomicBool,
}

#[derive(Debug)]
struct Put {
    /// Of the device whose policy it was.
    identity: DeviceIdentity,
    entry: Entry,
    at: Instant,
    /// Whether it was put because the hub may have dropped the one before.
    is_again: bool,
    /// The hub may have dropped it.
    is_doubtful: bool,
}

impl Keeper {
    /// Puts the policy's token unless the hub has one, and keeps it fresh from then on.
    pub(crate) async fn put_policy(
        &self,
        connection: &Connection,
        policy: &SharedAccessPolicy,
        identity: &DeviceIdentity,
        ask: Ask<'_>,
    ) -> Result<(), AmqpError> {
        let _putting = self.policy.putting.lock().await;
        // Of two sets of keys the one that came last stands, not that of who comes back.
        let stands = |put: &Put| {
            !put.is_doubtful && (!ask.is_change || put.identity.credential == identity.credential)
        };
        let is_again = match &*lock(&self.policy.put) {
            Some(put) if stands(put) => return Ok(()),
            put => put.is_some(),
        };
        let signed = self.sign_policy(connection, policy, ask).await?;
        self.hold_policy(identity, signed, is_again);
        Ok(())
    }

    async fn sign_policy(
        &self,
        connection: &Connection,
        policy: &SharedAccessPolicy,
        ask: Ask<'_>,
    ) -> Result<Signed, AmqpError> {
        let (env, host) = (&self.env, &self.env.config.host);
        let sign = |key: &SymmetricKey, expires| {
            SasToken::sign_with_policy(host, policy.name(), key, expires)
        };
        let (keys, favourite) = (policy.keys(), &self.policy.prefers_secondary);
        put_signed(env, connection, host, keys, favourite, sign, ask).await
    }

    fn hold_policy(&self, identity: &DeviceIdentity, signed: Signed, is_again: bool) {
        let put = Put {
            identity: identity.clone(),
            entry: self.entry(signed, true),
            at: signed.at,
            is_again,
            is_doubtful: false,
        };
        let entry = put.entry;
        if let Some(before) = lock(&self.policy.put).replace(put) {
            lock(&self.wheel).remove(&before.entry);
        }
        self.insert(entry, Holder::Policy);
    }

    /// What was put last, if that is the token of this serial.
    fn policy_put(&self, serial: u64) -> Option<DeviceIdentity> {
        let put = lock(&self.policy.put);
        let put = put.as_ref().filter(|put| put.entry.serial == serial)?;
        Some(put.identity.clone())
    }

    pub(super) async fn renew_policy(&self, connection: &Connection, ask: Ask<'_>, due: &Due) {
        let Some(identity) = self.policy_put(due.serial) else {
            return;
        };
        let renewed = self.try_renew_policy(connection, ask, &identity).await;
        if self.policy_put(due.serial).is_none() {
            // Another was put meanwhile.
            return;
        }
        match renewed {
            Ok((identity, signed)) => self.hold_policy(&identity, signed, false),
            Err(error) => {
                tracing::warn!(error = %error, "The policy's token was not renewed");
                let entry = self.entry_again(due);
                if let Some(put) = &mut *lock(&self.policy.put) {
                    put.entry = entry;
                }
                self.insert(entry, Holder::Policy);
            }
        }
    }

    async fn try_renew_policy(
        &self,
        connection: &Connection,
        ask: Ask<'_>,
        identity: &DeviceIdentity,
    ) -> Result<(DeviceIdentity, Signed), AmqpError> {
        let Credential::Policy(policy) = &identity.credential else {
            return Err(AmqpError::NotAttached);
        };
        let refused = match self.sign_policy(connection, policy, ask).await {
            Ok(signed) => return Ok((identity.clone(), signed)),
            Err(error) if error.kind() == ErrorKind::Unauthorized => error,
            Err(error) => return Err(error),
        };
        let newer = newer(&self.env, identity).await?.ok_or(refused)?;
        match &newer.credential {
            Credential::Policy(policy) => {
                let signed = self.sign_policy(connection, policy, ask).await?;
                Ok((newer, signed))
            }
            // Its devices find another place when they come back.
            _ => Err(AmqpError::TokenExpired),
        }
    }

    /// Notes that the hub does not let in a device under the policy: its token may be gone.
    pub(crate) fn doubt_policy(&self, reason: ErrorKind) {
        if reason == ErrorKind::Unauthorized
            && let Some(put) = &mut *lock(&self.policy.put)
        {
            put.is_doubtful |= !put.is_again || put.at.elapsed() >= YOUNG;
        }
    }
}
