//! Which tokens of a connection are renewed, and when. Pure, the time is passed in.
//!
//! A token waits until it is due. From then on it goes by when it lapses: however late the wheel is,
//! the next to lapse is the next to be renewed; only those that failed before leave room for the
//! others. A token that nobody here can renew is only called when it lapses.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// What the pace may catch up at once: timers are about so exact.
const SLACK: Duration = Duration::from_millis(10);

/// A token's place in a wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Tells it from every other.
    pub(crate) serial: u64,
    pub(crate) due: Instant,
    /// None where nobody can renew it: then it lapses when it is due.
    pub(crate) lapses: Option<Instant>,
    /// Whether a renewal has failed before.
    pub(crate) is_again: bool,
}

/// A token to be renewed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) serial: u64,
    pub(crate) lapses: Instant,
    is_again: bool,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<T> {
    /// Renew this one, and call [`Wheel::done`] after that.
    Renew(Due, T),
    /// The token of this serial has lapsed.
    Lapsed(u64, T),
    /// Nothing before then.
    At(Instant),
    /// Nothing before something changes.
    Idle,
}

#[derive(Debug)]
pub(crate) struct Wheel<T> {
    waiting: BTreeMap<(Instant, u64), (Option<Instant>, bool, T)>,
    /// Due, by when they lapse.
    late: BTreeMap<(Instant, u64), T>,
    /// Due once more after a failure, by when they lapse.
    again: BTreeMap<(Instant, u64), T>,
    /// From one renewal to the next.
    gap: Duration,
    not_before: Instant,
    most_in_flight: usize,
    in_flight: usize,
    /// Of those, the ones that failed before.
    again_in_flight: usize,
}

impl<T> Wheel<T> {
    pub(crate) fn new(per_second: f64, most_in_flight: usize, now: Instant) -> Self {
        Self {
            waiting: BTreeMap::new(),
            late: BTreeMap::new(),
            again: BTreeMap::new(),
            gap: Duration::from_secs_f64(per_second.recip()),
            not_before: now,
            most_in_flight,
            in_flight: 0,
            again_in_flight: 0,
        }
    }

    /// Puts a token into the wheel. True if nothing was due before it, so that whoever waits for the
    /// next must look again.
    pub(crate) fn insert(&mut self, entry: Entry, what: T) -> bool {
        let key = (entry.due, entry.serial);
        let is_first = self
            .waiting
            .first_key_value()
            .is_none_or(|(first, _)| key < *first);
        let value = (entry.lapses, entry.is_again, what);
        self.waiting.insert(key, value);
        is_first
    }

    /// Takes a token out, if it is still there.
    pub(crate) fn remove(&mut self, entry: &Entry) {
        if self.waiting.remove(&(entry.due, entry.serial)).is_none()
            && let Some(lapses) = entry.lapses
        {
            self.due(entry.is_again).remove(&(lapses, entry.serial));
        }
    }

    fn due(&mut self, is_again: bool) -> &mut BTreeMap<(Instant, u64), T> {
        match is_again {
            true => &mut self.again,
            false => &mut self.late,
        }
    }

    /// Whether the next to lapse, of those that may be renewed, failed before; none if there is none.
    fn next_to_lapse(&self) -> Option<bool> {
        let late = self.late.first_key_value().map(|(key, _)| (*key, false));
        // Half of the room stays for those that have not failed.
        let has_room = self.again_in_flight < self.most_in_flight / 2;
        let again = self.again.first_key_value().filter(|_| has_room);
        let again = again.map(|(key, _)| (*key, true));
        let first = late.into_iter().chain(again).min()?;
        (self.in_flight < self.most_in_flight).then_some(first.1)
    }

    pub(crate) fn next(&mut self, now: Instant) -> Next<T> {
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= now
        {
            let ((_, serial), (lapses, is_again, what)) = first.remove_entry();
            match lapses {
                Some(lapses) => drop(self.due(is_again).insert((lapses, serial), what)),
                None => return Next::Lapsed(serial, what),
            }
        }
        let due = self.waiting.first_key_value().map(|((due, _), _)| *due);
        let next = self.next_to_lapse();
        let pause = next.map(|_| self.not_before);
        if let Some(is_again) = next
            && self.not_before <= now
            && let Some(((lapses, serial), what)) = self.due(is_again).pop_first()
        {
            self.in_flight += 1;
            self.again_in_flight += usize::from(is_again);
            let earliest = now.checked_sub(SLACK).unwrap_or(now);
            self.not_before = self.not_before.max(earliest) + self.gap;
            let due = Due {
                serial,
                lapses,
                is_again,
            };
            return Next::Renew(due, what);
        }
        match [due, pause].into_iter().flatten().min() {
            Some(at) => Next::At(at),
            None => Next::Idle,
        }
    }

    /// Notes that a renewal came to its end, whichever.
    pub(crate) fn done(&mut self, due: Due) {
        self.in_flight -= 1;
        self.again_in_flight -= usize::from(due.is_again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenConfig;
    use proptest::prelude::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    proptest! {
        /// However late it is called and whatever comes and goes, what it names is due, and nothing
        /// else that is due lapses before it; in the end everything has been named, or taken out.
        #[test]
        fn the_next_to_lapse_goes_first_and_nobody_is_forgotten(
            steps in proptest::collection::vec((0..500u64, 0..400u64, 0..400u64, any::<u8>()), 1..100),
        ) {
            let mut now = Instant::now();
            let mut wheel = Wheel::new(200.0, 1000, now);
            let mut model = Vec::<Entry>::new();
            let take = |model: &mut Vec<Entry>, serial| {
                let at = model.iter().position(|entry| entry.serial == serial);
                model.swap_remove(at.expect("it was put in and not taken out"))
            };
            for (serial, (pause, due, life, what)) in (0..).zip(steps) {
                let lapses = (what % 4 > 0).then(|| now + ms(due + life));
                let is_again = what % 3 == 0;
                let entry = Entry { serial, due: now + ms(due), lapses, is_again };
                wheel.insert(entry, serial);
                model.push(entry);
                if what % 8 == 7 {
                    let at = usize::from(what) % model.len();
                    wheel.remove(&model.swap_remove(at));
                }
                now += ms(pause);
                loop {
                    match wheel.next(now) {
                        Next::Renew(Due { serial, lapses, .. }, what) => {
                            prop_assert_eq!(serial, what);
                            let entry = take(&mut model, serial);
                            prop_assert!(entry.due <= now && entry.lapses == Some(lapses));
                            let late = model.iter().filter(|e| e.due <= now);
                            let earliest = late.filter_map(|e| e.lapses).min();
                            prop_assert!(earliest.is_none_or(|earliest| earliest >= lapses));
                        }
                        Next::Lapsed(serial, _) => {
                            let entry = take(&mut model, serial);
                            prop_assert!(entry.due <= now && entry.lapses.is_none());
                        }
                        Next::At(at) => {
                            prop_assert!(at > now);
                            break;
                        }
                        Next::Idle => break,
                    }
                }
                let lapsed = model.iter().any(|e| e.lapses.is_none() && e.due <= now);
                prop_assert!(!lapsed, "what has lapsed is not paced");
            }
            while !model.is_empty() {
                match wheel.next(now) {
                    Next::Renew(Due { serial, .. }, _) | Next::Lapsed(serial, _) => {
                        take(&mut model, serial);
                    }
                    Next::At(at) => now = at,
                    Next::Idle => prop_assert!(false, "forgotten: {model:?}"),
                }
            }
            prop_assert_eq!(wheel.next(now), Next::Idle);
        }

        /// No stretch of time sees more renewals than its rate and what the clock's step allows, and
        /// no more are in flight than there may be; those that failed take half of that at most.
        #[test]
        fn renewals_are_paced_and_bounded(
            per_second in 1.0..500.0f64,
            most in 2..20usize,
            steps in proptest::collection::vec((0..100u64, 0..30usize), 1..200),
        ) {
            let mut now = Instant::now();
            let mut wheel = Wheel::new(per_second, most, now);
            for serial in 0..2000 {
                // Those that failed lapse first.
                let is_again = serial < 1000;
                let lapses = now + ms(u64::from(!is_again));
                wheel.insert(Entry { serial, due: now, lapses: Some(lapses), is_again }, ());
            }
            let (mut renewed, mut in_flight) = (Vec::new(), Vec::new());
            for (pause, done) in steps {
                now += ms(pause);
                in_flight.drain(..done.min(in_flight.len())).for_each(|due| wheel.done(due));
                while let Next::Renew(due, ()) = wheel.next(now) {
                    in_flight.push(due);
                    renewed.push(now);
                }
                prop_assert!(in_flight.len() <= most);
                prop_assert!(in_flight.iter().filter(|due| due.is_again).count() <= most / 2);
            }
            for (at, first) in renewed.iter().enumerate() {
                for (more, last) in renewed[at..].iter().enumerate() {
                    let allowed = per_second * (*last - *first + SLACK).as_secs_f64() + 1.0 + 1e-6;
                    prop_assert!((more + 1) as f64 <= allowed, "{} in {:?}", more + 1, *last - *first);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// 20,000 devices on 21 connections that came in one second are renewed over minutes, each
        /// with the promised part of its life left, round after round.
        #[test]
        fn devices_that_came_together_are_not_renewed_together(seed in 1..u64::MAX) {
            let config = TokenConfig::default();
            let begun = Instant::now();
            let mut dice = seed;
            let mut random = || {
                // Xorshift: enough for dice.
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                dice as f64 / u64::MAX as f64
            };
            let mut in_second = vec![0; 7200];
            for devices in std::iter::repeat_n(952, 20).chain([960]) {
                let mut wheel = Wheel::new(config.per_second, config.in_flight, begun);
                let mut entry = |serial, put| Entry {
                    serial,
                    due: put + config.renewals().after(config.ttl, random()),
                    lapses: Some(put + config.ttl),
                    is_again: false,
                };
                for serial in 0..devices {
                    wheel.insert(entry(serial, begun + ms(serial)), ());
                }
                let mut now = begun;
                loop {
                    match wheel.next(now) {
                        Next::Renew(due, ()) => {
                            let left = due.lapses - now;
                            prop_assert!(left >= Duration::from_secs(700), "{left:?} left");
                            let Some(count) = in_second.get_mut((now - begun).as_secs() as usize) else {
                                break;
                            };
                            *count += 1;
                            wheel.done(due);
                            wheel.insert(entry(due.serial + devices, now), ());
                        }
                        Next::At(at) => now = at,
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
            }
            let (busiest, renewed) = (in_second.iter().max(), in_second.iter().sum::<u32>());
            prop_assert!(busiest <= Some(&80), "{busiest:?} in one second");
            prop_assert!(renewed >= 40_000, "{renewed} in two hours");
        }
    }
}
