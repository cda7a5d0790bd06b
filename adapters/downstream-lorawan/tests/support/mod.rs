//! Programs of others, which make and read what this crate reads and makes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use bytes::Bytes;
use serde_json::Value;

/// A program under `interop/` that answers one line of JSON with one; it ends with this value.
pub(crate) struct Peer {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the peer in a folder of `interop/`; none, and a word about it, where what it needs
    /// is not installed there. With `required` set in the environment, that fails the test.
    pub(crate) fn start(
        folder: &str,
        needs: &str,
        program: &str,
        script: &str,
        required: &str,
    ) -> Option<Self> {
        let interop = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../interop");
        let folder = interop.join(folder);
        if !folder.join(needs).exists() {
            absent(&format!("{needs} (see interop/README.md)"), required);
            return None;
        }
        // A program of the folder's own, or one on the path.
        let own = folder.join(program);
        let program = if own.exists() { own } else { program.into() };
        let mut process = Command::new(program)
            .arg(folder.join(script))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer starts");
        Some(Self {
            requests: process.stdin.take().expect("a pipe"),
            answers: BufReader::new(process.stdout.take().expect("a pipe")),
            process,
        })
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}").expect("the peer listens");
        let mut answer = String::new();
        let read = self.answers.read_line(&mut answer);
        read.expect("the peer speaks");
        serde_json::from_str(&answer).expect("the peer answers")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[expect(clippy::print_stderr, reason = "a test that tests nothing must say so")]
fn absent(what: &str, required: &str) {
    assert!(
        std::env::var_os(required).is_none(),
        "{required} is set, and there is no interop/{what}"
    );
    eprintln!("SKIPPED: there is no {what}");
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the bytes in a field of an answer.
pub(crate) fn bytes(answer: &Value, field: &str) -> Bytes {
    let hex = answer[field].as_str().expect("the peer makes bytes");
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("digits");
    (0..hex.len()).step_by(2).map(byte).collect()
}
