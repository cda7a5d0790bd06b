//! A process that has run out of file descriptors.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]
#![cfg(unix)]

mod support;

use std::process::Command;

use support::{Device, Running, config};
use tokio::net::TcpStream;

/// Few enough to run out of soon, more than a test program needs.
const DESCRIPTORS: u32 = 48;

/// Runs in a process of its own, which [`accepting_goes_on_once_there_are_descriptors_again`]
/// starts with a limit.
#[tokio::test]
#[ignore = "needs a limit on file descriptors"]
async fn with_few_descriptors() {
    let running = Running::start(config(&["dev1", "dev2"])).await;
    // All of them wait to be accepted, since nothing is awaited meanwhile.
    let mut clients = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(running.address()) {
        clients.push(stream);
        assert!(clients.len() < DESCRIPTORS as usize, "there is no limit");
    }
    // One descriptor is free for the first, none for the second.
    clients.pop();
    let mut clients = clients.into_iter().map(|stream| {
        stream.set_nonblocking(true).unwrap();
        Device::new(TcpStream::from_std(stream).unwrap())
    });
    let (mut first, mut second) = (clients.next().unwrap(), clients.next().unwrap());
    first.hello("dev1").await;
    drop(clients);
    second.hello("dev2").await;
    first.works("a").await;
    second.works("b").await;
    running.end().await;
}

#[test]
fn accepting_goes_on_once_there_are_descriptors_again() {
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -n {DESCRIPTORS} && exec \"$0\" --exact --ignored with_few_descriptors"
        ))
        .arg(std::env::current_exe().unwrap())
        .status()
        .unwrap();
    assert!(status.success());
}
