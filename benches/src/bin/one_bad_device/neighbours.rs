//! The good devices: each sends now and then, and how long it takes is noted.

use std::time::Duration;

use anyhow::Result;
use benches::embedded::send;
use benches::latency::Latencies;
use benches::process::metered;
use benches::{BODY, device_name};
use gateway_core::{DeviceId, Ingress, MessageId, Settlement, Uplink};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What the good devices do in a round.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) ingress: Ingress,
    pub(crate) devices: usize,
    pub(crate) per_second: u32,
    pub(crate) lasts: Duration,
}

/// What came of a round.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) latencies: Latencies,
    /// Messages of good devices that were not accepted.
    pub(crate) refused: u64,
    /// Of this process, for good and bad devices together.
    pub(crate) cpu: Duration,
}

impl Load {
    pub(crate) async fn attach(&self) -> Result<()> {
        send(&self.ingress, 0..self.devices, 256, 1, "attach").await?;
        Ok(())
    }

    pub(crate) async fn round(&self) -> Result<Round> {
        let (round, usage) = metered(self.send_all()).await;
        Ok(Round {
            cpu: usage.cpu,
            ..round?
        })
    }

    async fn send_all(&self) -> Result<Round> {
        let pause = Duration::from_secs(1) * self.devices as u32 / self.per_second.max(1);
        let (start, mut tasks) = (Instant::now(), JoinSet::new());
        for n in 0..self.devices {
            // Spread evenly, as many devices come to be.
            let first = start + pause * n as u32 / self.devices as u32;
            let device = DeviceId::new(device_name(n))?;
            let (ingress, end) = (self.ingress.clone(), start + self.lasts);
            tasks.spawn(speak(ingress, device, first, pause, end));
        }
        let mut round = Round::default();
        while let Some(device) = tasks.join_next().await {
            let (latencies, refused) = device??;
            round.latencies.append(latencies);
            round.refused += refused;
        }
        Ok(round)
    }
}

async fn speak(
    ingress: Ingress,
    device: DeviceId,
    mut due: Instant,
    pause: Duration,
    end: Instant,
) -> Result<(Latencies, u64)> {
    let (mut latencies, mut refused) = (Latencies::default(), 0);
    while due < end {
        // A message held up by the one before counts from when it should have gone. The timer's own
        // lateness is not the gateway's.
        let mut started = due;
        if Instant::now() < due {
            sleep_until(due).await;
            started = Instant::now();
        }
        let id = MessageId::new(format!("{}", latencies.len()))?;
        let uplink = Uplink::new(device.clone(), id, &BODY[..]);
        let settlement = ingress.reserve().await.deliver(uplink).await;
        refused += u64::from(settlement != Settlement::Accepted);
        latencies.push(started.elapsed());
        due += pause;
    }
    Ok((latencies, refused))
}
