//! The hub simulator as a program: fixed ports, state in a directory, a readable log.

mod control;
mod log;
mod options;
mod variables;

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;
use hub_simulator::{HubSimulator, Plan};
use options::Options;
use variables::Variables;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    let result = runtime.block_on(run());
    // A read of standard input cannot be called off: do not wait for it.
    runtime.shutdown_background();
    result
}

async fn run() -> anyhow::Result<()> {
    log::start();
    let options = Options::parse();
    let plan = options.script.as_deref().map(read_plan).transpose()?;
    let others = options.hubs.iter().map(|host| options.another(host));
    let (hub, _others) = options
        .builder()
        .start_with(others)
        .await
        .context("the simulator cannot start")?;
    hub.add_devices(&options.devices);
    hub.save().context("the registry cannot be stored")?;
    let ca = authority_file(&hub, &options)?;
    if let Some(path) = &options.env_file {
        Variables::of(&hub, &ca, &options).write(path)?;
    }
    if !options.quiet {
        variables::print(&hub, &ca, &options);
    }

    tokio::select! {
        signal = stop_signal() => signal.context("signals cannot be awaited")?,
        never = control::serve(&hub) => match never {},
        never = follow(&hub, plan.as_ref()) => match never {},
    }
    tracing::info!("Hub stops");
    hub.stop().await.context("the state cannot be stored")
}

fn read_plan(path: &Path) -> anyhow::Result<Plan> {
    let failed = || format!("the script {} cannot be used", path.display());
    let text = std::fs::read_to_string(path).with_context(failed)?;
    Plan::from_json(&text).with_context(failed)
}

async fn follow(hub: &HubSimulator, plan: Option<&Plan>) -> Infallible {
    if let Some(plan) = plan {
        hub.faults().play(plan).await;
        tracing::info!("The script is over");
    }
    std::future::pending().await
}

/// The file with the authority's certificate: in the state directory, or a temporary one.
fn authority_file(hub: &HubSimulator, options: &Options) -> anyhow::Result<PathBuf> {
    if let Some(directory) = &options.state {
        return std::path::absolute(directory.join("ca.pem")).context("no such directory");
    }
    let path = std::env::temp_dir().join(format!("hub-simulator-ca-{}.pem", std::process::id()));
    let pem = hub.ca_pem().context("the hub has no certificate")?;
    hub_simulator::write_atomically(&path, pem)?;
    Ok(path)
}

/// Waits for Ctrl-C, or for SIGTERM where there is one.
async fn stop_signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
