//! A hub in a process of its own, so that what it costs is not counted.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gateway_core::credential::ConnectionString;
use hub_simulator::{HubSimulator, RecordMode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// The argument that makes a measuring program be the hub.
pub const ROLE: &str = "--be-the-hub";

/// A hub process. It ends when this is dropped, or when this process ends.
#[derive(Debug)]
pub struct HubProcess {
    /// Where it listens.
    pub address: SocketAddr,
    /// The certification authority to trust.
    pub ca_pem: String,
    /// A policy that may act for every device.
    pub policy: ConnectionString,
    child: Child,
}

impl HubProcess {
    /// Starts the hub: this very program again, with the argument [`ROLE`] and the latency.
    ///
    /// # Errors
    /// The process cannot be started or does not say where it listens.
    pub async fn start(latency: Duration) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([ROLE, &latency.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the hub's process")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        let said: Value = serde_json::from_str(&line).context("the hub did not start")?;
        let text = |key: &str| said[key].as_str().context("the hub said too little");
        Ok(Self {
            address: text("address")?.parse()?,
            ca_pem: text("ca_pem")?.to_owned(),
            policy: text("policy")?.parse()?,
            child,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
}

/// Is the hub, if the arguments say so, until standard input closes.
///
/// # Errors
/// The simulator cannot start.
pub async fn be_the_hub_if_asked() -> Result<bool> {
    let mut arguments = std::env::args()
        .skip_while(|argument| argument != ROLE)
        .skip(1);
    let Some(latency) = arguments.next() else {
        return Ok(false);
    };
    let builder = HubSimulator::builder()
        .with_host(crate::HOST)
        .with_auto_register(true);
    let hub = builder.with_record(RecordMode::Count).start().await?;
    hub.faults()
        .latency(Duration::from_millis(latency.parse()?));
    let Some(ca_pem) = hub.ca_pem() else {
        bail!("the hub speaks TLS")
    };
    let address = hub.addr().to_string();
    let policy = hub.policy_connection_string("device");
    let mut line = json!({"address": address, "ca_pem": ca_pem, "policy": policy}).to_string();
    line.push('\n');
    tokio::io::stdout().write_all(line.as_bytes()).await?;
    tokio::io::stdout().flush().await?;
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(true)
}
