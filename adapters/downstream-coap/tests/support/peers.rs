//! Devices on foreign stacks: libcoap's clients and aiocoap, where they are installed.

use std::fmt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How long the hub's side may go on when the peer has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a peer printed.
#[derive(Debug)]
pub(crate) struct Printed {
    pub(crate) out: String,
    /// What it has to say beside it, for whoever reads a failure.
    pub(crate) log: String,
}

/// Tells whether one of libcoap's clients is installed; says a word about it where it is not.
pub(crate) fn has_libcoap(program: &str) -> bool {
    let is_there = Command::new(program).output().is_ok();
    if !is_there {
        absent(program, "REQUIRE_LIBCOAP", "apt-get install libcoap3-bin");
    }
    is_there
}

/// Runs one of libcoap's clients that is installed, and ends it after 60 s at the latest.
pub(crate) async fn libcoap(program: &str, arguments: Vec<String>) -> Printed {
    let mut command = Command::new(program);
    command.args(["-B", "60"]).args(arguments);
    run(command).await.expect("it was there a moment ago")
}

/// Tells whether aiocoap is installed; says a word about it if not.
pub(crate) fn has_aiocoap() -> bool {
    let is_there = python().is_file();
    if !is_there {
        let cure = "bash adapters/downstream-coap/tests/peers/install";
        absent("aiocoap", "REQUIRE_AIOCOAP", cure);
    }
    is_there
}

/// Runs the device on aiocoap, which is installed, and ends by itself.
pub(crate) async fn aiocoap(what: &str, uri: &str, count: usize) -> Printed {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/device.py");
    let mut command = Command::new(python());
    command.args([script, what, uri, &count.to_string()]);
    run(command).await.expect("it was there a moment ago")
}

fn python() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/coap-venv/bin/python")
}

/// Lets a peer run while the hub's side does its part.
pub(crate) async fn beside<P: fmt::Debug, T>(
    peer: impl Future<Output = P>,
    work: impl Future<Output = T>,
) -> (P, T) {
    let (mut peer, mut work) = (pin!(peer), pin!(work));
    tokio::select! {
        done = &mut work => (peer.await, done),
        printed = &mut peer => match timeout(PATIENCE, work).await {
            Ok(done) => (printed, done),
            Err(_) => panic!("the peer ended before its part was done: {printed:?}"),
        },
    }
}

async fn run(mut command: Command) -> Option<Printed> {
    let command = move || {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        child.ok()?.wait_with_output().ok()
    };
    let Output { stdout, stderr, .. } = spawn_blocking(command).await.unwrap()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some(Printed {
        out: text(stdout),
        log: text(stderr),
    })
}

#[allow(clippy::print_stderr, reason = "a test that tests nothing must say so")]
fn absent(peer: &str, required: &str, cure: &str) {
    assert!(
        std::env::var_os(required).is_none(),
        "{required} is set, and {peer} is not installed ({cure})"
    );
    eprintln!("SKIPPED: {peer} is not installed ({cure})");
}
