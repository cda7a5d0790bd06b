//! What the hub in memory knows, and how it judges.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::MemoryUpstream;
use super::twin::Twin;
use crate::callback::CloudCallback;
use crate::credential::{Credential, SasToken, SymmetricKey};
use crate::error::{ErrorKind, UpstreamError};
use crate::explain::{LinkExplanation, LinkPurpose, UpstreamExplanation};
use crate::id::{DeviceId, MessageId};
use crate::message::{TwinReply, TwinRequest, Uplink};
use crate::upstream::{DeviceIdentity, Interest};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) registry: Option<HashMap<DeviceId, SymmetricKey>>,
    pub(super) refused: HashMap<DeviceId, ErrorKind>,
    pub(super) attached: HashMap<DeviceId, Attachment>,
    pub(super) counts: HashMap<DeviceId, Counts>,
    pub(super) accepted: Vec<Uplink>,
    pub(super) is_holding: bool,
    /// Messages that came together, and who waits for them.
    pub(super) held: Vec<(Vec<Uplink>, oneshot::Sender<()>)>,
    pub(super) poison: HashMap<MessageId, ErrorKind>,
    pub(super) rejections: VecDeque<ErrorKind>,
    pub(super) settlements_to_lose: usize,
    pub(super) lost: Vec<oneshot::Sender<()>>,
    pub(super) throttle: Option<Duration>,
    pub(super) latency: Duration,
    pub(super) is_down: bool,
    pub(super) is_closed: bool,
    pub(super) in_flight: HashMap<DeviceId, usize>,
    /// Cancelled by a cut, which puts a new one in its place.
    pub(super) connection: CancellationToken,
    pub(super) twins: HashMap<DeviceId, Twin>,
    /// Who is to be brought all that is desired of it, and hears of no change until then.
    pub(super) missed: HashSet<DeviceId>,
}

#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) identity: DeviceIdentity,
    pub(super) callback: Arc<dyn CloudCallback>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) requests: u64,
    pub(super) attaches: u64,
    pub(super) detaches: u64,
}

pub(super) fn fail<T>(kind: ErrorKind, operation: &'static str) -> Result<T, UpstreamError> {
    Err(UpstreamError::new(kind, operation))
}

impl State {
    pub(super) fn check(&self, operation: &'static str) -> Result<(), UpstreamError> {
        match self.throttle {
            _ if self.is_closed => fail(ErrorKind::Closed, operation),
            _ if self.is_down => fail(ErrorKind::Disconnected, operation),
            None => Ok(()),
            Some(after) => {
                Err(UpstreamError::new(ErrorKind::Throttled, operation).with_retry_after(after))
            }
        }
    }

    pub(super) fn judge(&self, identity: &DeviceIdentity) -> Result<(), ErrorKind> {
        if let Some(kind) = self.refused.get(&identity.device) {
            return Err(*kind);
        }
        if let Credential::SasToken(token) = &identity.credential
            && (token.expires() <= SystemTime::now() || !token.is_for(&identity.device))
        {
            return Err(ErrorKind::Unauthorized);
        }
        let Some(registry) = &self.registry else {
            return Ok(());
        };
        let key = registry
            .get(&identity.device)
            .ok_or(ErrorKind::UnknownDevice)?;
        let is_right = match &identity.credential {
            Credential::Policy(_) => true,
            Credential::DeviceKey(given) => {
                given.primary() == key || given.secondary() == Some(key)
            }
            Credential::SasToken(token) => {
                *token == SasToken::sign(token.resource(), key, token.expires())
            }
            Credential::Vouched => false,
        };
        is_right.then_some(()).ok_or(ErrorKind::Unauthorized)
    }

    pub(super) fn counts(&mut self, device: &DeviceId) -> &mut Counts {
        self.counts.entry(device.clone()).or_default()
    }

    /// Takes uplinks of one device, all or none; the receiver, where there is one, tells when they
    /// are settled.
    pub(super) fn arrive(
        &mut self,
        device: &DeviceId,
        uplinks: &[Uplink],
    ) -> Result<Option<oneshot::Receiver<()>>, UpstreamError> {
        assert!(uplinks.iter().all(|uplink| uplink.device == *device));
        self.check("send")?;
        if !self.attached.contains_key(device) {
            return fail(ErrorKind::UnknownDevice, "send");
        }
        if uplinks.iter().map(size).sum::<usize>() > MemoryUpstream::MAX_MESSAGE {
            return fail(ErrorKind::TooLarge, "send");
        }
        if let Some(kind) = self.rejections.pop_front() {
            return fail(kind, "send");
        }
        if let Some(kind) = uplinks.iter().find_map(|u| self.poison.get(&u.id)) {
            return fail(*kind, "send");
        }
        let (settle, settled) = oneshot::channel();
        if self.is_holding {
            self.held.push((uplinks.to_vec(), settle));
            return Ok(Some(settled));
        }
        self.accepted.extend_from_slice(uplinks);
        if self.settlements_to_lose > 0 {
            self.settlements_to_lose -= 1;
            self.lost.push(settle);
            return Ok(Some(settled));
        }
        Ok(None)
    }

    pub(super) fn ask_twin(
        &mut self,
        device: &DeviceId,
        request: TwinRequest,
    ) -> Result<TwinReply, UpstreamError> {
        self.check("twin")?;
        if !self.attached.contains_key(device) {
            return fail(ErrorKind::UnknownDevice, "twin");
        }
        let twin = self.twins.entry(device.clone()).or_default();
        match request {
            TwinRequest::Get => Ok(TwinReply::new(twin.read(), None)),
            TwinRequest::PatchReported(patch) => match twin.patch_reported(&patch) {
                Ok(version) => Ok(TwinReply::new("", Some(version))),
                Err(kind) => fail(kind, "twin"),
            },
        }
    }

    pub(super) fn explain(&self, device: &DeviceId) -> Option<UpstreamExplanation> {
        let interest = self.attached.get(device)?.identity.interest;
        let links = [
            (true, LinkPurpose::Telemetry),
            (interest.messages, LinkPurpose::Messages),
            (interest.methods, LinkPurpose::Methods),
            (interest.desired, LinkPurpose::Twin),
        ];
        Some(UpstreamExplanation {
            links: links
                .into_iter()
                .filter(|(is_open, _)| *is_open)
                .map(|(_, purpose)| LinkExplanation::new(purpose, None))
                .collect(),
            in_flight: Some(self.in_flight.get(device).copied().unwrap_or_default()),
            ..UpstreamExplanation::default()
        })
    }

    pub(super) fn way_back(&self) -> WayBack {
        WayBack {
            connection: self.connection.clone(),
            latency: self.latency,
        }
    }

    pub(super) fn cut(&mut self) {
        mem::take(&mut self.connection).cancel();
        self.held.clear();
        self.lost.clear();
    }

    pub(super) fn listens(&self, device: &DeviceId, wanted: Interest) -> bool {
        self.attached.get(device).is_some_and(|attachment| {
            let has = attachment.identity.interest;
            (has.messages || !wanted.messages)
                && (has.methods || !wanted.methods)
                && (has.desired || !wanted.desired)
        })
    }
}

/// What counts towards a message's size: the body and the application's names and values.
fn size(uplink: &Uplink) -> usize {
    let properties = uplink.properties.iter();
    uplink.body.len()
        + properties
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>()
}

/// How an answer comes back: taken with the request, so that a cut between the two is seen.
pub(super) struct WayBack {
    pub(super) connection: CancellationToken,
    pub(super) latency: Duration,
}

impl WayBack {
    /// Waits out the latency, unless the connection is cut.
    pub(super) async fn answer<T>(
        self,
        operation: &'static str,
        answer: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        let answer = async {
            let answer = answer.await;
            if !self.latency.is_zero() {
                sleep(self.latency).await;
            }
            answer
        };
        tokio::select! {
            biased;
            () = self.connection.cancelled() => fail(ErrorKind::Disconnected, operation),
            answer = answer => answer,
        }
    }
}
