//! Who may ask the hub for what, and when: one budget for all devices. Pure, the time is passed in.
//!
//! Each kind of operation has a token bucket. What finds it empty queues by priority; every eighth
//! that passes is the one that waits longest, so that nobody waits for ever. A throttle answer
//! halves the bucket's rate (multiplicative decrease), and time restores it (additive increase), as
//! TCP shares a line that does not tell its width.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::budget::{BudgetConfig, Rate};

/// Says what the hub is asked for; each has a rate of its own in the [`BudgetConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A connection.
    Connect,
    /// A token put on a connection.
    Token,
    /// A telemetry link.
    Link,
    /// Links or subscriptions for messages, methods or the twin.
    CommandLink,
    /// A message.
    Send,
    /// A twin request.
    Twin,
}

impl Operation {
    pub(super) const ALL: [Self; 6] = [
        Self::Connect,
        Self::Token,
        Self::Link,
        Self::CommandLink,
        Self::Send,
        Self::Twin,
    ];

    /// What is waited for, in lower-case words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connection",
            Self::Token => "token",
            Self::Link => "telemetry link",
            Self::CommandLink => "command link",
            Self::Send => "message",
            Self::Twin => "twin request",
        }
    }
}

/// Says who goes first, the classes in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Keeps a device that is up from being cut off, such as the renewal of a token.
    Standing,
    /// Somebody waits for it.
    Wanted,
    /// Nobody waits for it.
    Quiet,
}

/// Is a wish's rank in the queue: by class, then the most recently active device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    class: Class,
    active: Reverse<u64>,
}

impl Priority {
    /// Ranks a wish of a device that was last active at `active`, by any count that grows.
    #[must_use]
    pub const fn new(class: Class, active: u64) -> Self {
        Self {
            class,
            active: Reverse(active),
        }
    }
}

/// Names whoever waits. Never 0.
pub(super) type Ticket = u64;

/// Every so many that pass, the one that waits longest does.
const OLDEST_EVERY: u32 = 8;
/// What a throttle answer leaves of a rate.
const SHRINK: f64 = 0.5;
/// What a rate never falls below, and grows by in a second, as a part of its full value.
const STEP: f64 = 0.05;
/// Throttle answers so close to each other are one: they answer what was sent before the first.
const SAME_ANSWER: Duration = Duration::from_secs(1);
/// What may pass at once while a rate is reduced, in seconds of it.
const REDUCED_BURST: f64 = 0.1;
/// An unlimited rate is unlimited again when it has grown to so many times its full value.
const LIFTED_AT: f64 = 20.0;

/// A rate that shrinks and recovers.
#[derive(Debug)]
struct Pace {
    full: Rate,
    /// The full value where `full` has none.
    throttled: f64,
    /// The rate now; none if unlimited.
    rate: Option<f64>,
    level: f64,
    at: Instant,
    shrunk_at: Option<Instant>,
}

impl Pace {
    fn new(full: Rate, throttled: f64, now: Instant) -> Self {
        let (rate, level) = match full {
            Rate::Unlimited => (None, 0.0),
            Rate::Limited { per_second, burst } => (Some(per_second), burst.max(1.0)),
        };
        Self {
            full,
            throttled,
            rate,
            level,
            at: now,
            shrunk_at: None,
        }
    }

    fn base(&self) -> f64 {
        match self.full {
            Rate::Unlimited => self.throttled,
            Rate::Limited { per_second, .. } => per_second,
        }
    }

    /// Lets the rate recover and the bucket fill up to now.
    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let Some(rate) = self.rate else { return };
        let most = match self.full {
            Rate::Unlimited => self.base() * LIFTED_AT,
            Rate::Limited { per_second, .. } => per_second,
        };
        let grown = (rate + self.base() * STEP * passed).min(most);
        let burst = match self.full {
            Rate::Unlimited if grown >= most => {
                self.rate = None;
                return;
            }
            Rate::Limited { burst, .. } if grown >= most => burst,
            Rate::Limited { burst, .. } => burst.min(grown * REDUCED_BURST),
            Rate::Unlimited => grown * REDUCED_BURST,
        };
        self.rate = Some(grown);
        self.level = (self.level + (rate + grown) / 2.0 * passed).min(burst.max(1.0));
    }

    fn may_pass(&self) -> bool {
        self.rate.is_none() || self.level >= 1.0
    }

    /// Takes what several cost together from one turn, on credit if need be: the next waits longer.
    fn take(&mut self, count: u32) {
        if self.rate.is_some() {
            self.level -= f64::from(count);
        }
    }

    fn give_back(&mut self, count: u32) {
        // At most what was taken: the next `advance` bounds it by the burst.
        self.level += f64::from(count);
    }

    fn shrink(&mut self, now: Instant) {
        self.advance(now);
        let is_same = |at| now.saturating_duration_since(at) < SAME_ANSWER;
        if self.shrunk_at.is_some_and(is_same) {
            return;
        }
        self.shrunk_at = Some(now);
        let rate = self.rate.map_or(self.base(), |rate| rate * SHRINK);
        self.rate = Some(rate.max(self.base() * STEP));
        self.level = self.level.min(0.0);
    }

    /// How long `count` more would take.
    fn forecast(&self, count: usize) -> Duration {
        let left = (count as f64 - self.level).max(0.0);
        self.rate.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64((left / rate).min(1e6))
        })
    }
}

/// What somebody waits for: several at once, and how soon.
#[derive(Debug, Clone, Copy)]
struct Wish {
    count: u32,
    priority: Priority,
}

#[derive(Debug)]
struct Bucket {
    pace: Pace,
    by_priority: BTreeSet<(Priority, Ticket)>,
    by_age: BTreeMap<Ticket, Wish>,
    passed: u32,
}

impl Bucket {
    fn insert(&mut self, ticket: Ticket, wish: Wish) {
        self.by_priority.insert((wish.priority, ticket));
        self.by_age.insert(ticket, wish);
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Wish> {
        let wish = self.by_age.remove(&ticket)?;
        self.by_priority.remove(&(wish.priority, ticket));
        Some(wish)
    }

    /// Lets the next one pass that waits.
    fn next(&mut self) -> Option<Ticket> {
        let ticket = match self.passed % OLDEST_EVERY {
            0 => *self.by_age.first_key_value()?.0,
            _ => self.by_priority.first()?.1,
        };
        self.passed = self.passed.wrapping_add(1);
        let wish = self.remove(ticket)?;
        self.pace.take(wish.count);
        Some(ticket)
    }
}

/// The budget of one hub.
#[derive(Debug)]
pub(super) struct Governor {
    buckets: [Bucket; 6],
    tickets: Ticket,
}

impl Governor {
    pub(super) fn new(config: &BudgetConfig, now: Instant) -> Self {
        let bucket = |operation| {
            let rate = match operation {
                Operation::Connect => config.connects,
                Operation::Token => config.tokens,
                Operation::Link => config.links,
                Operation::CommandLink => config.command_links,
                Operation::Send => config.sends,
                Operation::Twin => config.twins,
            };
            Bucket {
                pace: Pace::new(rate, config.throttled, now),
                by_priority: BTreeSet::new(),
                by_age: BTreeMap::new(),
                // The first goes by priority.
                passed: 1,
            }
        };
        Self {
            buckets: Operation::ALL.map(bucket),
            tickets: 0,
        }
    }

    fn bucket(&mut self, operation: Operation) -> &mut Bucket {
        &mut self.buckets[operation as usize]
    }

    /// Asks to pass so many times together: at once, or with the ticket that it will be called by.
    pub(super) fn ask(
        &mut self,
        operation: Operation,
        count: u32,
        priority: Priority,
        now: Instant,
    ) -> Option<Ticket> {
        let bucket = &mut self.buckets[operation as usize];
        bucket.pace.advance(now);
        if bucket.by_age.is_empty() && bucket.pace.may_pass() {
            bucket.pace.take(count);
            return None;
        }
        self.tickets += 1;
        bucket.insert(self.tickets, Wish { count, priority });
        Some(self.tickets)
    }

    /// Takes back a wish for so many. One that was granted and not used is given to the next.
    pub(super) fn leave(&mut self, operation: Operation, ticket: Ticket, count: u32) {
        let bucket = self.bucket(operation);
        if bucket.remove(ticket).is_none() {
            bucket.pace.give_back(count);
        }
    }

    /// Notes that somebody waits for it now.
    pub(super) fn hurry(&mut self, operation: Operation, ticket: Ticket) {
        let bucket = self.bucket(operation);
        if let Some(mut wish) = bucket.remove(ticket) {
            wish.priority.class = wish.priority.class.min(Class::Wanted);
            bucket.insert(ticket, wish);
        }
    }

    /// Names one who may pass now.
    pub(super) fn admit(&mut self, operation: Operation, now: Instant) -> Option<Ticket> {
        let bucket = self.bucket(operation);
        bucket.pace.advance(now);
        bucket.pace.may_pass().then(|| bucket.next()).flatten()
    }

    /// When the next may pass; none if nobody waits.
    pub(super) fn due(&self) -> Option<Instant> {
        let waiting = self.buckets.iter().filter(|b| !b.by_age.is_empty());
        let due = waiting.map(|bucket| bucket.pace.at + bucket.pace.forecast(1));
        due.min()
    }

    /// Takes note of a throttle answer.
    pub(super) fn throttled(&mut self, operation: Operation, now: Instant) {
        self.bucket(operation).pace.shrink(now);
    }

    pub(super) fn is_unlimited(&mut self, operation: Operation, now: Instant) -> bool {
        let bucket = self.bucket(operation);
        bucket.pace.advance(now);
        bucket.pace.rate.is_none() && bucket.by_age.is_empty()
    }

    pub(super) fn waiting(&self, operation: Operation) -> usize {
        self.buckets[operation as usize].by_age.len()
    }

    /// The place of one among those that wait for the same, from 1, by priority.
    pub(super) fn position(&self, operation: Operation, ticket: Ticket) -> Option<usize> {
        let bucket = &self.buckets[operation as usize];
        let priority = bucket.by_age.get(&ticket)?.priority;
        Some(bucket.by_priority.range(..=(priority, ticket)).count())
    }

    /// How long it takes until so many have had each of these.
    pub(super) fn forecast(
        &mut self,
        operations: &[Operation],
        devices: usize,
        now: Instant,
    ) -> Duration {
        let mut longest = Duration::ZERO;
        for operation in operations {
            let bucket = self.bucket(*operation);
            bucket.pace.advance(now);
            longest = longest.max(bucket.pace.forecast(devices.max(bucket.by_age.len())));
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUIET: Priority = Priority::new(Class::Quiet, 0);

    fn governor(rate: Rate, now: Instant) -> Governor {
        let config = BudgetConfig {
            tokens: rate,
            ..BudgetConfig::default()
        };
        Governor::new(&config, now)
    }

    fn limited(per_second: f64, burst: f64) -> Rate {
        Rate::Limited { per_second, burst }
    }

    /// Lets a second pass and counts who passes in it.
    fn second(governor: &mut Governor, now: &mut Instant) -> usize {
        let mut count = 0;
        for _ in 0..100 {
            *now += Duration::from_millis(10);
            while governor.admit(Operation::Token, *now).is_some() {
                count += 1;
            }
        }
        count
    }

    proptest! {
        /// Whatever is asked, taken back and throttled, no stretch of time sees more than its rate
        /// and the burst, but for what its last takes together.
        #[test]
        fn nobody_gets_more_than_the_rate_and_the_burst(
            steps in proptest::collection::vec((0..40u64, 0..20u32, 1..9u32, 0..30u8), 1..200),
            per_second in 1.0..200.0f64,
            burst in 1.0..50.0f64,
        ) {
            let mut now = Instant::now();
            let mut governor = governor(limited(per_second, burst), now);
            let (mut passed, mut waiting) = (Vec::new(), BTreeMap::new());
            for (pause, asks, count, what) in steps {
                now += Duration::from_millis(pause);
                for _ in 0..asks {
                    match governor.ask(Operation::Token, count, QUIET, now) {
                        None => passed.push((now, count)),
                        Some(ticket) => drop(waiting.insert(ticket, count)),
                    }
                }
                match what {
                    0 => governor.throttled(Operation::Token, now),
                    1 => while let Some((ticket, count)) = waiting.pop_first() {
                        governor.leave(Operation::Token, ticket, count);
                    },
                    _ => {}
                }
                while let Some(ticket) = governor.admit(Operation::Token, now) {
                    passed.push((now, waiting.remove(&ticket).expect("it waits")));
                }
            }
            for (at, (first, _)) in passed.iter().enumerate() {
                let mut before = 0;
                for (last, count) in &passed[at..] {
                    let allowed = per_second * (*last - *first).as_secs_f64() + burst + 1e-6;
                    // One turn is enough for all that go together.
                    prop_assert!(f64::from(before + 1) <= allowed.max(1.0), "{before} in {:?}", *last - *first);
                    before += count;
                }
            }
        }

        /// Whoever waits passes before eight times those who were there have passed, whatever comes
        /// after.
        #[test]
        fn nobody_waits_for_ever_behind_better_ones(there in 1..50usize, comers in 1..4usize) {
            let mut now = Instant::now();
            let mut governor = governor(limited(1000.0, 1.0), now);
            let _ = governor.ask(Operation::Token, 1, QUIET, now);
            for n in 1..there {
                let _ = governor.ask(Operation::Token, 1, Priority::new(Class::Wanted, n as u64), now);
            }
            let last = governor.ask(Operation::Token, 1, QUIET, now);
            for passed in 0.. {
                prop_assert!(passed <= 8 * there, "{passed} before it");
                for _ in 0..comers {
                    let _ = governor.ask(Operation::Token, 1, Priority::new(Class::Standing, 0), now);
                }
                now += Duration::from_millis(1);
                if governor.admit(Operation::Token, now) == last {
                    break;
                }
            }
        }

        /// `due` is not too late, and whoever is called at that time finds somebody who may pass.
        #[test]
        fn the_next_is_due_when_the_governor_says(per_second in 0.5..500.0f64, shrinks in 0..3u32) {
            let mut now = Instant::now();
            let mut governor = governor(limited(per_second, 1.0), now);
            for _ in 0..shrinks {
                now += Duration::from_secs(2);
                governor.throttled(Operation::Token, now);
            }
            while governor.ask(Operation::Token, 1, QUIET, now).is_none() {}
            let due = governor.due().expect("somebody waits");
            let due = due + Duration::from_micros(1);
            prop_assert!(governor.admit(Operation::Token, due).is_some());
        }
    }

    #[test]
    fn devices_with_work_go_first_then_the_most_recently_active() {
        let now = Instant::now();
        let mut governor = governor(limited(1.0, 1.0), now);
        assert_eq!(governor.ask(Operation::Token, 1, QUIET, now), None);
        let mut ask = |class, active| {
            let ticket = governor.ask(Operation::Token, 1, Priority::new(class, active), now);
            ticket.expect("the budget is used up")
        };
        let (quiet, recent) = (ask(Class::Quiet, 3), ask(Class::Quiet, 9));
        let (wanted, standing) = (ask(Class::Wanted, 1), ask(Class::Standing, 0));
        let hurried = ask(Class::Quiet, 2);
        governor.hurry(Operation::Token, hurried);
        let mut order = Vec::new();
        for n in 1..=5 {
            order.extend(governor.admit(Operation::Token, now + Duration::from_secs(n)));
        }
        assert_eq!(order, [standing, hurried, wanted, recent, quiet]);
    }

    #[test]
    fn a_throttle_answer_halves_the_rate_for_all_and_time_restores_it() {
        let mut now = Instant::now();
        let mut governor = governor(limited(100.0, 100.0), now);
        for _ in 0..10_000 {
            let _ = governor.ask(Operation::Token, 1, QUIET, now);
        }
        assert_eq!(second(&mut governor, &mut now), 100);
        governor.throttled(Operation::Token, now);
        // Another answer to what was sent before.
        governor.throttled(Operation::Token, now);
        let reduced = second(&mut governor, &mut now);
        assert!((45..=55).contains(&reduced), "{reduced}");
        for _ in 0..10 {
            second(&mut governor, &mut now);
        }
        assert!((98..=101).contains(&second(&mut governor, &mut now)));
    }

    #[test]
    fn what_is_unlimited_gets_a_rate_from_a_refusal_on_until_it_is_past() {
        let mut now = Instant::now();
        let mut governor = governor(Rate::Unlimited, now);
        for _ in 0..100_000 {
            assert_eq!(governor.ask(Operation::Token, 1, QUIET, now), None);
        }
        governor.throttled(Operation::Token, now);
        for _ in 0..1000 {
            assert!(governor.ask(Operation::Token, 1, QUIET, now).is_some());
        }
        assert_eq!(
            governor.forecast(&[Operation::Token], 1000, now),
            Duration::from_secs(10)
        );
        let passed = second(&mut governor, &mut now);
        assert!((95..=110).contains(&passed), "{passed}");
        now += Duration::from_secs(600);
        while governor.admit(Operation::Token, now).is_some() {}
        assert!(governor.is_unlimited(Operation::Token, now));
    }
}
