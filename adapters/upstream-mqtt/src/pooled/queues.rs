//! What came for devices and is not done: bounded, in order, and no device in another's way.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use gateway_core::DeviceId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::lock::lock;

/// How work of one device goes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Begun in its turn, and then side by side with what came before.
    Alongside,
    /// Begun when those of its kind before it are done.
    InTurn,
}

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// There was no room, and it was waited for.
    Refused,
}

/// Work for a device: told what becomes of it, it gives the work if there is any.
pub(super) type Job = Box<dyn FnOnce(Admission) -> Option<BoxFuture<'static, ()>> + Send>;

/// Takes the work of one device, until there is none.
#[derive(Debug)]
#[must_use = "nothing is done unless it works"]
pub(super) struct Worker {
    queues: Arc<Queues>,
    device: DeviceId,
    news: Arc<Notify>,
    is_done: bool,
}

struct Queue {
    /// Jobs that wait for room.
    waiting: VecDeque<Waiting>,
    /// Jobs that the worker has.
    open: usize,
    /// When the last job was done.
    progress: Instant,
    news: Arc<Notify>,
}

/// A job that waits for room.
struct Waiting {
    since: Instant,
    /// How long it waits while nothing else of its device is done.
    patience: Duration,
    order: Order,
    job: Job,
}

impl Queue {
    fn new(now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            open: 0,
            progress: now,
            news: Arc::default(),
        }
    }
}

/// Says how much is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Jobs of one device that are worked on at a time.
    pub(super) per_device: usize,
    /// Jobs of all devices that wait or are worked on.
    pub(super) most: usize,
}

/// Only devices that have something to do have a queue, and a worker.
pub(super) struct Queues {
    state: Mutex<State>,
    bounds: Bounds,
}

#[derive(Default)]
struct State {
    queues: HashMap<DeviceId, Queue>,
    pending: usize,
}

/// What a worker is to do next.
#[derive(Default)]
struct Next {
    admitted: Vec<(Order, Job)>,
    refused: Vec<Job>,
    /// When the one that waits longest has waited enough.
    look_again: Option<Instant>,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues")
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

impl Queues {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            state: Mutex::default(),
            bounds,
        }
    }

    /// Jobs that are not done.
    pub(super) fn pending(&self) -> usize {
        lock(&self.state).pending
    }

    /// Puts a job behind the others of its device, where it waits for room with `patience` while none of
    /// them is done, or refuses it at once if all devices together have too many. The worker is to be set
    /// to work where there was none.
    pub(super) fn push(
        self: &Arc<Self>,
        device: &DeviceId,
        order: Order,
        patience: Duration,
        job: Job,
    ) -> Option<Worker> {
        let refused = {
            let mut state = lock(&self.state);
            let State { queues, pending } = &mut *state;
            if *pending < self.bounds.most {
                *pending += 1;
                let is_new = !queues.contains_key(device);
                let now = Instant::now();
                let queue = queues.entry(device.clone());
                let queue = queue.or_insert_with(|| Queue::new(now));
                queue.waiting.push_back(Waiting {
                    since: now,
                    patience,
                    order,
                    job,
                });
                queue.news.notify_one();
                return is_new.then(|| Worker {
                    queues: self.clone(),
                    device: device.clone(),
                    news: queue.news.clone(),
                    is_done: false,
                });
            }
            job
        };
        drop(refused(Admission::Refused));
        None
    }

    /// Tells what to do, with so many done since; none if there is nothing left to do.
    fn next(&self, device: &DeviceId, done: usize) -> Option<Next> {
        let mut state = lock(&self.state);
        let State { queues, pending } = &mut *state;
        *pending -= done;
        let queue = queues.get_mut(device)?;
        queue.open -= done;
        let mut next = Next::default();
        let now = Instant::now();
        if done > 0 {
            queue.progress = now;
        }
        while let Some(first) = queue.waiting.front() {
            let has_room = queue.open < self.bounds.per_device;
            let until = queue.progress.max(first.since) + first.patience;
            if !has_room && until > now {
                next.look_again = Some(until);
                break;
            }
            let Some(Waiting { order, job, .. }) = queue.waiting.pop_front() else {
                break;
            };
            match has_room {
                true => {
                    queue.open += 1;
                    next.admitted.push((order, job));
                }
                false => {
                    *pending -= 1;
                    next.refused.push(job);
                }
            }
        }
        if queue.open == 0 {
            queues.remove(device);
            return None;
        }
        Some(next)
    }
}

impl Worker {
    /// Works until there is nothing left to do.
    pub(super) async fn run(mut self) {
        let mut alongside = FuturesUnordered::new();
        let mut in_turn = VecDeque::new();
        let mut done = 0;
        while let Some(next) = self.queues.next(&self.device, std::mem::take(&mut done)) {
            for job in next.refused {
                drop(job(Admission::Refused));
            }
            for (order, job) in next.admitted {
                match (job(Admission::Admitted), order) {
                    (None, _) => done += 1,
                    (Some(job), Order::Alongside) => alongside.push(job),
                    (Some(job), Order::InTurn) => in_turn.push_back(job),
                }
            }
            if done > 0 {
                continue;
            }
            let first = async {
                match in_turn.front_mut() {
                    Some(job) => job.await,
                    None => pending().await,
                }
            };
            let look_again = async {
                match next.look_again {
                    Some(until) => sleep_until(until).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = first => {
                    in_turn.pop_front();
                    done = 1;
                }
                Some(()) = alongside.next() => done = 1,
                () = self.news.notified() => {}
                () = look_again => {}
            }
        }
        self.is_done = true;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.is_done {
            // Whatever ended it, a panic in a callback for instance, the device gets another.
            let mut state = lock(&self.queues.state);
            if let Some(queue) = state.queues.remove(&self.device) {
                state.pending -= queue.open + queue.waiting.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{oneshot, watch};
    use tokio::task::JoinSet;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    /// Pushes jobs that note their number when they begin, negative when they are refused, and end
    /// when told to.
    struct Bench {
        queues: Arc<Queues>,
        workers: JoinSet<()>,
        told: watch::Sender<Vec<i32>>,
    }

    impl Bench {
        fn new(per_device: usize, most: usize) -> Self {
            Self {
                queues: Arc::new(Queues::new(Bounds { per_device, most })),
                workers: JoinSet::new(),
                told: watch::Sender::new(Vec::new()),
            }
        }

        fn push(&mut self, to: &str, number: i32, order: Order) -> oneshot::Sender<()> {
            let (end, ended) = oneshot::channel();
            let told = self.told.clone();
            let job: Job = Box::new(move |admission| match admission {
                Admission::Admitted => Some(Box::pin(async move {
                    told.send_modify(|told| told.push(number));
                    drop(ended.await);
                })),
                Admission::Refused => {
                    told.send_modify(|told| told.push(-number));
                    None
                }
            });
            if let Some(worker) = self.queues.push(&device(to), order, PATIENCE, job) {
                self.workers.spawn(worker.run());
            }
            end
        }

        async fn wait(&self, wanted: &[i32]) {
            let mut told = self.told.subscribe();
            drop(told.wait_for(|told| told == wanted).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_waits_for_room_and_a_flood_is_refused() {
        let mut bench = Bench::new(2, 5);
        let first = bench.push("a", 1, Order::Alongside);
        let second = bench.push("a", 2, Order::Alongside);
        let _third = bench.push("a", 3, Order::Alongside);
        let _fourth = bench.push("a", 4, Order::Alongside);
        let other = bench.push("b", 5, Order::Alongside);
        bench.wait(&[1, 2, 5]).await;
        // Nobody has room any more.
        drop(bench.push("c", 6, Order::Alongside));
        drop(first);
        bench.wait(&[1, 2, 5, -6, 3]).await;
        let begun = Instant::now();
        bench.wait(&[1, 2, 5, -6, 3, -4]).await;
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(900) && waited <= Duration::from_millis(1100));
        drop((second, other));
        drop(bench.push("c", 7, Order::Alongside));
        bench.wait(&[1, 2, 5, -6, 3, -4, 7]).await;
    }

    #[tokio::test]
    async fn what_is_done_leaves_nothing_behind() {
        let mut bench = Bench::new(3, 4);
        for n in 1..=4 {
            drop(bench.push("a", n, Order::Alongside));
        }
        while bench.workers.join_next().await.is_some() {}
        bench.wait(&[1, 2, 3, 4]).await;
        assert_eq!(bench.queues.pending(), 0);
        assert!(lock(&bench.queues.state).queues.is_empty());
    }

    #[tokio::test]
    async fn what_goes_in_turn_waits_for_its_kind_only() {
        let mut bench = Bench::new(8, 8);
        let first = bench.push("a", 1, Order::InTurn);
        let _second = bench.push("a", 2, Order::InTurn);
        let _beside = bench.push("a", 3, Order::Alongside);
        bench.wait(&[1, 3]).await;
        drop(first);
        bench.wait(&[1, 3, 2]).await;
    }

    #[tokio::test]
    async fn a_worker_that_is_lost_leaves_the_device_usable() {
        let mut bench = Bench::new(1, 1);
        let _held = bench.push("a", 1, Order::Alongside);
        bench.wait(&[1]).await;
        bench.workers.abort_all();
        while bench.workers.join_next().await.is_some() {}
        assert_eq!(bench.queues.pending(), 0);
        drop(bench.push("a", 2, Order::Alongside));
        bench.wait(&[1, 2]).await;
    }
}
