//! The program: commands on its standard input, and what it answers.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// How long the program may take to start and to answer.
const PATIENCE: Duration = Duration::from_secs(30);

struct Program(Child);

impl Program {
    fn start(state: &Path) -> Self {
        let program = Command::new(env!("CARGO_BIN_EXE_hub-simulator"))
            .args(["--amqps-port", "0", "--mqtts-port", "0"])
            .args(["--https-port", "0", "--device", "d", "--quiet", "--state"])
            .arg(state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(program.unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_command_that_is_no_text_is_answered_and_so_is_the_next() {
    let state = tempfile::tempdir().unwrap();
    let mut program = Program::start(state.path());
    let answers = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let (tell, told) = sync_channel(8);
    thread::spawn(move || {
        answers
            .map_while(Result::ok)
            .try_for_each(|line| tell.send(line))
    });
    let mut commands = program.0.stdin.take().unwrap();
    commands.write_all(b"c2d d caf\xe9\nc2d d tea\r\n").unwrap();
    let answer = told.recv_timeout(PATIENCE).unwrap();
    assert!(
        answer.starts_with("error: the line is not UTF-8"),
        "{answer}"
    );
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "sent");
}
