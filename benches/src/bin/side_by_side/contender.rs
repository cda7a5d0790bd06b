//! Who is measured, and how each is started.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::role::ROLE;

/// Somebody who sends telemetry for many devices. The first is what the others are compared with.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// This project's gateway, embedded.
    Gateway,
    /// fe2o3-amqp alone, on a stream that coalesces its writes.
    Fe2o3Coalesced,
    /// fe2o3-amqp alone.
    Fe2o3,
    /// rhea, on Node.
    Rhea,
    /// Qpid Proton's Python binding.
    QpidProton,
    /// Microsoft's device SDK for Node, its devices sharing connections.
    NodeSdkShared,
    /// Microsoft's device SDK for Node, a connection for each device, as it is documented.
    NodeSdk,
}

impl Contender {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// Its name in a table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Fe2o3Coalesced => "fe2o3-coalesced",
            Self::Fe2o3 => "fe2o3",
            Self::Rhea => "rhea",
            Self::QpidProton => "qpid-proton",
            Self::NodeSdkShared => "node-sdk-shared",
            Self::NodeSdk => "node-sdk",
        }
    }

    /// Its name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Gateway => "this gateway, embedded",
            Self::Fe2o3Coalesced => "fe2o3-amqp, coalescing stream",
            Self::Fe2o3 => "fe2o3-amqp",
            Self::Rhea => "rhea (Node)",
            Self::QpidProton => "Qpid Proton (Python)",
            Self::NodeSdkShared => "Node device SDK, shared connections",
            Self::NodeSdk => "Node device SDK, one connection each",
        }
    }

    /// The most devices that it is asked to carry: sockets are bounded on most machines.
    pub(crate) fn most_devices(self) -> usize {
        match self {
            Self::NodeSdk => 1000,
            _ => usize::MAX,
        }
    }

    /// The process that will be it.
    ///
    /// # Errors
    /// It is not installed.
    pub(crate) fn command(self, peers: &Path) -> Result<Command> {
        let in_python = || python(peers, "proton_client.py");
        Ok(match self {
            Self::Gateway | Self::Fe2o3Coalesced | Self::Fe2o3 => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args([ROLE, self.name()]);
                command
            }
            Self::Rhea => node(peers, "rhea_client.js", &[])?,
            Self::QpidProton => in_python()?,
            Self::NodeSdkShared => node(peers, "sdk_client.js", &["--shared"])?,
            Self::NodeSdk => node(peers, "sdk_client.js", &[])?,
        })
    }
}

fn node(peers: &Path, script: &str, arguments: &[&str]) -> Result<Command> {
    let folder = peers.join("node");
    installed(&folder.join("node_modules"))?;
    let mut command = Command::new("node");
    // Memory is looked at when the garbage has been collected.
    command.arg("--expose-gc").arg(folder.join(script));
    command.args(arguments);
    Ok(command)
}

fn python(peers: &Path, script: &str) -> Result<Command> {
    let folder = peers.join("python");
    let interpreter: PathBuf = folder.join("proton.venv/bin/python");
    installed(&interpreter)?;
    let mut command = Command::new(interpreter);
    command.arg(folder.join(script));
    Ok(command)
}

fn installed(path: &Path) -> Result<()> {
    ensure!(
        path.exists(),
        "{} is missing: run `bash benches/peers/run`, which installs the peers",
        path.display()
    );
    Ok(())
}
