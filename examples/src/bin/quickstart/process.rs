//! The gateway's process, as its parent sees it.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::gateway::{Setup, Word};

/// From the program's start to its address.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// The gateway's own grace is 10 s.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Runs this program again, as the gateway.
#[derive(Debug)]
pub(crate) struct GatewayProcess {
    child: Child,
    /// The gateway ends when this closes.
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl GatewayProcess {
    pub(crate) async fn start(setup: &Setup) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program does not know its own path")?;
        let mut child = Command::new(program)
            .arg("gateway")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the gateway cannot be started")?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the gateway has no pipes");
        };
        // Secrets go through the pipe: others can read a command line.
        let line = serde_json::to_string(setup)? + "\n";
        input
            .write_all(line.as_bytes())
            .await
            .context("the gateway takes no setup")?;
        let mut output = BufReader::new(output).lines();
        let address = match timeout(START_PATIENCE, hear(&mut output)).await {
            Ok(Ok(Word::Listening(address))) => address,
            Ok(Ok(word)) => bail!("the gateway said {word:?} instead of its address"),
            Ok(Err(error)) => return Err(error.context("the gateway did not start")),
            Err(_) => bail!("the gateway did not start within {START_PATIENCE:?}"),
        };
        Ok(Self {
            child,
            input,
            output,
            address,
        })
    }

    /// Where devices connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for an end that nobody asked for, and names it.
    pub(crate) async fn died(&mut self) -> anyhow::Error {
        match self.child.wait().await {
            Ok(status) => anyhow::anyhow!("the gateway ended in the middle of the run ({status})"),
            Err(error) => anyhow::Error::from(error).context("the gateway cannot be watched"),
        }
    }

    /// Closes its input, which shuts it down in order, and tells what it left undone.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let Self {
            mut child,
            input,
            mut output,
            ..
        } = self;
        drop(input);
        let stopped = async {
            let word = hear(&mut output).await?;
            let status = child.wait().await?;
            match word {
                Word::Stopped {
                    abandoned: 0,
                    forced: false,
                } if status.success() => Ok(()),
                word => bail!("the gateway did not shut down in order: {word:?}, {status}"),
            }
        };
        match timeout(STOP_PATIENCE, stopped).await {
            Ok(result) => result,
            Err(_) => bail!("the gateway did not end within {STOP_PATIENCE:?} and was killed"),
        }
    }

    /// Reads what the process costs.
    pub(crate) fn meter(&self) -> anyhow::Result<Meter> {
        let process = self.child.id().context("the gateway has ended")?;
        Ok(Meter { process })
    }
}

/// Reads what a process costs, where the system tells (Linux).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    process: u32,
}

impl Meter {
    /// The processor time of all its threads so far.
    pub(crate) fn cpu(self) -> Option<Duration> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process)).ok()?;
        let mut nanoseconds = 0;
        for task in tasks {
            // Linux, "Scheduler Statistics": the first number is the time on the processor.
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            nanoseconds += text.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
        }
        Some(Duration::from_nanos(nanoseconds))
    }

    /// Its resident memory in MiB.
    pub(crate) fn resident_mib(self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        Some(kib / 1024.0)
    }
}

async fn hear(output: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<Word> {
    let line = output
        .next_line()
        .await?
        .context("it ended without a word")?;
    Ok(serde_json::from_str(&line)?)
}
