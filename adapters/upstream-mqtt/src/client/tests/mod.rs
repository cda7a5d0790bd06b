//! The client with its broker played by hand, by a script over real sockets, and by others.

mod foreign;
mod model;
mod peer;
mod script;
mod timing;
mod traps;
mod unread;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Inbox, Incoming, Options, Publish, Version};

/// Long enough for whatever has to happen, on any machine.
pub(super) const SOON: Duration = Duration::from_secs(30);

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

/// A future that is polled by hand, and knows whether it was woken since.
pub(super) struct Task<T> {
    future: Pin<Box<dyn Future<Output = T>>>,
    woken: Arc<Woken>,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl<T> Task<T> {
    /// A future that is polled for the first time with the next step.
    pub(super) fn new(future: impl Future<Output = T> + 'static) -> Self {
        Self {
            future: Box::pin(future),
            woken: Arc::new(Woken(AtomicBool::new(true))),
        }
    }

    /// Polls it if it was woken, as an executor does: a wake-up that is lost is not made up for.
    pub(super) fn step(&mut self) -> Option<T> {
        if !self.woken.0.swap(false, Relaxed) {
            return None;
        }
        let waker = Waker::from(self.woken.clone());
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }
}
