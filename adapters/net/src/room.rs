//! Room for connections, where strangers give way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Has room for so many connections. Where it is full, the one that has longest not said whose it is
/// gives way to the next: who says nothing keeps nobody out.
#[derive(Debug)]
pub struct Room {
    size: usize,
    free: Arc<Semaphore>,
    /// The oldest first; among them some that are known by now, or gone.
    strangers: VecDeque<Weak<State>>,
}

#[derive(Debug, Default)]
struct State {
    is_known: AtomicBool,
    is_displaced: CancellationToken,
}

/// Is a connection's place in a [`Room`], until it is dropped.
#[derive(Debug)]
pub struct Guest {
    state: Arc<State>,
    /// There, since the semaphore is never closed.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Makes room for so many.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self {
            size,
            free: Arc::new(Semaphore::new(size)),
            strangers: VecDeque::new(),
        }
    }

    /// Whether nobody can come in: all who are in are known.
    #[must_use]
    pub fn is_full(&mut self) -> bool {
        self.free.available_permits() == 0 && {
            self.forget();
            self.strangers.is_empty()
        }
    }

    /// Lets a stranger in; waits while the room is [full](Self::is_full), and until who gives way has
    /// gone.
    ///
    /// # Cancel safety
    /// Safe; who was to give way does so all the same.
    pub async fn admit(&mut self) -> Guest {
        let is_taken = self.free.available_permits() == 0;
        if is_taken || self.strangers.len() >= self.size {
            self.forget();
        }
        if is_taken && let Some(oldest) = self.strangers.pop_front().and_then(|one| one.upgrade()) {
            oldest.is_displaced.cancel();
        }
        let permit = self.free.clone().acquire_owned().await;
        let state = Arc::default();
        self.strangers.push_back(Arc::downgrade(&state));
        Guest {
            state,
            _permit: permit.ok(),
        }
    }

    fn forget(&mut self) {
        let is_stranger = |state: Arc<State>| !state.is_known.load(Relaxed);
        self.strangers
            .retain(|one| one.upgrade().is_some_and(is_stranger));
    }
}

impl Guest {
    /// Says that it is known whose it is: from now on it gives way to nobody.
    pub fn introduce(&self) {
        self.state.is_known.store(true, Relaxed);
    }

    /// Whether it is known whose it is.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.state.is_known.load(Relaxed)
    }

    /// Waits until it is to give way, for ever if it is known; then drop it.
    ///
    /// # Cancel safety
    /// Safe: it can be asked again.
    pub async fn displaced(&self) {
        self.state.is_displaced.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_stranger_that_has_been_there_longest_gives_way() {
        let mut room = Room::new(3);
        let mut enter = || room.admit().now_or_never();
        let known = enter().unwrap();
        known.introduce();
        let (first, second) = (enter().unwrap(), enter().unwrap());
        assert!(enter().is_none(), "it waits until the first has gone");
        assert!(first.displaced().now_or_never().is_some());
        drop(first);
        let third = enter().unwrap();
        for other in [&known, &second, &third] {
            assert!(other.displaced().now_or_never().is_none());
        }
    }

    #[test]
    fn a_room_of_those_who_are_known_is_full_until_one_goes() {
        let mut room = Room::new(2);
        let guests = [(); 2].map(|()| room.admit().now_or_never().unwrap());
        assert!(!room.is_full());
        guests.iter().for_each(Guest::introduce);
        assert!(room.is_full());
        assert!(room.admit().now_or_never().is_none());
        drop(guests);
        assert!(room.admit().now_or_never().is_some());
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let mut room = Room::new(2);
        for _ in 0..100 {
            drop(room.admit().now_or_never().unwrap());
        }
        assert!(room.strangers.len() <= 2);
    }
}
