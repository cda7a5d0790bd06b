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

/// Runs one of libcoap's clients, and ends it after 60 s at the latest; none, and a word about it,
/// where it is not installed.
pub(crate) async fn libcoap(program: &str, arguments: Vec<String>) -> Option<Printed> {
    let mut command = Command::new(program);
    command.args(["-B", "60"]).args(arguments);
    let printed = run(command).await;
    if printed.is_none() {
        absent(program, "REQUIRE_LIBCOAP", "apt-get install libcoap3-bin");
    }
    printed
}

/// Runs the device on aiocoap, which ends by itself; none, and a word about it, where it is not
/// installed.
pub(crate) async fn aiocoap(what: &str, uri: &str, count: usize) -> Option<Printed> {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = package.join("../../target/coap-venv/bin/python");
    let mut command = Command::new(python);
    command
        .arg(package.join("tests/peers/device.py"))
        .args([what, uri, &count.to_string()]);
    let printed = run(command).await;
    if printed.is_none() {
        let cure = "bash adapters/downstream-coap/tests/peers/install";
        absent("aiocoap", "REQUIRE_AIOCOAP", cure);
    }
    printed
}

/// Lets a peer run while the hub's side does its part; none if there is no such peer.
pub(crate) async fn beside<P: fmt::Debug, T>(
    peer: impl Future<Output = Option<P>>,
    work: impl Future<Output = T>,
) -> Option<(P, T)> {
    let (mut peer, mut work) = (pin!(peer), pin!(work));
    tokio::select! {
        done = &mut work => Some((peer.await?, done)),
        printed = &mut peer => {
            let printed = printed?;
            match timeout(PATIENCE, work).await {
                Ok(done) => Some((printed, done)),
                Err(_) => panic!("the peer ended before its part was done: {printed:?}"),
            }
        }
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
