//! What tells a connection that more than a message may have come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// Wakes a connection's task, and remembers that it did.
///
/// A message wakes the task twice, and each of the things that come seldom has memory of its own,
/// seldom in the processor's cache. They ring this, so that only one place has to be looked at.
#[derive(Debug)]
pub(super) struct Bell {
    is_rung: AtomicBool,
    task: Waker,
}

impl Bell {
    /// Makes one for a task, rung: nothing has been told to ring it yet.
    pub(super) fn new(task: &Waker) -> Arc<Self> {
        Arc::new(Self {
            is_rung: AtomicBool::new(true),
            task: task.clone(),
        })
    }

    pub(super) fn is_of(&self, task: &Waker) -> bool {
        self.task.will_wake(task)
    }

    /// Has everything that comes seldom looked at, when the task next does.
    pub(super) fn ring(&self) {
        self.is_rung.store(true, Ordering::Release);
    }

    pub(super) fn is_rung(&self) -> bool {
        self.is_rung.load(Ordering::Acquire)
    }

    /// Tells whether it was rung, and ends that.
    pub(super) fn silence(&self) -> bool {
        self.is_rung() && self.is_rung.swap(false, Ordering::Acquire)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
        self.task.wake_by_ref();
    }
}
