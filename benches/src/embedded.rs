//! The gateway as an embedder uses it: uplinks through `Ingress`, settled by the hub.

use std::time::Duration;

use anyhow::{Context, Result};
use async_trait::async_trait;
use gateway_core::credential::{ConnectionString, HubPolicyCredentials};
use gateway_core::{
    Delivered, DeviceId, Downlink, Downstream, DownstreamError, ErrorKind, Gateway, GatewayConfig,
    Ingress, MessageId, ServeContext, Settlement, Uplink,
};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use tokio::task::JoinSet;

use crate::{BODY, HOST, device_name};

/// An embedder's own side: it has its own loop, and its devices only speak.
#[derive(Debug)]
struct Embedder;

#[async_trait]
impl Downstream for Embedder {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        context.shutdown.cancelled().await;
        Ok(())
    }

    async fn send(&self, _: Downlink) -> Result<Delivered, DownstreamError> {
        Err(DownstreamError::new(ErrorKind::Unsupported, "send"))
    }
}

/// Makes a gateway over AMQP and gives the door for uplinks.
///
/// # Errors
/// The configuration does not fit the hub.
pub fn gateway(
    address: std::net::SocketAddr,
    ca_pem: &str,
    policy: &ConnectionString,
    devices: usize,
) -> Result<(Gateway, Ingress)> {
    let config = AmqpConfig::new(HOST)
        .with_address(address.ip().to_string(), address.port())
        .with_ca_pem(ca_pem);
    let policy = policy.policy().context("a policy's connection string")?;
    let mut settings = GatewayConfig::default();
    // As many in flight as devices: what is compared has the same.
    settings.max_in_flight = devices.max(4096);
    settings.sessions.capacity = devices.max(1);
    settings.timeouts.attach = Duration::from_secs(300);
    let gateway = Gateway::builder(AmqpUpstream::new(config)?)
        .with_config(settings)
        .with_credentials(HubPolicyCredentials::new(policy.clone()))
        .with_downstream("embedder", Embedder)
        .build()?;
    let ingress = gateway
        .ingress("embedder")
        .context("the downstream just added")?;
    Ok((gateway, ingress))
}

/// Sends from every device, one message in flight each, and counts what the hub accepted.
///
/// # Errors
/// A device's task panicked.
pub async fn send(ingress: &Ingress, devices: usize, messages: usize, round: &str) -> Result<u64> {
    let mut tasks = JoinSet::new();
    for n in 0..devices {
        let (ingress, round) = (ingress.clone(), round.to_owned());
        let device = DeviceId::new(device_name(n))?;
        tasks.spawn(async move {
            let mut accepted = 0_u64;
            for message in 0..messages {
                let Ok(id) = MessageId::new(format!("{round}-{message}")) else {
                    break;
                };
                let uplink = Uplink::new(device.clone(), id, &BODY[..]);
                let settlement = ingress.reserve().await.deliver(uplink).await;
                accepted += u64::from(settlement == Settlement::Accepted);
            }
            accepted
        });
    }
    let mut accepted = 0;
    while let Some(device) = tasks.join_next().await {
        accepted += device?;
    }
    Ok(accepted)
}
