//! A hub in a process of its own, so that what it costs is not counted.

mod command;
mod flood;
mod role;
pub mod tally;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use hub_simulator::Fault;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command as Process};
use tokio::time::timeout;

pub use command::{Command, Flood, HubAccess, HubCounts, HubSetup};
pub use role::be_the_hub_if_asked;

/// The argument that makes a measuring program be the hub.
const ROLE: &str = "--be-the-hub";
/// How long an answer may take: throttles make tens of thousands of devices wait for minutes.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A hub process. It ends when this is dropped, or when this process ends.
#[derive(Debug)]
pub struct HubProcess {
    /// How to speak to it.
    pub access: HubAccess,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _child: Child,
}

impl HubProcess {
    /// Starts the hub: this very program again, in another role.
    ///
    /// # Errors
    /// The process cannot be started or does not say where it listens.
    pub async fn start(setup: &HubSetup) -> Result<Self> {
        let mut child = Process::new(std::env::current_exe()?)
            .args([ROLE, &serde_json::to_string(setup)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the hub's process")?;
        let to = child.stdin.take().context("no standard input")?;
        let mut from = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self {
            access: answer(&mut from).await?,
            to,
            from,
            _child: child,
        })
    }

    /// Tells the hub something, and waits until it is done.
    ///
    /// # Errors
    /// The hub's process has ended, or has not answered for an hour.
    pub async fn tell(&mut self, command: &Command) -> Result<()> {
        self.ask(command).await
    }

    /// Makes a fault.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub async fn make(&mut self, fault: Fault) -> Result<()> {
        self.tell(&Command::Make(vec![fault])).await
    }

    /// Asks the hub something.
    ///
    /// # Errors
    /// As [`tell`](Self::tell), or the answer is to another question.
    pub async fn ask<T: DeserializeOwned>(&mut self, command: &Command) -> Result<T> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.to.write_all(&line).await?;
        let answered = timeout(PATIENCE, answer(&mut self.from)).await;
        answered.with_context(|| format!("the hub does not answer {command:?}"))?
    }

    /// What the hub carries now.
    ///
    /// # Errors
    /// As [`tell`](Self::tell).
    pub async fn counts(&mut self) -> Result<HubCounts> {
        self.ask(&Command::Count).await
    }
}

async fn answer<T: DeserializeOwned>(from: &mut BufReader<ChildStdout>) -> Result<T> {
    let mut line = String::new();
    from.read_line(&mut line).await?;
    serde_json::from_str(&line).with_context(|| format!("the hub said {line:?}"))
}
