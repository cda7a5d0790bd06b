//! How a device becomes known to the hub, and unknown again.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use super::attachment::Attachment;
use super::standing::is_lasting;
use super::{Busy, Gate, Session, SessionTable};
use crate::credential::{Credential, CredentialSource, SasToken};
use crate::error::{ErrorKind, UpstreamError};
use crate::explain::CredentialKind;
use crate::id::DeviceId;
use crate::upstream::{DeviceIdentity, Interest};

impl SessionTable {
    /// Makes sure that the hub knows the device, with the interest it has now.
    pub(crate) async fn attached(self: &Arc<Self>, gate: &Gate<'_>) -> Result<(), UpstreamError> {
        let (token, wanted) = {
            let standing = gate.session.standing();
            if standing.stands(standing.wanted) {
                return Ok(());
            }
            (standing.token().cloned(), standing.wanted)
        };
        // Rare, and larger than all the rest of an uplink's future.
        Box::pin(self.attach(gate, token, wanted)).await
    }

    /// Asks the hub to take the device so. What stood before stands until the hub has agreed.
    async fn attach(
        self: &Arc<Self>,
        gate: &Gate<'_>,
        token: Option<SasToken>,
        interest: Interest,
    ) -> Result<(), UpstreamError> {
        let session = gate.session;
        let (is_new, was_held, checked) = {
            let standing = session.standing();
            let is_new = standing.attach == 0;
            (is_new, standing.is_held, standing.check(token.as_ref()))
        };
        // However it ends: a hub that throttles for a flood says nothing of those who make it.
        let mut verdict = Verdict {
            table: self,
            session,
            is_stranger: is_new,
        };
        if let Err(error) = checked {
            verdict.is_stranger |= !was_held;
            return Err(error);
        }
        let number = self.next_attach();
        match self.ask(session, &token, interest, number).await {
            Ok(credential) => {
                let mut standing = session.standing();
                standing.accept(number, token, credential, interest);
                verdict.is_stranger = false;
                Ok(())
            }
            Err(error) => {
                if is_lasting(error.kind()) {
                    let mut standing = session.standing();
                    standing.is_held = was_held;
                    standing.refuse(token, error.kind(), &self.config.refusal);
                    verdict.is_stranger |= !was_held;
                }
                Err(error)
            }
        }
    }

    async fn ask(
        self: &Arc<Self>,
        session: &Session,
        token: &Option<SasToken>,
        interest: Interest,
        number: u64,
    ) -> Result<CredentialKind, UpstreamError> {
        let device = &session.device;
        let identity =
            |credential| DeviceIdentity::new(device.clone(), credential).with_interest(interest);
        let identity = match token {
            Some(token) if token.expires() <= SystemTime::now() => {
                return Err(UpstreamError::new(ErrorKind::Unauthorized, "attach")
                    .with_source("the device's token has expired; it must present a new one"));
            }
            Some(token) => identity(Credential::SasToken(token.clone())),
            None => {
                let source = CredentialSource::new(self.credentials.clone());
                let credential = source.credential(device, self.attach_timeout).await?;
                identity(credential).with_source(source)
            }
        };
        let kind = CredentialKind::from(&identity.credential);
        session.standing().is_held = true;
        let callback = Arc::new(Attachment {
            table: Arc::downgrade(self),
            number,
            next: self.callback.clone(),
        });
        self.upstream.attach(identity, callback).await?;
        Ok(kind)
    }

    /// Notes that the hub ended the device's session. False if that was an earlier one than the one
    /// that stands.
    pub(super) async fn ended(&self, device: &DeviceId, attach: u64, reason: ErrorKind) -> bool {
        let Some(session) = self.find(device) else {
            return true;
        };
        let _gate = session.gate().await;
        let mut standing = session.standing();
        if attach < standing.attach {
            return false;
        }
        standing.forget();
        standing.is_held = false;
        // A device deleted and made anew counts from the beginning.
        session.desired.store(0, Relaxed);
        let reason = match reason {
            // Another client has the device now; its messages are as good as before.
            ErrorKind::Displaced => ErrorKind::Disconnected,
            reason if is_lasting(reason) => reason,
            _ => return true,
        };
        let token = standing.token().cloned();
        standing.refuse(token, reason, &self.config.refusal);
        true
    }

    /// Attaches a device that listens; it stays until the returned number is given to `offline`.
    /// Whoever presents a bad token does not disturb the device that is there: nothing of it changes,
    /// and its messages wait behind few.
    pub(crate) async fn online(
        self: &Arc<Self>,
        session: &Busy,
        interest: Interest,
        token: Option<SasToken>,
    ) -> Result<u32, UpstreamError> {
        let _judged = match &token {
            Some(token) => session.judge(token)?,
            None => None,
        };
        let gate = session.gate().await;
        let given = session.0.desired.load(Relaxed);
        let stands = {
            let standing = gate.session.standing();
            token.as_ref() == standing.token() && standing.stands(interest)
        };
        if !stands {
            self.attach(&gate, token, interest).await?;
        }
        gate.session.standing().wanted = interest;
        session.0.online.store(true, Relaxed);
        // It may have forgotten, or never got, what it was given before.
        let forgotten = session
            .0
            .desired
            .compare_exchange(given, 0, Relaxed, Relaxed);
        // Who fails finds one that came with the attach.
        forgotten.ok();
        let presence = self.next_presence();
        session.0.presence.store(presence, Relaxed);
        Ok(presence)
    }

    /// Takes back what `online` did, unless the device has come online again since.
    pub(crate) fn offline(self: &Arc<Self>, device: &DeviceId, presence: u32) {
        let is_current = move |session: &Session| session.presence.load(Relaxed) == presence;
        // Its idle time begins now.
        let Some(session) = self.use_if(device, is_current) else {
            return;
        };
        let table = self.clone();
        self.spawn(async move {
            let gate = session.gate().await;
            if !is_current(&session) {
                return;
            }
            session.online.store(false, Relaxed);
            let may_be_subscribed = {
                let mut standing = session.standing();
                standing.wanted = Interest::NONE;
                standing.may_be_subscribed()
            };
            if may_be_subscribed {
                let _busy = Busy::enter(&session);
                if let Err(error) = table.attached(&gate).await {
                    tracing::debug!(device.id = %session.device, error = %error, "Unsubscribe failed");
                    // Its messages wait in the hub, not for ever in vain here.
                    table.release(&session).await;
                }
            }
        });
    }
}

/// Gives a session its place in the table when its attach is over, also one that was given up: its
/// message had brought it to the young end.
struct Verdict<'a> {
    table: &'a SessionTable,
    session: &'a Session,
    is_stranger: bool,
}

impl Drop for Verdict<'_> {
    fn drop(&mut self) {
        if self.is_stranger {
            self.table.demote(self.session);
        } else if self.session.is_stranger.load(Relaxed) {
            let is_this = |other: &Session| std::ptr::eq(other, self.session);
            self.table.use_if(&self.session.device, is_this);
        }
    }
}
