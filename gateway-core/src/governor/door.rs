//! The door that every request to the hub goes through: the governor on a clock.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::buckets::{Governor, Operation, Priority, Ticket};
use super::budget::BudgetConfig;
use crate::explain::BudgetWait;
use crate::lock::lock;

/// The clock's step: at thousands a second several pass at once.
const TICK: Duration = Duration::from_millis(1);

/// Tells where a device stands in the queue, for whoever finds that it should go faster.
#[derive(Debug, Default)]
pub struct Turn(AtomicU64);

/// Is what every request to a hub passes: the budget on a clock, one for all devices.
///
/// It admits nobody who waits unless somebody [runs](Self::run) it.
#[derive(Debug)]
pub struct Door {
    state: Mutex<State>,
    /// What passes without a look at the state.
    is_open: [AtomicBool; Operation::ALL.len()],
    wake: Notify,
}

#[derive(Debug)]
struct State {
    governor: Governor,
    /// Dropping the sender is the grant.
    waiting: HashMap<Ticket, (Operation, oneshot::Sender<()>)>,
}

impl Door {
    /// Makes a door with a full budget.
    #[must_use]
    pub fn new(config: &BudgetConfig) -> Self {
        let now = Instant::now();
        let mut governor = Governor::new(config, now);
        let is_open = Operation::ALL.map(|op| AtomicBool::new(governor.is_unlimited(op, now)));
        let waiting = HashMap::new();
        Self {
            state: Mutex::new(State { governor, waiting }),
            is_open,
            wake: Notify::new(),
        }
    }

    /// Waits until the budget allows one more.
    ///
    /// # Cancel safety
    /// Safe: the place in the queue is lost, the budget is not.
    pub async fn pass(&self, operation: Operation, priority: Priority, turn: &Turn) {
        self.pass_together(operation, 1, priority, turn).await;
    }

    /// Waits until the budget allows one more, and takes so many: those who come next wait until it
    /// has made up for them. Who gives up has then spent nothing, whatever it waited for.
    ///
    /// # Cancel safety
    /// Safe: the place in the queue is lost, the budget is not.
    pub async fn pass_together(
        &self,
        operation: Operation,
        count: u32,
        priority: Priority,
        turn: &Turn,
    ) {
        if self.is_open[operation as usize].load(Relaxed) {
            return;
        }
        let (granted, ticket) = {
            let mut state = lock(&self.state);
            let now = Instant::now();
            let Some(ticket) = state.governor.ask(operation, count, priority, now) else {
                let is_open = state.governor.is_unlimited(operation, now);
                self.is_open[operation as usize].store(is_open, Relaxed);
                return;
            };
            let (grant, granted) = oneshot::channel();
            state.waiting.insert(ticket, (operation, grant));
            if state.governor.waiting(operation) == 1 {
                self.wake.notify_one();
            }
            (granted, ticket)
        };
        turn.0.store(ticket, Relaxed);
        let mut place = Waiting {
            door: self,
            operation,
            count,
            ticket: Some(ticket),
            turn,
        };
        granted.await.unwrap_or_default();
        place.ticket = None;
    }

    /// Lets a device that waits go before those that nobody waits for.
    pub fn hurry(&self, turn: &Turn) {
        let ticket = turn.0.load(Relaxed);
        if ticket == 0 {
            return;
        }
        let mut state = lock(&self.state);
        if let Some(operation) = state.waiting.get(&ticket).map(|(operation, _)| *operation) {
            state.governor.hurry(operation, ticket);
        }
    }

    /// Tells what a device waits for, if it does.
    #[must_use]
    pub fn wait_of(&self, turn: &Turn) -> Option<BudgetWait> {
        let ticket = turn.0.load(Relaxed);
        let state = lock(&self.state);
        let (operation, _) = state.waiting.get(&ticket)?;
        let position = state.governor.position(*operation, ticket);
        let waiting = state.governor.waiting(*operation);
        Some(BudgetWait::new(operation.as_str(), position, waiting))
    }

    /// Takes note of a throttle answer of the hub.
    pub fn throttled(&self, operation: Operation) {
        lock(&self.state)
            .governor
            .throttled(operation, Instant::now());
        if self.is_open[operation as usize].swap(false, Relaxed) {
            tracing::warn!(
                ?operation,
                "The hub throttles: going slower for all devices"
            );
        }
    }

    /// How long it takes by the budget until so many devices have had each of these.
    #[must_use]
    pub fn forecast(&self, operations: &[Operation], devices: usize) -> Duration {
        let mut state = lock(&self.state);
        state.governor.forecast(operations, devices, Instant::now())
    }

    /// Counts the requests that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Calls those whose turn it is, for ever. One task and one timer for all who wait, and none for
    /// nobody.
    ///
    /// # Cancel safety
    /// Safe: those who wait do so until it is run again.
    pub async fn run(&self) {
        loop {
            let next = self.admit();
            let woken = self.wake.notified();
            match next {
                Some(due) => tokio::select! {
                    () = sleep_until(due.max(Instant::now() + TICK)) => {}
                    () = woken => {}
                },
                None => woken.await,
            }
        }
    }

    fn admit(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let State { governor, waiting } = &mut *state;
        for operation in Operation::ALL {
            while let Some(ticket) = governor.admit(operation, now) {
                // Whoever has gone meanwhile gives it back.
                waiting.remove(&ticket);
            }
            if governor.is_unlimited(operation, now) {
                self.is_open[operation as usize].store(true, Relaxed);
            }
        }
        governor.due()
    }
}

/// Is a place in the queue.
struct Waiting<'a> {
    door: &'a Door,
    operation: Operation,
    count: u32,
    /// None once it was granted and taken.
    ticket: Option<Ticket>,
    turn: &'a Turn,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.turn.0.store(0, Relaxed);
        if let Some(ticket) = self.ticket {
            let mut state = lock(&self.door.state);
            state.waiting.remove(&ticket);
            state.governor.leave(self.operation, ticket, self.count);
            // What it gives back may be the next one's.
            self.door.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Class, Rate};
    use super::*;
    use std::sync::Arc;
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    const QUIET: Priority = Priority::new(Class::Quiet, 0);

    fn door(per_second: f64) -> (Arc<Door>, JoinSet<()>) {
        let tokens = Rate::Limited {
            per_second,
            burst: 1.0,
        };
        let config = BudgetConfig {
            tokens,
            ..BudgetConfig::default()
        };
        let door = Arc::new(Door::new(&config));
        let mut tasks = JoinSet::new();
        let running = door.clone();
        tasks.spawn(async move { running.run().await });
        (door, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn thousands_pass_at_the_rate_and_no_faster() {
        let (door, _run) = door(100.0);
        let begun = Instant::now();
        let mut waiting = JoinSet::new();
        for _ in 0..2001 {
            let door = door.clone();
            waiting.spawn(async move {
                door.pass(Operation::Token, QUIET, &Turn::default()).await;
            });
        }
        waiting.join_all().await;
        let took = begun.elapsed().as_secs_f64();
        assert!((19.9..20.5).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_costs_the_others_nothing() {
        let (door, _run) = door(1.0);
        door.pass(Operation::Token, QUIET, &Turn::default()).await;
        for _ in 0..50 {
            let turn = Turn::default();
            let pass = door.pass(Operation::Token, QUIET, &turn);
            assert!(timeout(Duration::from_millis(10), pass).await.is_err());
        }
        let begun = Instant::now();
        door.pass(Operation::Token, QUIET, &Turn::default()).await;
        assert!(begun.elapsed() <= Duration::from_millis(600));
        assert_eq!(door.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_together_waits_once_and_those_behind_it_for_all_of_it() {
        let (door, _run) = door(10.0);
        let (begun, turn) = (Instant::now(), Turn::default());
        let seconds = || begun.elapsed().as_secs_f64();
        door.pass(Operation::Token, QUIET, &turn).await;
        door.pass_together(Operation::Token, 50, QUIET, &turn).await;
        assert!((0.1..0.2).contains(&seconds()), "{}", seconds());
        let late = door.pass_together(Operation::Token, 50, QUIET, &turn);
        assert!(timeout(Duration::from_secs(4), late).await.is_err());
        // Who gave up has spent nothing.
        door.pass(Operation::Token, QUIET, &turn).await;
        assert!((5.0..5.2).contains(&seconds()), "{}", seconds());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_hurried_passes_before_those_who_came_first() {
        let (door, _run) = door(1.0);
        door.pass(Operation::Token, QUIET, &Turn::default()).await;
        let turns: Vec<_> = (0..3).map(|_| Turn::default()).collect();
        let order = Mutex::new(Vec::new());
        let pass = async |n: usize| {
            door.pass(Operation::Token, QUIET, &turns[n]).await;
            lock(&order).push(n);
        };
        let hurry = async {
            tokio::task::yield_now().await;
            door.hurry(&turns[2]);
        };
        tokio::join!(pass(0), pass(1), pass(2), hurry);
        assert_eq!(*lock(&order), [2, 0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unlimited_door_is_one_look_until_the_hub_throttles() {
        let door = Door::new(&BudgetConfig::default());
        let turn = Turn::default();
        door.pass(Operation::Send, QUIET, &turn).await;
        door.throttled(Operation::Send);
        let pass = door.pass(Operation::Send, QUIET, &turn);
        assert!(timeout(Duration::from_millis(5), pass).await.is_err());
    }
}
