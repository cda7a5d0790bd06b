//! From a device's claim to its place at the hub.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use gateway_core::credential::SasToken;
use gateway_core::{
    Announcement, Backoff, DeviceId, ErrorKind, Ingress, Interest, Presence, UpstreamError,
};
use tokio::time::{sleep, timeout_at};

use crate::proto::{Login, Peer, Proof, Refusal};
use crate::registry::Claim;
use crate::serve::Shared;

/// What a login that was judged brings.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) claim: Claim,
    pub(super) announcement: Announcement,
    /// Already online, since the hub had to judge.
    pub(super) presence: Option<Presence>,
}

pub(super) type Judgement = BoxFuture<'static, Result<Admission, Refusal>>;
pub(super) type Arrival = BoxFuture<'static, Result<Presence, UpstreamError>>;
pub(super) type Renewal = BoxFuture<'static, Result<(Presence, Interest), UpstreamError>>;

/// Judges a login: a token by the hub, a certificate by TLS, which has done so, and the rest by
/// the authenticator.
pub(super) fn judge(
    shared: Arc<Shared>,
    ingress: Ingress,
    peer: Peer,
    login: Login,
    claim: impl FnOnce() -> Claim + Send + 'static,
    deadline: tokio::time::Instant,
) -> Judgement {
    async move {
        let Login {
            device,
            proof,
            interest,
        } = login;
        let announcement = Announcement::new(device).with_interest(interest);
        let secret = match proof {
            Proof::Token(token) if shared.config.identity.token => {
                let announcement = announcement.with_token(Some(token));
                let claim = claim();
                let presence = ingress.online(announcement.clone()).await;
                let presence = Some(presence.map_err(|error| Refusal::from(&error))?);
                return Ok(Admission {
                    claim,
                    announcement,
                    presence,
                });
            }
            Proof::Certificate
                if shared.config.identity.certificate && peer.certificate_name.is_some() =>
            {
                return Ok(Admission {
                    claim: claim(),
                    announcement,
                    presence: None,
                });
            }
            Proof::Token(_) | Proof::Certificate => {
                return Err(Refusal::new(ErrorKind::Unauthorized));
            }
            Proof::Secret(secret) => Some(secret),
            Proof::None => None,
        };
        let verdict =
            shared
                .authenticator
                .authenticate(&announcement.device, secret.as_ref(), &peer);
        match timeout_at(deadline, verdict).await {
            Ok(verdict) => verdict?,
            Err(_) => return Err(Refusal::new(ErrorKind::TimedOut)),
        }
        Ok(Admission {
            claim: claim(),
            announcement,
            presence: None,
        })
    }
    .boxed()
}

/// Presents a new token of a device that is in to the hub.
pub(super) fn present(
    ingress: Ingress,
    device: DeviceId,
    interest: Interest,
    token: SasToken,
) -> Renewal {
    let announcement = Announcement::new(device).with_interest(interest);
    let announcement = announcement.with_token(Some(token));
    async move { Ok((ingress.online(announcement).await?, interest)) }.boxed()
}

/// Brings a device online and keeps trying while that may help.
pub(super) fn arrive(ingress: Ingress, announcement: Announcement) -> Arrival {
    async move {
        let backoff = Backoff::default();
        for failures in 0.. {
            match ingress.online(announcement.clone()).await {
                Err(error) if error.is_retryable() => {
                    let device = &announcement.device;
                    tracing::debug!(device.id = %device, error = %error, "Not online yet");
                    let wait = backoff.delay(failures);
                    sleep(error.retry_after().map_or(wait, |after| after.max(wait))).await;
                }
                verdict => return verdict,
            }
        }
        Err(UpstreamError::new(ErrorKind::TimedOut, "online"))
    }
    .boxed()
}
