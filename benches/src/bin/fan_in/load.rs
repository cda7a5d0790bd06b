//! Messages that are due at a set rate, whatever became of those before them.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use benches::BODY;
use benches::embedded::{Embedded, send};
use benches::process::machine_time;
use benches::raw::Raw;
use gateway_core::{DeviceId, MessageId, Settlement, Uplink};
use hdrhistogram::Histogram;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// How often what has become due is sent: far below what is measured, far above what a sleep costs.
const TICK: Duration = Duration::from_micros(100);

/// Latencies above this count as this, in nanoseconds: a minute.
const LONGEST: u64 = 60_000_000_000;

/// Makes a histogram of latencies in nanoseconds, to three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(LONGEST, 3)?)
}

/// The way that a message takes to the hub.
#[derive(Debug)]
pub(crate) enum Path {
    /// The AMQP client alone.
    Bare(Raw),
    /// The embedded gateway, with the devices' ids.
    Gateway(Embedded, Vec<DeviceId>),
}

impl Path {
    /// Sends so many messages of each device, one after the other.
    pub(crate) async fn send_all(&self, devices: usize, messages: usize) -> Result<()> {
        match self {
            Self::Bare(raw) => raw.send(messages, "trial").await.map(drop),
            Self::Gateway(Embedded { ingress, .. }, _) => {
                let sent = send(ingress, 0..devices, devices, messages, "trial").await;
                sent.map(drop)
            }
        }
    }

    /// Sends a message of a device and says whether the hub has accepted it.
    async fn send(&self, device: usize, number: u64) -> Result<bool> {
        match self {
            Self::Bare(raw) => raw.send_one(device, number.to_string()).await,
            Self::Gateway(embedded, devices) => {
                let id = MessageId::new(number.to_string())?;
                let uplink = Uplink::new(devices[device].clone(), id, &BODY[..]);
                let slot = embedded.ingress.reserve().await;
                Ok(slot.deliver(uplink).await == Settlement::Accepted)
            }
        }
    }
}

/// What is due in a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) devices: usize,
    /// Of all devices, which take turns.
    pub(crate) per_second: f64,
    pub(crate) lasts: Duration,
}

/// What came of a round.
#[derive(Debug)]
pub(crate) struct Round {
    /// From when a message was due to the hub's word on it, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Messages that were not accepted.
    pub(crate) refused: u64,
}

impl Round {
    fn new() -> Result<Self> {
        Ok(Self {
            latencies: histogram()?,
            refused: 0,
        })
    }

    fn note(&mut self, took: Duration, is_accepted: bool) {
        self.latencies.saturating_record(took.as_nanos() as u64);
        self.refused += u64::from(!is_accepted);
    }
}

impl Load {
    pub(crate) fn messages(&self) -> u64 {
        (self.per_second * self.lasts.as_secs_f64()) as u64
    }

    /// Sends them, from a thread that is not the runtime's: its timers are no finer than a
    /// millisecond.
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread of its own, which nothing else needs"
    )]
    pub(crate) fn run(&self, path: &Arc<Path>, runtime: &Handle) -> Result<Round> {
        let mut round = Round::new()?;
        let mut sending = JoinSet::new();
        let start = machine_time();
        for number in 0..self.messages() {
            let due = start + Duration::from_secs_f64(number as f64 / self.per_second);
            while machine_time() < due {
                sleep(TICK);
            }
            let path = path.clone();
            let device = number as usize % self.devices;
            let send = async move {
                let is_accepted = path.send(device, number).await?;
                anyhow::Ok((machine_time().saturating_sub(due), is_accepted))
            };
            sending.spawn_on(send, runtime);
            while let Some(sent) = sending.try_join_next() {
                let (took, is_accepted) = sent??;
                round.note(took, is_accepted);
            }
        }
        while let Some(sent) = runtime.block_on(sending.join_next()) {
            let (took, is_accepted) = sent??;
            round.note(took, is_accepted);
        }
        Ok(round)
    }
}
