//! The client with its hub played by hand: frames in, frames out, futures polled one by one.

#[cfg(test)]
mod driver;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the model needs less of it than the tests")
)]
pub(super) mod hub;
pub(super) mod model;
#[cfg(test)]
mod outbox;
#[cfg(test)]
mod receivers;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod worn_out;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};

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
    /// A future that has been polled once, or what it came to.
    pub(super) fn start(future: impl Future<Output = T> + 'static) -> Result<T, Self> {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let mut task = Self {
            future: Box::pin(future),
            woken,
        };
        task.step().ok_or(task)
    }

    /// Polls it if it was woken, as an executor does: a wake-up that is lost is not made up for.
    pub(super) fn step(&mut self) -> Option<T> {
        match self.woken.0.swap(false, Relaxed) {
            true => self.poll(),
            false => None,
        }
    }

    /// Polls it without a reason, as those do that wait for several things at once.
    pub(super) fn poll(&mut self) -> Option<T> {
        let waker = Waker::from(self.woken.clone());
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }
}

/// Runs a future that has nothing to wait for.
#[cfg(test)]
pub(super) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits"),
    }
}
