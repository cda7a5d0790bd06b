//! A gateway as a program: adapters put together by a configuration file.

mod credentials;
mod document;
mod secret;
mod settings;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use gateway_core::Gateway;
use tokio_util::sync::CancellationToken;

use crate::secret::Surroundings;
use crate::settings::Settings;

/// Carries devices' messages to a hub and the hub's commands to devices.
///
/// SIGTERM and Ctrl-C let what is in flight settle, then end it; a second one ends it at once.
#[derive(Debug, Parser)]
#[command(name = "gateway", version)]
struct Args {
    /// The configuration; paths in it are relative to its directory.
    #[arg(long, value_name = "FILE", default_value = "gateway.toml")]
    config: PathBuf,
    /// Name every mistake of the configuration and end: with 0 if there is none, else with 1.
    #[arg(long)]
    check: bool,
}

/// A message is many small pieces, made on one thread and dropped on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    examples::exit(start(&Args::parse()).await)
}

async fn start(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(settings) = read(&args.config)? else {
        return Ok(ExitCode::FAILURE);
    };
    if args.check {
        drop(settings.hub.upstream()?);
        settings.devices.try_out().await?;
        writeln!(io::stdout(), "{} is valid", args.config.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    run(settings).await
}

/// Reads the configuration; tells its mistakes if it has any.
fn read(path: &Path) -> anyhow::Result<Option<Settings>> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "{} cannot be read; name a file with --config",
            path.display()
        )
    })?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let variable = |name: &str| std::env::var(name).ok();
    let mistakes = match Settings::read(
        &text,
        &Surroundings {
            directory,
            variable: &variable,
        },
    ) {
        Ok(settings) => return Ok(Some(settings)),
        Err(mistakes) => mistakes,
    };
    for mistake in &mistakes {
        writeln!(io::stderr(), "{}, {mistake}", path.display())?;
    }
    Ok(None)
}

async fn run(settings: Settings) -> anyhow::Result<ExitCode> {
    let Settings {
        log,
        gateway,
        hub,
        credentials,
        devices,
    } = settings;
    examples::log_to_stderr(&log.filter).context("RUST_LOG is no filter")?;
    let connections = devices.max_connections();
    match examples::raise_file_limit() {
        Ok(Some(limit)) if limit <= connections => tracing::warn!(
            limit,
            connections,
            "Fewer files may be open than devices may connect; raise the limit of open files"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(error = %error, "The limit of open files cannot be raised"),
    }
    let upstream = hub.upstream()?;
    let builder = Gateway::builder(upstream)
        .with_config(gateway)
        .with_credentials(credentials);
    let (builder, addresses) = devices.bind(builder).await?;
    let gateway = builder.build()?;
    let mut signals = Signals::listen()?;
    for address in addresses {
        writeln!(io::stdout(), "Listening for devices on {address}")?;
    }

    let shutdown = CancellationToken::new();
    let run = gateway.run(shutdown.clone());
    tokio::pin!(run);
    let report = tokio::select! {
        report = &mut run => report?,
        signal = signals.next() => {
            tracing::info!(signal, "Draining; a second signal ends it at once");
            shutdown.cancel();
            tokio::select! {
                report = &mut run => report?,
                signal = signals.next() => {
                    let stats = gateway.stats();
                    tracing::warn!(signal, count = stats.in_flight, "Ended by force");
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
    };
    writeln!(
        io::stdout(),
        "Shut down: {} messages settled meanwhile, {} cut off without a verdict",
        report.settled,
        report.abandoned
    )?;
    Ok(if report.forced {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Hears what asks the program to end.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    #[cfg(unix)]
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            Some(()) = self.terminate.recv() => "SIGTERM",
            Ok(()) = tokio::signal::ctrl_c() => "SIGINT",
            else => std::future::pending().await,
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) -> &'static str {
        match tokio::signal::ctrl_c().await {
            Ok(()) => "Ctrl-C",
            Err(_) => std::future::pending().await,
        }
    }
}
