//! The gateway as an embedder uses it: uplinks through `Ingress`, settled by the hub.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use clap::ValueEnum;
use gateway_core::credential::{GroupKeyCredentials, HubPolicyCredentials};
use gateway_core::{
    CredentialProvider, Delivered, DeviceId, Downlink, Downstream, DownstreamError, ErrorKind,
    Gateway, GatewayConfig, Ingress, MessageId, RunError, ServeContext, Settlement, ShutdownReport,
    Uplink, Upstream,
};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::hub::HubAccess;
use crate::{BODY, device_name};

/// How devices prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Keys {
    /// Each with its own key: a token for each device.
    Device,
    /// All with a policy of the hub: a token for each connection.
    Policy,
}

impl Keys {
    /// Who knows them.
    ///
    /// # Errors
    /// The hub gave none.
    pub fn credentials(self, access: &HubAccess) -> Result<Arc<dyn CredentialProvider>> {
        Ok(match self {
            Self::Device => Arc::new(GroupKeyCredentials::new(access.group_key()?)),
            Self::Policy => Arc::new(HubPolicyCredentials::new(access.policy()?)),
        })
    }

    /// Its name in a report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Policy => "policy",
        }
    }
}

/// The devices' side of an embedder with a loop of its own, whose devices only speak.
#[derive(Debug, Clone, Copy)]
pub struct OnlySpeaking;

#[async_trait]
impl Downstream for OnlySpeaking {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        context.shutdown.cancelled().await;
        Ok(())
    }

    async fn send(&self, _: Downlink) -> Result<Delivered, DownstreamError> {
        Err(DownstreamError::new(ErrorKind::Unsupported, "send"))
    }
}

/// A gateway that runs in this process.
#[derive(Debug)]
pub struct Embedded {
    /// The gateway.
    pub gateway: Gateway,
    /// The door for uplinks.
    pub ingress: Ingress,
    shutdown: CancellationToken,
    running: JoinSet<Result<ShutdownReport, RunError>>,
}

impl Embedded {
    /// Starts a gateway over AMQP with room for so many devices, each with a message in flight.
    ///
    /// # Errors
    /// The configuration does not fit the hub.
    pub fn start(
        config: AmqpConfig,
        credentials: impl CredentialProvider,
        devices: usize,
        downstream: impl Downstream,
    ) -> Result<Self> {
        Self::over(AmqpUpstream::new(config)?, credentials, devices, downstream)
    }

    /// As [`start`](Self::start), over any way to the hub.
    ///
    /// # Errors
    /// The parts do not make a gateway.
    pub fn over(
        upstream: impl Upstream,
        credentials: impl CredentialProvider,
        devices: usize,
        downstream: impl Downstream,
    ) -> Result<Self> {
        let mut settings = GatewayConfig::default();
        settings.max_in_flight = devices.max(4096);
        settings.sessions.capacity = devices.max(1);
        settings.timeouts.attach = Duration::from_secs(300);
        let gateway = Gateway::builder(upstream)
            .with_config(settings)
            .with_credentials(credentials)
            .with_downstream("embedder", downstream)
            .build()?;
        Self::run(gateway)
    }

    fn run(gateway: Gateway) -> Result<Self> {
        let ingress = gateway
            .ingress("embedder")
            .context("the downstream just added")?;
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        let (own, until) = (gateway.clone(), shutdown.clone());
        running.spawn(async move { own.run(until).await });
        Ok(Self {
            gateway,
            ingress,
            shutdown,
            running,
        })
    }

    /// Shuts the gateway down and waits for its end.
    ///
    /// # Errors
    /// It failed before.
    pub async fn stop(mut self) -> Result<()> {
        self.shutdown.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Delivers a message, again until the hub has it, and says how often it had to come again.
///
/// # Errors
/// The hub refuses it for good.
pub async fn deliver(ingress: &Ingress, uplink: &Uplink) -> Result<u64> {
    let mut again = 0;
    loop {
        match ingress.reserve().await.deliver(uplink.clone()).await {
            Settlement::Accepted => return Ok(again),
            Settlement::RetryLater(after) => {
                again += 1;
                sleep(after).await;
            }
            other => bail!("{} was told {other:?}", uplink.device),
        }
    }
}

/// Sends a message of a device once, under its number, and says whether the hub has accepted it.
///
/// # Errors
/// The number makes no id.
pub async fn send_one(ingress: &Ingress, device: &DeviceId, number: u64) -> Result<bool> {
    let id = MessageId::new(number.to_string())?;
    let uplink = Uplink::new(device.clone(), id, &BODY[..]);
    Ok(ingress.reserve().await.deliver(uplink).await == Settlement::Accepted)
}

/// Sends so many messages from each device and says how often one had to come again. As many
/// devices as there are workers do so side by side, each with one message in flight.
///
/// # Errors
/// The hub refuses one for good, or a worker panicked.
pub async fn send(
    ingress: &Ingress,
    devices: Range<usize>,
    workers: usize,
    messages: usize,
    round: &str,
) -> Result<u64> {
    let workers = workers.clamp(1, devices.len().max(1));
    let mut tasks = JoinSet::new();
    for worker in 0..workers {
        let (ingress, round) = (ingress.clone(), round.to_owned());
        let own = devices.clone().skip(worker).step_by(workers);
        tasks.spawn(async move {
            let mut again = 0;
            for number in own {
                let device = DeviceId::new(device_name(number))?;
                for message in 0..messages {
                    let id = MessageId::new(format!("{round}-{message}"))?;
                    let uplink = Uplink::new(device.clone(), id, &BODY[..]);
                    again += deliver(&ingress, &uplink).await?;
                }
            }
            anyhow::Ok(again)
        });
    }
    let mut again = 0;
    while let Some(worker) = tasks.join_next().await {
        again += worker??;
    }
    Ok(again)
}
