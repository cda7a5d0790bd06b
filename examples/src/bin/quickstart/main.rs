//! A hub, a gateway and a fleet of devices on this machine, in one go.

mod args;
mod commands;
mod device;
mod fleet;
mod gateway;
mod plan;
mod process;
mod progress;
mod report;
mod run;
mod verdict;
mod view;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Part};

/// A message is many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    examples::exit(start(&Args::parse()))
}

fn start(args: &Args) -> anyhow::Result<ExitCode> {
    // Log lines would tear the view; RUST_LOG=warn shows, for instance, each lost connection.
    examples::log_to_stderr("error")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        match &args.part {
            Some(Part::Gateway) => gateway::serve().await.map(|()| ExitCode::SUCCESS),
            None => whole(args).await,
        }
    });
    // The gateway may still be waiting for standard input in a thread that cannot be woken.
    runtime.shutdown_background();
    result
}

async fn whole(args: &Args) -> anyhow::Result<ExitCode> {
    let (report, faults) = run::run(args).await?;
    let text = match args.json {
        true => serde_json::to_string(&report)?,
        false => report.to_string(),
    };
    writeln!(std::io::stdout(), "{text}")?;
    for fault in &faults {
        writeln!(std::io::stderr(), "Not as it should be: {fault}.")?;
    }
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
