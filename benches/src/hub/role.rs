//! The hub's side: does what it is told until its standard input closes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hub_simulator::{C2d, Fault, HubSimulator, Limits, RecordMode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};
use tokio::task::JoinSet;

use super::command::{Command, HubAccess, HubCounts, HubSetup};
use super::tally::Tally;
use super::{ROLE, flood};
use crate::process::{machine_time, resident};
use crate::{BoxFuture, HOST, device_name};

/// Is the hub, if the arguments say so, until standard input closes.
///
/// # Errors
/// The simulator cannot start, or a command cannot be read.
pub fn be_the_hub_if_asked() -> BoxFuture<'static, Result<bool>> {
    Box::pin(be_the_hub())
}

async fn be_the_hub() -> Result<bool> {
    let setup = std::env::args()
        .skip_while(|argument| argument != ROLE)
        .nth(1);
    let Some(setup) = setup else {
        return Ok(false);
    };
    let mut role = Role::start(&serde_json::from_str(&setup)?).await?;
    say(&serde_json::to_value(HubAccess::of(&role.hub)?)?).await?;
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command = serde_json::from_str(&line).context("no command")?;
        say(&role.obey(command).await?).await?;
    }
    Ok(true)
}

async fn say(answer: &Value) -> Result<()> {
    let mut stdout = stdout();
    stdout.write_all(format!("{answer}\n").as_bytes()).await?;
    Ok(stdout.flush().await?)
}

struct Role {
    hub: Arc<HubSimulator>,
    floods: JoinSet<()>,
    tally: Option<Tally>,
}

impl Role {
    async fn start(setup: &HubSetup) -> Result<Self> {
        let record = match setup.tally {
            true => RecordMode::Compact,
            false => RecordMode::Count,
        };
        let hub = HubSimulator::builder()
            .with_host(HOST)
            .with_auto_register(true)
            .with_record(record)
            .with_limits(Limits::default().with_size(setup.tier.size(setup.units)))
            .start()
            .await?;
        hub.faults()
            .latency(Duration::from_millis(setup.latency_ms));
        Ok(Self {
            tally: setup.tally.then(|| Tally::start(hub.record())),
            hub: Arc::new(hub),
            floods: JoinSet::new(),
        })
    }

    async fn obey(&mut self, command: Command) -> Result<Value> {
        let hub = &self.hub;
        match command {
            Command::Make(faults) => {
                for fault in faults {
                    // One for a device that is not there has nobody to meet.
                    hub.faults().apply(&fault);
                }
            }
            Command::Cut { attached } => {
                let old: HashSet<_> = hub.connections().iter().map(|old| old.id).collect();
                hub.faults().apply(&Fault::Cut { connection: None });
                hub.wait_until(|stats| {
                    stats.attached_devices == attached
                        && stats.connections.iter().all(|new| !old.contains(&new.id))
                })
                .await;
            }
            Command::AwaitAttached(devices) => {
                hub.wait_until(|stats| stats.attached_devices == devices)
                    .await;
            }
            Command::AwaitListening {
                from,
                to,
                listening,
                methods,
            } => {
                for device in (from..to).map(device_name) {
                    match listening {
                        true => hub.wait_messages(&device).await,
                        false => hub.wait_deaf(&device).await,
                    }
                    if listening && methods {
                        hub.wait_methods(&device).await;
                    }
                }
            }
            Command::Message { device } => {
                let body = machine_time().as_nanos().to_string();
                hub.send_c2d(&device, C2d::new(body))?;
            }
            Command::Flood { of, per_second } => {
                flood::begin(&mut self.floods, hub.clone(), of, per_second);
            }
            Command::Calm => self.floods.shutdown().await,
            Command::Count => {
                let stats = hub.stats();
                return Ok(serde_json::to_value(HubCounts {
                    attached: stats.attached_devices,
                    connections: stats.connections.len(),
                    connections_opened: stats.connections_opened,
                    messages: stats.messages,
                    resident: resident()?,
                })?);
            }
            Command::Tally => {
                let tally = self.tally.as_ref().context("the hub keeps no books")?;
                return Ok(serde_json::to_value(tally.close_the_books())?);
            }
        }
        Ok(json!(null))
    }
}
