//! A real Mosquitto on a free port, where it is installed.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

/// Debian puts it where only root's path leads.
const PLACES: [&str; 3] = [
    "/usr/sbin/mosquitto",
    "/usr/local/sbin/mosquitto",
    "/opt/homebrew/sbin/mosquitto",
];
/// Insists on it: then its absence fails the tests.
const REQUIRED: &str = "REQUIRE_MOSQUITTO";
const LOG: &str = "mosquitto.log";

/// A broker in a process of its own; it ends with this value.
#[derive(Debug)]
pub(crate) struct Mosquitto {
    program: PathBuf,
    /// Holds the configuration, the log and, if it is to be kept, what the broker keeps.
    directory: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Mosquitto {
    /// Starts one that lets everybody in; none, and a word about it, where it is not installed.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with("allow_anonymous true\n").await
    }

    /// Starts one with these lines in its configuration; `{dir}` stands for a directory of its own.
    pub(crate) async fn start_with(lines: &str) -> Option<Self> {
        let Some(program) = program() else {
            absent();
            return None;
        };
        let mut log = String::new();
        // The port was free a moment ago; if another took it meanwhile, another is tried.
        for _ in 0..10 {
            let mut broker = Self {
                program: program.clone(),
                directory: TempDir::new().expect("a directory"),
                port: free_port(),
                child: None,
            };
            broker.configure(lines);
            if broker.run().await {
                return Some(broker);
            }
            log = broker.log();
        }
        panic!("mosquitto does not start:\n{log}");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join(LOG)).unwrap_or_default()
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Ends it in order, so that it keeps what it is to keep.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = child.id().to_string();
            let told = Command::new("kill").args(["-TERM", &pid]).status();
            if !told.is_ok_and(|status| status.success()) {
                drop(child.kill());
            }
            drop(child.wait());
        }
    }

    /// Stops it in its tracks, connections open, as a frozen machine does.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Has it write what it keeps to disk, once.
    pub(crate) async fn save(&self) {
        self.signal("-USR1");
        let kept = self.directory.path().join("mosquitto.db");
        while !kept.exists() {
            // It says in no other way that it has.
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let told = Command::new("kill").args([signal, &pid]).status();
        assert!(told.is_ok_and(|status| status.success()));
    }

    /// Starts it again on the same port after `kill` or `stop`.
    pub(crate) async fn restart(&mut self) {
        assert!(self.run().await, "mosquitto starts again");
    }

    fn configure(&self, lines: &str) {
        let directory = self.directory.path().display().to_string();
        // As root it would become another user, who may not write here.
        let configuration = format!(
            "listener {} 127.0.0.1\nuser root\n{}",
            self.port,
            lines.replace("{dir}", &directory)
        );
        std::fs::write(self.directory.path().join("mosquitto.conf"), configuration)
            .expect("a configuration");
    }

    /// Starts the process and waits until it says that it runs; false if it ends instead.
    ///
    /// To connect would prove nothing: until the port is its own, whoever has it may answer.
    async fn run(&mut self) -> bool {
        let said_before = self.log().len();
        let log = self.directory.path().join(LOG);
        let log = OpenOptions::new().create(true).append(true).open(log);
        let child = Command::new(&self.program)
            .arg("-c")
            .arg(self.directory.path().join("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn()
            .expect("mosquitto can be started");
        self.child = Some(child);
        loop {
            if self.log()[said_before..].contains(" running\n") {
                return true;
            }
            let child = self.child.as_mut().expect("just started");
            if child.try_wait().expect("a child").is_some() {
                self.child = None;
                return false;
            }
            // Another process says in no other way that it is ready.
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn program() -> Option<PathBuf> {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&on_path).map(|place| place.join("mosquitto"));
    let places = PLACES.into_iter().map(PathBuf::from);
    on_path.chain(places).find(|path| path.is_file())
}

#[allow(
    clippy::print_stderr,
    reason = "a test that tests nothing must say so; not every binary with this file is a test's"
)]
fn absent() {
    assert!(
        std::env::var_os(REQUIRED).is_none(),
        "{REQUIRED} is set, and mosquitto is not installed"
    );
    eprintln!("SKIPPED: mosquitto is not installed (Debian: apt-get install mosquitto)");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
