//! What the programs of this package share.

use std::io::{self, Write as _};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Raises the number of files that this process may have open to what the system allows it, and
/// returns that number; `None` where the system sets no such limit.
///
/// A connection is a file, and the usual first limit of 1024 is far below what a gateway holds.
///
/// # Errors
/// The system refuses.
#[cfg(unix)]
pub fn raise_file_limit() -> io::Result<Option<u64>> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let current = maximum;
        setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    }
    Ok(maximum)
}

/// Does nothing: this system has no limit that a process could raise.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn raise_file_limit() -> io::Result<Option<u64>> {
    Ok(None)
}

/// Writes logs to standard error, what `RUST_LOG` names or else what `filter` does.
///
/// # Errors
/// The filter is not one, see [`EnvFilter`].
pub fn log_to_stderr(filter: &str) -> Result<(), ParseError> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(filter) => filter.parse()?,
        Err(_) => filter.parse::<EnvFilter>()?,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_writer(io::stderr)
        .init();
    Ok(())
}

/// Turns a program's result into its exit code, and tells an error with its causes in one line.
#[must_use]
pub fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // Nobody is left to tell if this fails.
        drop(writeln!(io::stderr(), "Error: {error:#}"));
        ExitCode::FAILURE
    })
}

/// The README's own example, so that it compiles as long as it is shown.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
