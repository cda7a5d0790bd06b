//! A contender's process, and what is said to it: a line of JSON each way.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::hub::HubAccess;
use benches::process::{Observed, Usage};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

/// How long an answer may take: the slowest opens 20,000 devices in a few minutes.
const PATIENCE: Duration = Duration::from_secs(900);

/// What a contender is told. Each is answered with an [`Answer`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Attaches devices, each with a token of its own where it shares a connection, and sends one
    /// message of each.
    Open {
        /// How to speak to the hub.
        hub: HubAccess,
        /// The first device's number.
        first: usize,
        /// How many.
        devices: usize,
        /// The most messages of a device that will be in flight.
        in_flight: usize,
    },
    /// Sends from every device; then waits for the verdicts on what is in flight.
    Round {
        /// What message ids begin with.
        name: String,
        /// How long it sends.
        milliseconds: u64,
        /// Messages of each device in flight.
        in_flight: usize,
    },
    /// Collects garbage.
    Rest,
}

/// What a contender answers.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Messages that the hub has accepted since the order was given.
    pub(crate) accepted: u64,
}

/// A contender's process; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Client {
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    observed: Observed,
    _child: Child,
}

impl Client {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self {
            to: child.stdin.take().context("no standard input")?,
            from: BufReader::new(child.stdout.take().context("no standard output")?),
            observed: Observed::new(child.id().context("it has ended")?),
            _child: child,
        })
    }

    /// Gives an order and tells what came of it and what the process used meanwhile.
    pub(crate) async fn metered(&mut self, order: &Order) -> Result<(Answer, Usage)> {
        let (before, started) = (self.observed.cpu()?, Instant::now());
        let answer = self.order(order).await?;
        let (cpu, wall) = (self.observed.cpu()? - before, started.elapsed());
        let usage = Usage {
            cpu,
            wall,
            ..Usage::default()
        };
        Ok((answer, usage))
    }

    pub(crate) async fn order(&mut self, order: &Order) -> Result<Answer> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.to.write_all(&line).await.context("it has ended")?;
        let mut answer = String::new();
        let read = timeout(PATIENCE, self.from.read_line(&mut answer)).await;
        let read = read.with_context(|| format!("no answer within {PATIENCE:?}"))?;
        ensure!(read? > 0, "it has ended");
        serde_json::from_str(&answer).with_context(|| format!("it said {answer:?}"))
    }

    /// The process's resident memory when it has collected its garbage.
    pub(crate) async fn resident(&mut self) -> Result<u64> {
        self.order(&Order::Rest).await?;
        self.observed.resident()
    }
}
