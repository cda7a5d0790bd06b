//! The client with its broker played by a script over real sockets, by hand, and by others.

mod connecting;
mod endings;
mod foreign;
mod peer;
mod publishing;
mod receiving;
mod timing;
mod traps;
mod unread;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Inbox, Incoming, Options, Publish, Version};

/// Long enough for whatever has to happen, on any machine.
pub(super) const SOON: Duration = Duration::from_secs(30);
/// For what must never come.
pub(super) const BRIEF: Duration = Duration::from_millis(200);
pub(super) const BOTH: [Version; 2] = [Version::V4, Version::V5];

/// Waits for what must happen.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(SOON, future).await;
    waited.expect("it happens soon")
}

/// Keeps what comes.
#[derive(Debug, Default)]
pub(super) struct Kept {
    incoming: Mutex<Vec<Incoming>>,
    more: Notify,
}

impl Inbox for Kept {
    fn on_publish(&self, incoming: Incoming) {
        let mut kept = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(incoming);
        drop(kept);
        self.more.notify_one();
    }
}

impl Kept {
    /// Takes what has come so far.
    pub(super) fn take(&self) -> Vec<Incoming> {
        let mut kept = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *kept)
    }

    /// Waits for so many.
    pub(super) async fn wait_for(&self, count: usize) -> Vec<Incoming> {
        let mut all = Vec::new();
        while all.len() < count {
            all.append(&mut self.take());
            if all.len() < count {
                soon(self.more.notified()).await;
            }
        }
        all
    }
}

/// A message whose payload tells it from the others.
pub(super) fn message(number: usize) -> Publish {
    Publish {
        topic: "a/b".to_owned(),
        payload: number.to_string().into(),
        ..Publish::default()
    }
}

/// How to reach a broker on this machine.
pub(super) fn local(port: u16, version: Version) -> Options {
    let mut options = Options::new("localhost", port, "client-1");
    options.address = Some("127.0.0.1".to_owned());
    options.version = version;
    options
}
