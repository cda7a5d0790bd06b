//! The contenders of this program's own: does as ordered until standard input closes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use benches::embedded::{Embedded, Keys, OnlySpeaking, deliver, send};
use benches::hub::HubAccess;
use benches::raw::{Raw, Writes};
use benches::{BODY, device_name};
use clap::ValueEnum;
use gateway_core::{DeviceId, Ingress, MessageId, Uplink};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::{Answer, Order};
use super::contender::Contender;

/// The argument that makes this program a contender.
pub(crate) const ROLE: &str = "--be-the-contender";

/// Is a contender, if the arguments say so, until standard input closes.
pub(crate) async fn be_a_contender_if_asked() -> Result<bool> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(ROLE) {
        return Ok(false);
    }
    let name = arguments.next().context("which contender?")?;
    let contender = match Contender::from_str(&name, false) {
        Ok(contender) => contender,
        Err(problem) => bail!("{name}: {problem}"),
    };
    let mut open = None;
    let (mut lines, mut out) = (BufReader::new(stdin()).lines(), stdout());
    while let Some(line) = lines.next_line().await? {
        let order = serde_json::from_str(&line).context("no order")?;
        let accepted = obey(contender, &mut open, order).await?;
        let answer = serde_json::to_string(&Answer { accepted })?;
        out.write_all(format!("{answer}\n").as_bytes()).await?;
        out.flush().await?;
    }
    Ok(true)
}

async fn obey(contender: Contender, open: &mut Option<Sending>, order: Order) -> Result<u64> {
    match order {
        Order::Open {
            hub,
            first,
            devices,
            in_flight,
        } => {
            let devices = first..first + devices;
            let count = devices.len() as u64;
            *open = Some(Sending::open(contender, &hub, devices, in_flight).await?);
            Ok(count)
        }
        Order::Round {
            name,
            milliseconds,
            in_flight,
        } => {
            let sending = open.as_ref().context("nothing is open")?;
            let length = Duration::from_millis(milliseconds);
            sending.round(&name, length, in_flight).await
        }
        // Nothing here collects garbage.
        Order::Rest => Ok(0),
    }
}

/// What is open.
enum Sending {
    Gateway(Embedded, Range<usize>),
    Raw(Raw),
}

impl Sending {
    async fn open(
        contender: Contender,
        hub: &HubAccess,
        devices: Range<usize>,
        in_flight: usize,
    ) -> Result<Self> {
        let writes = match contender {
            Contender::Gateway => {
                let credentials = Keys::Device.credentials(hub)?;
                let room = devices.len() * in_flight;
                let gateway = Embedded::start(hub.amqp(), credentials, room, OnlySpeaking)?;
                // The first message attaches the device.
                let workers = devices.len();
                let again = send(&gateway.ingress, devices.clone(), workers, 1, "open").await?;
                ensure!(again == 0, "the gateway gave messages back");
                return Ok(Self::Gateway(gateway, devices));
            }
            Contender::Fe2o3Coalesced => Writes::Coalesced,
            Contender::Fe2o3 => Writes::EachFrame,
            foreign => bail!("{} is no role of this program", foreign.name()),
        };
        let expected = devices.len() as u64;
        let raw = Raw::open(hub, devices, Keys::Device, writes).await?;
        ensure!(raw.send(1, "open").await? == expected, "a message is lost");
        Ok(Self::Raw(raw))
    }

    async fn round(&self, name: &str, length: Duration, in_flight: usize) -> Result<u64> {
        let is_over = Arc::new(AtomicBool::new(false));
        let timer = async {
            sleep(length).await;
            is_over.store(true, Relaxed);
        };
        let sending = async {
            match self {
                Self::Raw(raw) => raw.send_until(&is_over, in_flight, name).await,
                Self::Gateway(gateway, devices) => {
                    let devices = devices.clone();
                    send_until(&gateway.ingress, devices, &is_over, in_flight, name).await
                }
            }
        };
        let (accepted, ()) = tokio::join!(sending, timer);
        accepted
    }
}

/// Delivers messages of every device, so many side by side, until it is over, and counts them.
async fn send_until(
    ingress: &Ingress,
    devices: Range<usize>,
    is_over: &Arc<AtomicBool>,
    in_flight: usize,
    round: &str,
) -> Result<u64> {
    let mut tasks = JoinSet::new();
    for number in devices {
        let device = DeviceId::new(device_name(number))?;
        for place in 0..in_flight {
            let (ingress, is_over) = (ingress.clone(), is_over.clone());
            let (device, round) = (device.clone(), round.to_owned());
            tasks.spawn(async move {
                let mut accepted = 0_u64;
                while !is_over.load(Relaxed) {
                    let id = MessageId::new(format!("{round}-{place}-{accepted}"))?;
                    let uplink = Uplink::new(device.clone(), id, &BODY[..]);
                    let again = deliver(&ingress, &uplink).await?;
                    ensure!(again == 0, "the gateway gave a message back");
                    accepted += 1;
                }
                Ok(accepted)
            });
        }
    }
    let mut accepted = 0;
    while let Some(task) = tasks.join_next().await {
        accepted += task??;
    }
    Ok(accepted)
}
