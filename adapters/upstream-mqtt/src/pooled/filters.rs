//! What one connection is to hear, and what the broker has granted of it.

use std::collections::HashMap;
use std::mem;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::lock::lock;

/// Filters in one packet: Mosquitto and AWS IoT aside, brokers take thousands; AWS IoT takes 8 but
/// answers more with a refusal, upon which fewer are asked for.
const BATCH: usize = 200;
/// The wait before filters that the broker refused are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Filter {
    /// How many devices want it.
    wanted: usize,
    is_granted: bool,
    /// Whether the session at the broker may have it: it lasts longer than a connection.
    may_be_kept: bool,
    /// Why the broker does not give it.
    refusal: Option<String>,
}

/// Is what is to be told to the broker next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    filters: HashMap<String, Filter>,
    /// Filters to look at.
    changed: Vec<String>,
    /// When those that the broker refused are asked for again.
    again: Option<Instant>,
}

/// The filters of one connection.
#[derive(Debug, Default)]
pub(super) struct Filters {
    state: Mutex<State>,
    /// Told when there is something to do.
    work: Notify,
    granted: Notify,
}

impl Filters {
    /// Wants a filter once more.
    pub(super) fn want(&self, filter: String) {
        let mut state = lock(&self.state);
        let entry = state.filters.entry(filter.clone()).or_default();
        entry.wanted += 1;
        if entry.wanted == 1 || entry.refusal.is_some() {
            state.changed.push(filter);
            self.work.notify_one();
        }
    }

    /// Wants a filter once less.
    pub(super) fn unwant(&self, filter: &str) {
        let mut state = lock(&self.state);
        let Some(entry) = state.filters.get_mut(filter) else {
            return;
        };
        entry.wanted = entry.wanted.saturating_sub(1);
        if entry.wanted == 0 {
            state.changed.push(filter.to_owned());
            self.work.notify_one();
        }
    }

    /// Gives one back that an earlier session has left at the broker, unless somebody wants it.
    pub(super) fn leave(&self, filter: String) {
        let mut state = lock(&self.state);
        let entry = state.filters.entry(filter.clone()).or_default();
        if entry.wanted == 0 && !entry.may_be_kept {
            entry.may_be_kept = true;
            state.changed.push(filter);
            self.work.notify_one();
        }
    }

    /// Looks at all anew: the connection is another, and its session perhaps that of the last one.
    pub(super) fn reset(&self, is_kept: bool) {
        let mut state = lock(&self.state);
        for filter in state.filters.values_mut() {
            (filter.is_granted, filter.refusal) = (false, None);
            filter.may_be_kept &= is_kept;
        }
        let is_of_use = |filter: &Filter| filter.wanted > 0 || filter.may_be_kept;
        state.filters.retain(|_, filter| is_of_use(filter));
        state.changed = state.filters.keys().cloned().collect();
        state.again = None;
    }

    /// Takes the next that the broker is to be told.
    pub(super) fn take(&self) -> Option<Work> {
        let mut state = lock(&self.state);
        let mut work = Work::default();
        while work.subscribe.len().max(work.unsubscribe.len()) < BATCH {
            let Some(name) = state.changed.pop() else {
                break;
            };
            let Some(filter) = state.filters.get_mut(&name) else {
                continue;
            };
            let list = match (filter.wanted > 0, filter.is_granted) {
                (true, false) => {
                    filter.may_be_kept = true;
                    &mut work.subscribe
                }
                (true, true) => continue,
                (false, _) if filter.may_be_kept => &mut work.unsubscribe,
                (false, _) => {
                    state.filters.remove(&name);
                    continue;
                }
            };
            // What changed twice is looked at once.
            if !list.contains(&name) {
                list.push(name);
            }
        }
        (work != Work::default()).then_some(work)
    }

    /// Notes that the broker gives these. One that nobody wants any more by now is given back.
    pub(super) fn grant(&self, names: &[String]) {
        let mut state = lock(&self.state);
        for name in names {
            if let Some(filter) = state.filters.get_mut(name) {
                (filter.is_granted, filter.refusal) = (true, None);
                if filter.wanted == 0 {
                    state.changed.push(name.clone());
                    self.work.notify_one();
                }
            }
        }
        self.granted.notify_waiters();
    }

    /// Notes that the broker does not give one.
    pub(super) fn refuse(&self, name: &str, reason: String) {
        let mut state = lock(&self.state);
        if let Some(filter) = state.filters.get_mut(name) {
            (filter.refusal, filter.may_be_kept) = (Some(reason), false);
            let again = Instant::now() + ASK_AGAIN;
            state.again.get_or_insert(again);
        }
        drop(state);
        self.granted.notify_waiters();
    }

    /// Notes that these are gone. One that somebody wants again by now is asked for again.
    pub(super) fn end(&self, names: &[String]) {
        let mut state = lock(&self.state);
        for name in names {
            if let Some(filter) = state.filters.get_mut(name) {
                (filter.is_granted, filter.may_be_kept) = (false, false);
                state.changed.push(name.clone());
                self.work.notify_one();
            }
        }
    }

    /// Waits until there may be something to do. What was refused is due again after its time, however
    /// much else changes meanwhile.
    ///
    /// Cancel safe.
    pub(super) async fn wait(&self) {
        let again = lock(&self.state).again;
        let due = async {
            match again {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => self.retry(),
            () = self.work.notified() => {}
        }
    }

    /// Asks again for what was refused.
    fn retry(&self) {
        let mut state = lock(&self.state);
        let State {
            filters,
            changed,
            again,
        } = &mut *state;
        let refused = filters
            .iter()
            .filter(|(_, filter)| filter.refusal.is_some());
        changed.extend(refused.map(|(name, _)| name.clone()));
        *again = None;
    }

    /// Whether the broker gives it; its refusal, if it said so.
    pub(super) fn standing(&self, name: &str) -> (bool, Option<String>) {
        let state = lock(&self.state);
        let filter = state.filters.get(name);
        filter.map_or((false, None), |filter| {
            (filter.is_granted, filter.refusal.clone())
        })
    }

    /// Waits until the broker gives it, or does not.
    ///
    /// # Errors
    /// The broker's refusal.
    ///
    /// Cancel safe.
    pub(super) async fn granted(&self, name: &str) -> Result<(), String> {
        loop {
            // Made before the look, so that what happens in between is not missed.
            let changed = self.granted.notified();
            match self.standing(name) {
                (true, _) => return Ok(()),
                (false, Some(refusal)) => return Err(refusal),
                (false, None) => changed.await,
            }
        }
    }

    /// Forgets what is granted: the connection is gone.
    pub(super) fn lose(&self) {
        for filter in lock(&self.state).filters.values_mut() {
            filter.is_granted = false;
        }
    }

    /// How many the broker gives.
    pub(super) fn count(&self) -> usize {
        let state = lock(&self.state);
        state.filters.values().filter(|f| f.is_granted).count()
    }
}

/// Halves of a list that the broker refused as a whole.
pub(super) fn halves(mut names: Vec<String>) -> (Vec<String>, Vec<String>) {
    let second = names.split_off(names.len() / 2);
    (mem::take(&mut names), second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use tokio::time::sleep;

    fn work(subscribe: &[&str], unsubscribe: &[&str]) -> Option<Work> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Some(Work {
            subscribe: owned(subscribe),
            unsubscribe: owned(unsubscribe),
        })
    }

    #[test]
    fn a_filter_is_told_once_however_many_want_it() {
        let filters = Filters::default();
        filters.want("a".to_owned());
        filters.want("a".to_owned());
        assert_eq!(filters.take(), work(&["a"], &[]));
        filters.grant(&["a".to_owned()]);
        filters.unwant("a");
        assert_eq!(filters.take(), None);
        filters.unwant("a");
        assert_eq!(filters.take(), work(&[], &["a"]));
        filters.end(&["a".to_owned()]);
        assert_eq!((filters.take(), filters.count()), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_asked_for_again_however_much_else_changes() {
        let filters = Filters::default();
        let begun = Instant::now();
        filters.want("a".to_owned());
        filters.take();
        filters.refuse("a", "no".to_owned());
        assert_eq!(filters.take(), None);
        assert_eq!(filters.standing("a"), (false, Some("no".to_owned())));
        let asked = async {
            loop {
                filters.wait().await;
                let work = filters.take().unwrap_or_default();
                if work.subscribe.contains(&"a".to_owned()) {
                    break;
                }
                filters.grant(&work.subscribe);
            }
        };
        let others = async {
            for other in 0..10 {
                sleep(ASK_AGAIN / 3).await;
                filters.want(other.to_string());
            }
        };
        tokio::select! {
            () = asked => {}
            () = others => {}
        }
        assert_eq!(begun.elapsed(), ASK_AGAIN);
    }

    proptest! {
        /// Whatever is wanted, granted and lost in whatever order, in the end the broker gives what
        /// is wanted, and nothing else.
        #[test]
        fn the_broker_ends_up_giving_what_is_wanted(
            steps in prop::collection::vec((0..8_u8, 0..4_u8), 0..200),
        ) {
            let filters = Filters::default();
            let mut wanted = BTreeMap::<String, usize>::new();
            let mut broker = BTreeSet::<String>::new();
            let mut open: Option<Work> = None;
            let settle = |open: &mut Option<Work>, broker: &mut BTreeSet<String>| {
                if let Some(work) = open.take() {
                    broker.extend(work.subscribe.iter().cloned());
                    broker.retain(|name| !work.unsubscribe.contains(name));
                    filters.grant(&work.subscribe);
                    filters.end(&work.unsubscribe);
                }
            };
            for (step, name) in steps {
                let name = name.to_string();
                match step {
                    0 | 1 => {
                        *wanted.entry(name.clone()).or_default() += 1;
                        filters.want(name);
                    }
                    2 => {
                        if let Some(count) = wanted.get_mut(&name).filter(|count| **count > 0) {
                            *count -= 1;
                            filters.unwant(&name);
                        }
                    }
                    3 => {
                        if open.is_none() {
                            open = filters.take();
                        }
                    }
                    4 => settle(&mut open, &mut broker),
                    // Lost, with the session or without, before the broker has read what it was
                    // told last, or behind that.
                    5 => {
                        (open, broker) = (None, BTreeSet::new());
                        filters.lose();
                        filters.reset(false);
                    }
                    6 => {
                        open = None;
                        filters.lose();
                        filters.reset(true);
                    }
                    _ => {
                        let told = open.take().unwrap_or_default();
                        broker.extend(told.subscribe);
                        broker.retain(|name| !told.unsubscribe.contains(name));
                        filters.lose();
                        filters.reset(true);
                    }
                }
            }
            settle(&mut open, &mut broker);
            while let Some(work) = filters.take() {
                open = Some(work);
                settle(&mut open, &mut broker);
            }
            let wanted = wanted.into_iter().filter(|(_, count)| *count > 0);
            prop_assert_eq!(broker, wanted.map(|(name, _)| name).collect::<BTreeSet<_>>());
        }
    }
}
