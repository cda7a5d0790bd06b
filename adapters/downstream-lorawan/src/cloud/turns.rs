//! Keeps the messages of each device in their order, while those of others go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::event::DevEui;

/// What has an order: a device's messages to the hub, and apart from them what is told of its
/// downlinks, which does not wait for the hub.
pub(super) type Lane = (DevEui, bool);

/// Ends when the one before has; gives the one before that, if that has not.
#[derive(Debug)]
struct Before(oneshot::Receiver<Option<Before>>);

/// Gives out turns. Holds the last one of each lane, as long as it is not over.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Lanes>>);

#[derive(Debug, Default)]
struct Lanes {
    last: HashMap<Lane, (u64, Before)>,
    given: u64,
}

/// Is a place in a lane; it is over when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    lane: Lane,
    number: u64,
    before: Option<Before>,
    over: Option<oneshot::Sender<Option<Before>>>,
}

impl Turns {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Whole between statements, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the next turn in a lane.
    pub(super) fn next(&self, lane: Lane) -> Turn {
        let (over, is_over) = oneshot::channel();
        let mut lanes = self.lanes();
        lanes.given += 1;
        let number = lanes.given;
        let last = lanes.last.insert(lane, (number, Before(is_over)));
        Turn {
            turns: self.clone(),
            lane,
            number,
            before: last.map(|(_, before)| before),
            over: Some(over),
        }
    }
}

impl Turn {
    /// Waits until all turns before this one are over.
    ///
    /// # Cancel safety
    /// Safe; whoever comes after waits for those before then.
    pub(super) async fn wait(&mut self) {
        while let Some(Before(is_over)) = &mut self.before {
            self.before = is_over.await.ok().flatten();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lanes = self.turns.lanes();
        let is_last = lanes.last.get(&self.lane).map(|last| last.0) == Some(self.number);
        match self.before.take() {
            // It gave up: whoever is next waits for those before it.
            Some(before) if is_last => drop(lanes.last.insert(self.lane, (self.number, before))),
            None if is_last => drop(lanes.last.remove(&self.lane)),
            before => {
                if let Some(over) = self.over.take() {
                    drop(over.send(before));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const LANE: Lane = (DevEui::new([1; 8]), true);

    #[test]
    fn a_turn_waits_for_all_before_it_even_if_one_of_them_gave_up() {
        let turns = Turns::default();
        let mut first = turns.next(LANE);
        let second = turns.next(LANE);
        let mut third = turns.next(LANE);
        assert!(first.wait().now_or_never().is_some());
        drop(second);
        assert!(third.wait().now_or_never().is_none());
        drop(first);
        assert!(third.wait().now_or_never().is_some());
    }

    #[test]
    fn the_last_to_give_up_leaves_its_place_to_the_next() {
        let turns = Turns::default();
        let first = turns.next(LANE);
        drop(turns.next(LANE));
        let mut third = turns.next(LANE);
        assert!(third.wait().now_or_never().is_none());
        drop(first);
        assert!(third.wait().now_or_never().is_some());
    }

    #[test]
    fn lanes_do_not_wait_for_each_other_and_leave_nothing() {
        let turns = Turns::default();
        let first = turns.next(LANE);
        let mut other = turns.next((DevEui::new([1; 8]), false));
        assert!(other.wait().now_or_never().is_some());
        drop((first, other));
        assert!(turns.lanes().last.is_empty());
    }
}
