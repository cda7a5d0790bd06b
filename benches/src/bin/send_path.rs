//! Sends so many messages through the embedded gateway and ends, for whoever counts its instructions.
//!
//! It runs on one thread, the hub in a process of its own. Run with two counts, the difference is
//! what the messages cost: starting, attaching and ending fall out. `.ci/instructions` does so.

use anyhow::{Result, ensure};
use benches::embedded::{Embedded, Keys, OnlySpeaking, send};
use benches::hub::{HubProcess, HubSetup, be_the_hub_if_asked};
use benches::report::{Fields, Report};
use clap::Parser;

/// The gateway program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sends messages and ends; its instructions are counted from outside.
#[derive(Debug, Parser)]
struct Options {
    /// Devices, each with one message in flight.
    #[arg(long, default_value_t = 100)]
    devices: usize,
    /// Messages a device, besides the one that attaches it.
    #[arg(long, default_value_t = 100)]
    messages: usize,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    if be_the_hub_if_asked().await? {
        return Ok(());
    }
    let Options {
        devices,
        messages,
        json,
    } = Options::parse();
    let mut hub = HubProcess::start(&HubSetup::default()).await?;
    let credentials = Keys::Policy.credentials(&hub.access)?;
    let gateway = Embedded::start(hub.access.amqp(), credentials, devices, OnlySpeaking)?;
    let again = send(&gateway.ingress, 0..devices, devices, 1, "attach").await?
        + send(&gateway.ingress, 0..devices, devices, messages, "count").await?;
    ensure!(again == 0, "the gateway gave messages back");
    let accepted = hub.counts().await?.messages;
    ensure!(accepted == (devices * (messages + 1)) as u64);
    gateway.stop().await?;
    let conditions = Fields::new()
        .with("devices", devices)
        .with("messages", messages);
    Report::new(env!("CARGO_BIN_NAME"), conditions)
        .with_results(Fields::new().with("accepted", accepted))
        .print(json);
    Ok(())
}
