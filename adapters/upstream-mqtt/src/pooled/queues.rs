//! What came for devices and is not done: bounded, in order, and no device in another's way.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use gateway_core::DeviceId;
use tokio::sync::Notify;

use super::device::lock;

/// Work for a device.
pub(super) enum Job {
    /// Begun in its turn, and then side by side with what came before.
    Alongside(BoxFuture<'static, ()>),
    /// Begun when those of its kind before it are done.
    InTurn(BoxFuture<'static, ()>),
}

/// Takes the work of one device, until there is none.
#[derive(Debug)]
#[must_use = "nothing is done unless it works"]
pub(super) struct Worker {
    queues: Arc<Queues>,
    device: DeviceId,
    news: Arc<Notify>,
    is_done: bool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// Jobs that the worker has.
    open: usize,
    news: Arc<Notify>,
}

/// Only devices that have something to do have a queue, and a worker.
pub(super) struct Queues {
    state: Mutex<State>,
    per_device: usize,
    most: usize,
}

#[derive(Default)]
struct State {
    queues: HashMap<DeviceId, Queue>,
    pending: usize,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues")
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

impl Queues {
    pub(super) fn new(per_device: usize, most: usize) -> Self {
        Self {
            state: Mutex::default(),
            per_device,
            most,
        }
    }

    /// Jobs that are not done.
    pub(super) fn pending(&self) -> usize {
        lock(&self.state).pending
    }

    /// Puts a job behind the others of its device, made only if there is room. The worker is to be
    /// set to work where there was none.
    ///
    /// # Errors
    /// The device, or all together, have too many: what the job would be made of.
    pub(super) fn push<T>(
        self: &Arc<Self>,
        device: &DeviceId,
        of: T,
        job: impl FnOnce(T) -> Job,
    ) -> Result<Option<Worker>, T> {
        let mut state = lock(&self.state);
        let State { queues, pending } = &mut *state;
        let has = queues
            .get(device)
            .map_or(0, |queue| queue.open + queue.waiting.len());
        if *pending >= self.most || has >= self.per_device {
            return Err(of);
        }
        let job = job(of);
        *pending += 1;
        let is_new = !queues.contains_key(device);
        let queue = queues.entry(device.clone()).or_default();
        queue.waiting.push_back(job);
        queue.news.notify_one();
        Ok(is_new.then(|| Worker {
            queues: self.clone(),
            device: device.clone(),
            news: queue.news.clone(),
            is_done: false,
        }))
    }

    /// Takes what is new, with so many done since; none if there is nothing left to do.
    fn take(&self, device: &DeviceId, done: usize) -> Option<VecDeque<Job>> {
        let mut state = lock(&self.state);
        let State { queues, pending } = &mut *state;
        *pending -= done;
        let queue = queues.get_mut(device)?;
        let news = std::mem::take(&mut queue.waiting);
        queue.open = queue.open - done + news.len();
        if queue.open == 0 {
            queues.remove(device);
            return None;
        }
        Some(news)
    }
}

impl Worker {
    /// Works until there is nothing left to do.
    pub(super) async fn run(mut self) {
        let mut alongside = FuturesUnordered::new();
        let mut in_turn = VecDeque::new();
        let mut done = 0;
        while let Some(news) = self.queues.take(&self.device, std::mem::take(&mut done)) {
            for job in news {
                match job {
                    Job::Alongside(job) => alongside.push(job),
                    Job::InTurn(job) => in_turn.push_back(job),
                }
            }
            let next = async {
                match in_turn.front_mut() {
                    Some(job) => job.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = next => {
                    in_turn.pop_front();
                    done = 1;
                }
                Some(()) = alongside.next() => done = 1,
                () = self.news.notified() => {}
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

    fn device(name: &str) -> DeviceId {
        DeviceId::new(name).unwrap()
    }

    /// Pushes jobs that note their number when they begin, and end when told to.
    struct Bench {
        queues: Arc<Queues>,
        workers: JoinSet<()>,
        begun: watch::Sender<Vec<u32>>,
    }

    impl Bench {
        fn new(per_device: usize, most: usize) -> Self {
            Self {
                queues: Arc::new(Queues::new(per_device, most)),
                workers: JoinSet::new(),
                begun: watch::Sender::new(Vec::new()),
            }
        }

        fn push(
            &mut self,
            to: &str,
            number: u32,
            kind: fn(BoxFuture<'static, ()>) -> Job,
        ) -> Option<oneshot::Sender<()>> {
            let (end, ended) = oneshot::channel();
            let begun = self.begun.clone();
            let job = async move {
                begun.send_modify(|begun| begun.push(number));
                drop(ended.await);
            };
            let pushed = self
                .queues
                .push(&device(to), job, |job| kind(Box::pin(job)));
            if let Some(worker) = pushed.ok()? {
                self.workers.spawn(worker.run());
            }
            Some(end)
        }

        async fn wait(&self, wanted: &[u32]) {
            let mut begun = self.begun.subscribe();
            drop(begun.wait_for(|begun| begun == wanted).await);
        }
    }

    #[tokio::test]
    async fn work_begins_in_order_and_a_full_queue_says_so() {
        let mut bench = Bench::new(3, 4);
        let ends: Vec<_> = (0..3)
            .map(|n| bench.push("a", n, Job::Alongside).unwrap())
            .collect();
        bench.wait(&[0, 1, 2]).await;
        assert!(bench.push("a", 3, Job::Alongside).is_none());
        let other = bench.push("b", 4, Job::Alongside).unwrap();
        assert!(bench.push("c", 5, Job::Alongside).is_none());
        bench.wait(&[0, 1, 2, 4]).await;
        drop((ends, other));
        while bench.workers.join_next().await.is_some() {}
        assert_eq!(bench.queues.pending(), 0);
        drop(bench.push("a", 6, Job::Alongside).unwrap());
        bench.wait(&[0, 1, 2, 4, 6]).await;
    }

    #[tokio::test]
    async fn what_goes_in_turn_waits_for_its_kind_only() {
        let mut bench = Bench::new(8, 8);
        let first = bench.push("a", 0, Job::InTurn).unwrap();
        let _second = bench.push("a", 1, Job::InTurn).unwrap();
        let _beside = bench.push("a", 2, Job::Alongside).unwrap();
        bench.wait(&[0, 2]).await;
        drop(first);
        bench.wait(&[0, 2, 1]).await;
    }

    #[tokio::test]
    async fn a_worker_that_is_lost_leaves_the_device_usable() {
        let mut bench = Bench::new(1, 1);
        let _held = bench.push("a", 0, Job::Alongside).unwrap();
        bench.wait(&[0]).await;
        bench.workers.abort_all();
        while bench.workers.join_next().await.is_some() {}
        assert_eq!(bench.queues.pending(), 0);
        drop(bench.push("a", 1, Job::Alongside).unwrap());
        bench.wait(&[0, 1]).await;
    }
}
