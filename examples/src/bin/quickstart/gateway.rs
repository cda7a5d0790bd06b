//! The gateway: what an integrator would write, here in a process of its own.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use gateway_core::credential::{GroupKey, GroupKeyCredentials};
use gateway_core::governor::Rate;
use gateway_core::{DeviceId, ErrorKind, Gateway};
use gateway_downstream_tcp::proto::{Peer, Refusal, Secret};
use gateway_downstream_tcp::{Authenticator, TcpConfig, TcpDownstream};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use gateway_upstream_mqtt::{MqttHubConfig, MqttHubUpstream};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::args::Upstream;

/// What the gateway is told in one line on standard input.
#[derive(Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The hub's name, as in its tokens.
    pub(crate) host: String,
    /// What the hub is spoken to in.
    pub(crate) upstream: Upstream,
    /// Where the hub is.
    pub(crate) hub: SocketAddr,
    /// The authority that signed the hub's certificate.
    pub(crate) ca_pem: String,
    /// The key that each device's key derives from.
    pub(crate) group_key: String,
    /// What devices prove themselves with to the gateway.
    pub(crate) secret: String,
    /// Connections of devices at a time.
    pub(crate) connections: usize,
}

/// What the gateway says in lines on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// Devices may connect.
    Listening(SocketAddr),
    /// It has shut down.
    Stopped {
        /// Messages cut off without a verdict.
        abandoned: u64,
        /// Whether the grace ended before the work did.
        forced: bool,
    },
}

/// Serves until standard input closes, which it also does when the parent dies.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let Some(line) = input.next_line().await? else {
        bail!("no setup on standard input; this part is started by the quickstart itself");
    };
    let setup: Setup = serde_json::from_str(&line).context("the setup is not what it should be")?;

    let mut tcp = TcpConfig::default();
    tcp.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    tcp.limits.max_connections = setup.connections;
    // The whole fleet is on this machine.
    tcp.limits.max_connections_per_address = setup.connections;
    let tcp = TcpDownstream::builder(tcp)
        .with_authenticator(FleetSecret(setup.secret.into()))
        .bind()
        .await?;
    let address = tcp.local_addr();
    let (hub, port) = (setup.hub.ip().to_string(), setup.hub.port());
    let upstream: Arc<dyn gateway_core::Upstream> = match setup.upstream {
        Upstream::Amqp => {
            let config = AmqpConfig::new(setup.host).with_address(hub, port);
            Arc::new(AmqpUpstream::new(config.with_ca_pem(setup.ca_pem))?)
        }
        Upstream::Mqtt => {
            let config = MqttHubConfig::new(setup.host).with_address(hub, port);
            let mut config = config.with_ca_pem(setup.ca_pem);
            // The simulated hub does not throttle.
            config.budget.connects = Rate::Unlimited;
            Arc::new(MqttHubUpstream::new(config)?)
        }
    };
    let gateway = Gateway::builder(upstream)
        .with_credentials(GroupKeyCredentials::new(GroupKey::from_base64(
            &setup.group_key,
        )?))
        .with_downstream("tcp", tcp)
        .build()?;

    say(&Word::Listening(address))?;
    let shutdown = CancellationToken::new();
    let run = gateway.run(shutdown.clone());
    tokio::pin!(run);
    let closed = async { while let Ok(Some(_)) = input.next_line().await {} };
    let report = tokio::select! {
        report = &mut run => report?,
        () = closed => {
            shutdown.cancel();
            run.await?
        }
    };
    say(&Word::Stopped {
        abandoned: report.abandoned,
        forced: report.forced,
    })
}

fn say(word: &Word) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    writeln!(output, "{}", serde_json::to_string(word)?)?;
    Ok(output.flush()?)
}

/// Knows the one secret that all devices of the fleet share.
#[derive(Debug)]
struct FleetSecret(Secret);

#[async_trait]
impl Authenticator for FleetSecret {
    async fn authenticate(
        &self,
        _device: &DeviceId,
        secret: Option<&Secret>,
        _peer: &Peer,
    ) -> Result<(), Refusal> {
        match secret.is_some_and(|secret| self.0.matches(secret)) {
            true => Ok(()),
            false => Err(Refusal::new(ErrorKind::Unauthorized)),
        }
    }
}
