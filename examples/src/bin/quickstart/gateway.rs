//! The gateway: what an integrator would write, here in a process of its own.

mod lorawan;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use gateway_core::credential::Secret;
use gateway_core::credential::{GroupKey, GroupKeyCredentials};
use gateway_core::governor::Rate;
use gateway_core::{DeviceId, ErrorKind, Gateway, GatewayConfig};
use gateway_downstream_coap::{Claim, CoapConfig, CoapDownstream};
use gateway_downstream_lorawan::server::LorawanServer;
use gateway_downstream_tcp::proto::{Peer, Refusal};
use gateway_downstream_tcp::{Authenticator, TcpConfig, TcpDownstream};
use gateway_upstream_amqp::{AmqpConfig, AmqpUpstream};
use gateway_upstream_mqtt::{MqttHubConfig, MqttHubUpstream};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use crate::args::{Downstream, Upstream};

/// What the gateway is told in one line on standard input.
#[derive(Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The hub's name, as in its tokens.
    pub(crate) host: String,
    /// What the hub is spoken to in.
    pub(crate) upstream: Upstream,
    /// What the devices speak.
    pub(crate) downstream: Downstream,
    /// Where the hub is.
    pub(crate) hub: SocketAddr,
    /// The authority that signed the hub's certificate.
    pub(crate) ca_pem: String,
    /// The key that each device's key derives from.
    pub(crate) group_key: String,
    /// What devices prove themselves with to the gateway.
    pub(crate) secret: String,
    /// Devices at a time.
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

    // For what a network server must not forget.
    let folder = tempfile::tempdir()?;
    let (downstream, address) = listen(&setup, folder.path()).await?;
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
    let mut config = GatewayConfig::default();
    if setup.downstream == Downstream::Coap {
        // Who gets no credit comes back in seconds; over TCP it is not read meanwhile.
        config.max_in_flight = config.max_in_flight.max(setup.connections);
    }
    let gateway = Gateway::builder(upstream)
        .with_config(config)
        .with_credentials(GroupKeyCredentials::new(GroupKey::from_base64(
            &setup.group_key,
        )?))
        .with_downstream("devices", downstream)
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

/// Opens the gateway to the devices, and says where.
async fn listen(
    setup: &Setup,
    folder: &Path,
) -> anyhow::Result<(Arc<dyn gateway_core::Downstream>, SocketAddr)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let secret = setup.secret.clone();
    Ok(match setup.downstream {
        Downstream::Tcp => {
            let mut config = TcpConfig::default();
            config.listen = address;
            config.limits.max_connections = setup.connections;
            // The whole fleet is on this machine.
            config.limits.max_connections_per_address = setup.connections;
            let builder = TcpDownstream::builder(config);
            let tcp = builder.with_authenticator(FleetSecret(secret.into()));
            let tcp = tcp.bind().await?;
            let address = tcp.local_addr();
            (Arc::new(tcp), address)
        }
        Downstream::Coap => {
            let mut config = CoapConfig::default();
            config.udp.get_or_insert_default().listen = address;
            let limits = &mut config.endpoint.limits;
            limits.max_pending = limits.max_pending.max(setup.connections);
            let builder = CoapDownstream::builder(config);
            let coap = builder.with_authenticator(FleetToken(secret.into()));
            let coap = coap.bind().await?;
            let address = coap.udp_addr().context("no address")?;
            (Arc::new(coap), address)
        }
        Downstream::Lorawan => {
            let config = lorawan::config(setup, address, folder)?;
            let codec = lorawan::codec(setup).await?;
            let server = LorawanServer::builder(config).with_codec(lorawan::PROFILE, codec);
            let server = server.bind().await?;
            let address = server.forwarder_address().context("no address")?;
            (Arc::new(server), address)
        }
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
        match secret == Some(&self.0) {
            true => Ok(()),
            false => Err(Refusal::new(ErrorKind::Unauthorized)),
        }
    }
}

/// Knows the same secret as the token of devices on CoAP.
#[derive(Debug)]
struct FleetToken(Secret);

impl gateway_downstream_coap::Authenticator for FleetToken {
    fn identify(&self, claim: Claim<'_>) -> Option<DeviceId> {
        let is_proved = self.0.matches(claim.token?);
        is_proved.then(|| DeviceId::new(claim.device?).ok())?
    }

    fn may_speak_for(&self, _gateway: &DeviceId, _child: &DeviceId) -> bool {
        false
    }
}
