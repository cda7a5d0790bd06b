//! The network server inside, with concentrators and devices before it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::embedded::{Embedded, Keys};
use benches::hub::HubAccess;
use benches::latency::Latencies;
use benches::process::{Usage, metered};
use gateway_downstream_lorawan::proto::mac::RegionName;
use gateway_downstream_lorawan::server::{
    ConcentratorConfig, ForwarderConfig, LorawanServer, ServerConfig,
};
use gateway_upstream_amqp::AmqpUpstream;
use tokio::task::spawn_blocking;

use crate::air::{Air, CONCENTRATORS, Round, concentrator};
use crate::device;
use crate::embedded::settled_down;
use crate::settled::{Departures, Watched};

/// Bound of everything that waits: what is measured is the cost, not the bounds.
const ROOM: usize = 1_000_000;

/// A gateway that is a network server, and what surrounds it.
#[derive(Debug)]
pub(crate) struct Site {
    devices: usize,
    gateway: Embedded,
    server: Arc<LorawanServer>,
    air: Air,
    departures: Arc<Departures>,
}

/// A server's settings with so many devices, each with a session that it was made with.
pub(crate) fn config(devices: usize, store: &Path) -> ServerConfig {
    let mut config = ServerConfig::new(RegionName::Eu868);
    config.store = Some(store.to_owned());
    let mut forwarders = ForwarderConfig::default();
    forwarders.listen = ([127, 0, 0, 1], 0).into();
    config.forwarders = Some(forwarders);
    config.concentrators = (0..CONCENTRATORS)
        .map(|number| ConcentratorConfig::new(concentrator(number)))
        .collect();
    config.devices = (0..devices).map(device::config).collect();
    config.limits.frames = ROOM;
    config.limits.uplinks = ROOM;
    config.limits.queue = ROOM;
    config.limits.rate = 1_000_000;
    config
}

impl Site {
    pub(crate) async fn start(
        access: &HubAccess,
        config: ServerConfig,
        in_flight: usize,
    ) -> Result<Self> {
        let devices = config.devices.len();
        let server = Arc::new(LorawanServer::builder(config).bind().await?);
        let address = server.forwarder_address().context("no address")?;
        let departures = Arc::new(Departures::new(devices));
        let upstream = Watched {
            inner: AmqpUpstream::new(access.amqp())?,
            departures: departures.clone(),
        };
        let credentials = Keys::Policy.credentials(access)?;
        let room = devices.max(in_flight);
        let gateway = Embedded::over(upstream, credentials, room, server.clone())?;
        let (running, watched) = (gateway.gateway.clone(), departures.clone());
        let air = spawn_blocking(move || Air::start(address, running, devices, in_flight, watched));
        Ok(Self {
            devices,
            gateway,
            server,
            air: air.await??,
            departures,
        })
    }

    /// Has every device send so many uplinks, and tells what the gateway used until all were
    /// settled.
    pub(crate) async fn hear(&self, round: Round) -> Result<Usage> {
        let end = self.air.begin(round).await?;
        let before = self.air.cpu()?;
        let (ended, mut usage) = metered(end).await;
        ended.context("the air gave up")?;
        usage.cpu = usage.cpu.saturating_sub(self.air.cpu()? - before);
        Ok(usage)
    }

    /// Has every device send so many uplinks at so many a second, and tells how long each took from
    /// its datagram to the hub's word.
    pub(crate) async fn latencies(&self, uplinks: usize, per_second: u32) -> Result<Latencies> {
        let round = Round {
            uplinks,
            per_second: Some(per_second),
        };
        self.hear(round).await?;
        let took = self.departures.take();
        let expected = self.devices * uplinks;
        ensure!(
            took.count() == expected,
            "{} of {expected} uplinks were timed",
            took.count()
        );
        Ok(took)
    }

    /// Waits until no device listens any more.
    pub(crate) async fn deaf(&self) -> Result<()> {
        settled_down(self.server.downstream(), 0).await
    }

    pub(crate) async fn stop(self) -> Result<()> {
        let Self { gateway, air, .. } = self;
        spawn_blocking(move || air.stop()).await??;
        gateway.stop().await
    }
}

/// Bytes of a file.
pub(crate) fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).context("no store")?.len())
}

/// How long copies of a frame are waited for, which each uplink takes at least.
pub(crate) fn hold() -> Duration {
    ServerConfig::default().timing.hold
}
