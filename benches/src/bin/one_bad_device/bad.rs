//! The bad device: ways of being bad, each begun and ended at will.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use benches::BODY;
use benches::hub::{Command, Flood, HubAccess, HubProcess};
use clap::ValueEnum;
use gateway_core::credential::GroupKey;
use gateway_core::{
    Announcement, Credential, CredentialError, CredentialProvider, Delivered, DeviceId, Downlink,
    Downstream, DownstreamError, ErrorKind, Ingress, MessageId, MethodReply, ServeContext,
    Settlement, Uplink,
};
use hub_simulator::{Fault, LinkKind};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Between two tries of a device that does not listen to reason.
const TRY_PAUSE: Duration = Duration::from_millis(1);
/// How long a flooded device takes over each command: what counts is what it cannot take.
const SLOWNESS: Duration = Duration::from_millis(100);
/// Links taken or detached a second.
const LINK_FAULTS: u32 = 100;

/// A way of being bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Conduct {
    /// The hub has disabled it, and it sends all the same.
    Disabled,
    /// Its key is not the one that the hub knows.
    WrongKey,
    /// The hub rejects every message of it.
    Poison,
    /// The hub detaches its links again and again while it sends.
    Detached,
    /// Another client takes its link again and again, and it comes back each time.
    Stolen,
    /// It gets more messages than it can take.
    Messages,
    /// It gets more methods than it can answer.
    Methods,
}

impl Conduct {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::WrongKey => "wrong-key",
            Self::Poison => "poison",
            Self::Detached => "detached",
            Self::Stolen => "stolen",
            Self::Messages => "messages",
            Self::Methods => "methods",
        }
    }

    fn device(self) -> String {
        format!("bad-{}", self.name())
    }

    /// What the hub does about it, and how that ends.
    fn faults(self) -> Option<(Fault, Fault)> {
        let device = self.device();
        match self {
            Self::Disabled => Some((
                Fault::Disable {
                    device: device.clone(),
                },
                Fault::Enable { device },
            )),
            Self::Poison => {
                let reject = Fault::Reject {
                    device: Some(device),
                    count: u64::MAX,
                    condition: "amqp:decode-error".to_owned(),
                };
                Some((reject, Fault::StopRejecting {}))
            }
            _ => None,
        }
    }

    /// What the hub does again and again.
    fn flood(self, commands: u32) -> Option<(Flood, u32)> {
        let device = self.device();
        match self {
            Self::Detached => {
                let fault = Fault::Detach {
                    device: Some(device),
                    kind: LinkKind::All,
                    condition: "amqp:internal-error".to_owned(),
                };
                Some((Flood::Fault(fault), LINK_FAULTS))
            }
            Self::Stolen => Some((Flood::Fault(Fault::Steal { device }), LINK_FAULTS)),
            Self::Messages => Some((Flood::Messages(device), commands)),
            Self::Methods => Some((Flood::Methods(device), commands)),
            _ => None,
        }
    }
}

/// Knows the right key of every device but one.
#[derive(Debug)]
pub(crate) struct Keyring(GroupKey);

/// Who knows the devices' keys.
pub(crate) fn credentials(access: &HubAccess) -> Result<Keyring> {
    Ok(Keyring(access.group_key()?))
}

#[async_trait]
impl CredentialProvider for Keyring {
    async fn credential(&self, device: &DeviceId) -> Result<Credential, CredentialError> {
        let key = self.0.derive(device);
        if device.as_str() != Conduct::WrongKey.device() {
            return Ok(Credential::DeviceKey(key.into()));
        }
        let other = DeviceId::new(Conduct::Poison.device());
        let other = other.map_err(|_| CredentialError::new(ErrorKind::Other, "wrong key"))?;
        Ok(Credential::DeviceKey(self.0.derive(&other).into()))
    }
}

/// Devices that take their time over commands, and are counted in that.
#[derive(Debug, Clone, Default)]
pub(crate) struct SlowDevices {
    commands: Arc<AtomicU64>,
}

#[async_trait]
impl Downstream for SlowDevices {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        context.shutdown.cancelled().await;
        Ok(())
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        self.commands.fetch_add(1, Relaxed);
        sleep(SLOWNESS).await;
        Ok(match downlink {
            Downlink::Method(_) => Delivered::Answered(MethodReply::new(200, "{}")),
            _ => Delivered::Acknowledged,
        })
    }
}

/// A bad device.
#[derive(Debug)]
pub(crate) struct Badness {
    conduct: Conduct,
    device: DeviceId,
    ingress: Ingress,
    /// Commands a second in a flood.
    flood: u32,
    misdeeds: Arc<AtomicU64>,
    acting: JoinSet<()>,
}

impl Badness {
    /// Makes one that is good as yet.
    pub(crate) fn new(
        conduct: Conduct,
        ingress: &Ingress,
        flood: u32,
        slow: &SlowDevices,
    ) -> Result<Self> {
        let misdeeds = match conduct {
            Conduct::Messages | Conduct::Methods => slow.commands.clone(),
            _ => Arc::default(),
        };
        misdeeds.store(0, Relaxed);
        Ok(Self {
            conduct,
            device: DeviceId::new(conduct.device())?,
            ingress: ingress.clone(),
            flood,
            misdeeds,
            acting: JoinSet::new(),
        })
    }

    /// What it has tried, or been sent.
    pub(crate) fn misdeeds(&self) -> u64 {
        self.misdeeds.load(Relaxed)
    }

    /// Lets it take its place among the others.
    pub(crate) async fn attach(&self) -> Result<()> {
        let settlement = speak(&self.ingress, &self.device, 0).await?;
        let is_in = settlement == Settlement::Accepted;
        ensure!(
            is_in != (self.conduct == Conduct::WrongKey),
            "{} was told {settlement:?}",
            self.device
        );
        Ok(())
    }

    /// Begins to be bad.
    pub(crate) async fn begin(&mut self, hub: &mut HubProcess) -> Result<()> {
        if let Some((fault, _)) = self.conduct.faults() {
            hub.make(fault).await?;
        }
        if let Some((of, per_second)) = self.conduct.flood(self.flood) {
            hub.tell(&Command::Flood { of, per_second }).await?;
        }
        let (ingress, device) = (self.ingress.clone(), self.device.clone());
        let misdeeds = self.misdeeds.clone();
        match self.conduct {
            Conduct::Stolen => self.acting.spawn(come_back(ingress, device, misdeeds)),
            // The commands are counted where they come.
            Conduct::Messages | Conduct::Methods => {
                self.acting
                    .spawn(come_back(ingress, device, Arc::default()))
            }
            _ => self.acting.spawn(insist(ingress, device, misdeeds)),
        };
        Ok(())
    }

    /// Is good again.
    pub(crate) async fn end(&mut self, hub: &mut HubProcess) -> Result<()> {
        self.acting.shutdown().await;
        hub.tell(&Command::Calm).await?;
        if let Some((_, undo)) = self.conduct.faults() {
            hub.make(undo).await?;
        }
        Ok(())
    }
}

async fn speak(ingress: &Ingress, device: &DeviceId, number: u64) -> Result<Settlement> {
    let id = MessageId::new(number.to_string())?;
    let uplink = Uplink::new(device.clone(), id, &BODY[..]);
    Ok(ingress.reserve().await.deliver(uplink).await)
}

/// Sends and sends, whatever it is told.
async fn insist(ingress: Ingress, device: DeviceId, misdeeds: Arc<AtomicU64>) {
    loop {
        let number = misdeeds.fetch_add(1, Relaxed);
        // Nothing that it could be told would make a difference.
        drop(speak(&ingress, &device, number).await);
        sleep(TRY_PAUSE).await;
    }
}

/// Comes online again and again, which changes nothing while it is.
async fn come_back(ingress: Ingress, device: DeviceId, misdeeds: Arc<AtomicU64>) {
    let mut presence = None;
    loop {
        misdeeds.fetch_add(1, Relaxed);
        let announcement = Announcement::new(device.clone());
        presence = ingress.online(announcement).await.ok().or(presence);
        sleep(TRY_PAUSE).await;
    }
}
