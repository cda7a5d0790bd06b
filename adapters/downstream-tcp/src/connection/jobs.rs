//! Work at the hub.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use gateway_core::{
    DEFAULT_RETRY_AFTER, DeviceId, ErrorKind, Ingress, Settlement, Slot, TwinReply, TwinRequest,
    Uplink,
};

use tokio::sync::Mutex;

use crate::proto::Refusal;

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are uplinks, which a box would cost an allocation each"
)]
#[derive(Debug)]
pub(super) enum Job {
    Uplink { token: u64, uplink: Uplink },
    Twin { token: u64, request: TwinRequest },
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Done {
    Uplink {
        token: u64,
        settlement: Settlement,
    },
    Twin {
        token: u64,
        answer: Result<TwinReply, Refusal>,
    },
}

impl Job {
    /// The outcome of a job that was never begun.
    pub(super) fn undone(self) -> Done {
        match self {
            Self::Uplink { token, .. } => Done::Uplink {
                token,
                settlement: Settlement::RetryLater(DEFAULT_RETRY_AFTER),
            },
            Self::Twin { token, .. } => Done::Twin {
                token,
                answer: Err(Refusal::new(ErrorKind::Disconnected)),
            },
        }
    }
}

/// A job with what it needs to begin.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are uplinks, which a box would cost an allocation each"
)]
#[derive(Debug)]
pub(super) enum Start {
    Uplink {
        token: u64,
        uplink: Uplink,
        slot: Slot,
    },
    Twin {
        token: u64,
        request: TwinRequest,
        device: DeviceId,
        /// The turn of the connection's twin requests, which go one after the other: of two patches
        /// the later one stays, even if the hub had to be asked twice for the earlier one.
        turn: Arc<Mutex<()>>,
    },
}

/// Does a job. The future of an uplink is no larger than its delivery; the rare one is boxed.
pub(super) fn perform(ingress: &Ingress, start: Start) -> impl Future<Output = Done> + use<> {
    match start {
        Start::Uplink {
            token,
            uplink,
            slot,
        } => Either::Left(
            slot.deliver(uplink)
                .map(move |settlement| Done::Uplink { token, settlement }),
        ),
        Start::Twin {
            token,
            request,
            device,
            turn,
        } => {
            let ingress = ingress.clone();
            Either::Right(Box::pin(async move {
                let _turn = turn.lock().await;
                let answer = ingress.twin(&device, request).await;
                Done::Twin {
                    token,
                    answer: answer.map_err(|error| Refusal::from(&error)),
                }
            }))
        }
    }
}

/// What is on its way. Most devices have one message there at a time: it has a place of its own,
/// where it costs neither memory nor a wake-up of its own. Where there are others, the next goes
/// behind them: they may not have been polled yet, and uplinks are in the order of their first polls.
#[derive(Debug)]
pub(super) struct Jobs<'a, F> {
    first: Pin<&'a mut Option<F>>,
    others: FuturesUnordered<F>,
}

impl<'a, F: Future<Output = Done>> Jobs<'a, F> {
    /// Begins with none, and with the place of the first.
    pub(super) fn new(first: Pin<&'a mut Option<F>>) -> Self {
        Self {
            first,
            others: FuturesUnordered::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(super) fn push(&mut self, job: F) {
        match self.len() {
            0 => self.first.set(Some(job)),
            _ => self.others.push(job),
        }
    }

    /// Takes one that is done.
    pub(super) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        if let Some(first) = self.first.as_mut().as_pin_mut()
            && let Poll::Ready(done) = first.poll(cx)
        {
            self.first.set(None);
            return Poll::Ready(done);
        }
        if !self.others.is_empty()
            && let Poll::Ready(Some(done)) = self.others.poll_next_unpin(cx)
        {
            return Poll::Ready(done);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    /// A set of futures may leave one unpolled where two before it have woken themselves.
    #[test]
    fn what_waits_for_its_first_poll_keeps_its_place() {
        let begun = RefCell::new(Vec::new());
        let job = |name: char, wakes_itself: bool| {
            let begun = &begun;
            let mut is_new = true;
            poll_fn(move |cx| {
                if std::mem::take(&mut is_new) {
                    begun.borrow_mut().push(name);
                }
                if wakes_itself {
                    cx.waker().wake_by_ref();
                }
                let settlement = Settlement::Accepted;
                match name {
                    'a' => Poll::Ready(Done::Uplink {
                        token: 1,
                        settlement,
                    }),
                    _ => Poll::Pending,
                }
            })
        };
        let first = pin!(None);
        let mut jobs = Jobs::new(first);
        for (name, wakes_itself) in [('a', false), ('b', true), ('c', true), ('d', false)] {
            jobs.push(job(name, wakes_itself));
        }
        let mut cx = Context::from_waker(Waker::noop());
        assert!(jobs.poll_done(&mut cx).is_ready());
        assert!(jobs.poll_done(&mut cx).is_pending());
        jobs.push(job('e', false));
        for _ in 0..10 {
            assert!(jobs.poll_done(&mut cx).is_pending());
        }
        assert_eq!(*begun.borrow(), ['a', 'b', 'c', 'd', 'e']);
    }
}
