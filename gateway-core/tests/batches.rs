//! Messages of one device that wait for each other and then go together.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[expect(dead_code, reason = "each test crate uses a part")]
mod support;

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use gateway_core::{
    DEFAULT_RETRY_AFTER, ErrorKind, GatewayConfig, MessageId, Settlement, Upstream,
};
use support::watch::{Seen, Watch};
use support::{Harness, device, no_retries, soon, uplink};
use tokio::task::{AbortHandle, JoinSet, coop};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
const ACCEPTED: Settlement = Settlement::Accepted;
const LATER: Settlement = Settlement::RetryLater(DEFAULT_RETRY_AFTER);

/// A gateway, what its hub is asked, and the messages of one device on their way.
struct Run {
    harness: Harness,
    seen: Seen,
    sends: JoinSet<(usize, Settlement)>,
    count: usize,
}

impl Run {
    fn start(configure: impl FnOnce(&mut GatewayConfig)) -> Self {
        let seen = Seen::default();
        let watch = seen.clone();
        let configure = |config: &mut GatewayConfig| {
            config.max_queued_per_device = 1000;
            configure(config);
        };
        let harness = Harness::build(configure, |hub| Watch { hub, seen: watch }, |b| b);
        Self {
            harness,
            seen,
            sends: JoinSet::new(),
            count: 0,
        }
    }

    /// Sends messages, numbered from 0 on, and waits until each stands in its place.
    async fn send(&mut self, count: usize) -> Vec<AbortHandle> {
        let mut handles = Vec::new();
        for number in self.count..self.count + count {
            let ingress = self.harness.devices.ingress().await;
            let message = uplink(&device("a"), &number.to_string());
            handles.push(self.sends.spawn(async move {
                let settlement = ingress.reserve().await.deliver(message).await;
                (number, settlement)
            }));
        }
        self.count += count;
        sleep(Duration::from_millis(1)).await;
        handles
    }

    /// Lets one message be on its way, and others wait behind it.
    async fn send_behind_one(&mut self, count: usize) -> Vec<AbortHandle> {
        self.harness.hub.hold();
        let mut handles = self.send(1).await;
        soon(self.harness.hub.wait_held(1)).await;
        handles.extend(self.send(count).await);
        handles
    }

    /// The settlements of those that did not give up, by number.
    async fn settled(&mut self) -> Vec<(usize, Settlement)> {
        let mut settled = Vec::new();
        while let Some(ended) = soon(self.sends.join_next()).await {
            settled.extend(ended.ok());
        }
        settled.sort_by_key(|(number, _)| *number);
        settled
    }

    fn accepted(&self) -> Vec<usize> {
        let accepted = self.harness.hub.accepted().into_iter();
        accepted
            .map(|uplink| uplink.id.as_str().parse().unwrap())
            .collect()
    }

    fn sizes(&self) -> Vec<usize> {
        self.seen.sends().iter().map(Vec::len).collect()
    }
}

fn all(
    numbers: impl IntoIterator<Item = usize>,
    settlement: Settlement,
) -> Vec<(usize, Settlement)> {
    numbers.into_iter().map(|n| (n, settlement)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_message_goes_as_one_and_in_order() {
    let mut run = Run::start(|_| {});
    run.send_behind_one(300).await;
    run.harness.hub.release();
    assert_eq!(run.settled().await, all(0..301, ACCEPTED));
    assert_eq!(run.accepted(), (0..301).collect::<Vec<_>>());
    assert_eq!(run.sizes(), [1, 300]);
    assert_eq!(run.harness.gateway.stats().batches, 1);
    assert_eq!(run.harness.gateway.stats().accepted, 301);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_task_has_used_up_its_steps_keeps_its_place() {
    let mut run = Run::start(|_| {});
    run.send_behind_one(0).await;
    let ingress = run.harness.devices.ingress().await;
    let message = |id| uplink(&device("a"), id);
    let mut second = Box::pin(ingress.reserve().await.deliver(message("1")));
    let third = ingress.reserve().await;
    poll_fn(|context| {
        while coop::has_budget_remaining() {
            assert!(pin!(coop::consume_budget()).poll(context).is_ready());
        }
        assert!(second.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    run.harness.hub.release();
    assert_eq!(run.settled().await, all(0..1, ACCEPTED));
    assert_eq!(third.deliver(message("2")).await, ACCEPTED);
    assert_eq!(second.await, ACCEPTED);
    assert_eq!(run.accepted(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_keeps_its_bounds() {
    let mut run = Run::start(|config| config.batches.max_messages = 4);
    run.send_behind_one(10).await;
    run.harness.hub.release();
    assert_eq!(run.settled().await, all(0..11, ACCEPTED));
    assert_eq!(run.sizes(), [1, 4, 4, 2]);

    // A body of one or two bytes, the id again, and what a batch adds: two messages fit.
    let mut run = Run::start(|config| config.batches.max_bytes = 140);
    run.send_behind_one(5).await;
    run.harness.hub.release();
    assert_eq!(run.settled().await, all(0..6, ACCEPTED));
    assert_eq!(run.sizes(), [1, 2, 2, 1]);
    assert_eq!(run.accepted(), (0..6).collect::<Vec<_>>());

    // No message is too large to go alone.
    let mut run = Run::start(|config| config.batches.max_bytes = 1);
    run.send_behind_one(3).await;
    run.harness.hub.release();
    assert_eq!(run.settled().await, all(0..4, ACCEPTED));
    assert_eq!(run.sizes(), [1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn batches_can_be_turned_off() {
    let mut run = Run::start(|config| config.batches.max_messages = 1);
    run.send_behind_one(20).await;
    run.harness.hub.release();
    assert_eq!(run.settled().await, all(0..21, ACCEPTED));
    assert_eq!(run.sizes(), [1; 21]);
}

#[tokio::test(start_paused = true)]
async fn a_poison_message_costs_only_itself() {
    for kind in [
        ErrorKind::Rejected,
        ErrorKind::TooLarge,
        ErrorKind::Unsupported,
    ] {
        let mut run = Run::start(|_| {});
        run.send_behind_one(500).await;
        run.harness.hub.poison(MessageId::new("300").unwrap(), kind);
        run.harness.hub.release();
        let mut expected = all(0..501, ACCEPTED);
        expected[300].1 = Settlement::Rejected(kind);
        assert_eq!(run.settled().await, expected);
        let sent = (0..501).filter(|n| *n != 300);
        assert_eq!(
            run.accepted(),
            sent.collect::<Vec<_>>(),
            "each once, in order"
        );
        let requests = run.sizes().len();
        assert!(requests < 40, "{requests} requests");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_taken_in_parts_is_no_error_of_the_device() {
    let mut run = Run::start(|_| {});
    run.send_behind_one(8).await;
    run.harness.hub.reject_next(ErrorKind::TooLarge);
    run.harness.hub.release();
    assert_eq!(run.settled().await, all(0..9, ACCEPTED));
    assert_eq!(run.sizes(), [1, 8, 4, 4]);
    let explained = run.harness.gateway.explain(&device("a")).unwrap();
    assert_eq!(explained.session.unwrap().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_poison_is_refused_message_by_message() {
    let mut run = Run::start(|_| {});
    run.send_behind_one(100).await;
    for n in 1..=100 {
        let id = MessageId::new(n.to_string()).unwrap();
        run.harness.hub.poison(id, ErrorKind::Rejected);
    }
    run.harness.hub.release();
    let settled = run.settled().await;
    assert_eq!(
        settled[1..],
        all(1..101, Settlement::Rejected(ErrorKind::Rejected))
    );
    assert!(run.sizes().len() < 120, "{} requests", run.sizes().len());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_the_hub_cannot_take_now_is_told_so_to_each() {
    let mut run = Run::start(no_retries);
    run.send_behind_one(5).await;
    run.harness.hub.reject_next(ErrorKind::Disconnected);
    run.harness.hub.release();
    let settled = run.settled().await;
    assert_eq!(settled[0], (0, ACCEPTED));
    assert_eq!(settled[1..], all(1..6, LATER));
    assert_eq!(run.accepted(), [0]);
    let asked = Duration::from_secs(7);
    run.harness.hub.throttle(Some(asked));
    run.send(1).await;
    assert_eq!(run.settled().await, [(6, Settlement::RetryLater(asked))]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_verdict_was_lost_is_sent_again_in_order() {
    let mut run = Run::start(|_| {});
    run.send_behind_one(3).await;
    run.harness.hub.lose_settlements(1);
    run.harness.hub.release();
    soon(run.harness.hub.wait_accepted(4)).await;
    run.harness.hub.cut();
    assert_eq!(run.settled().await, all(0..4, ACCEPTED));
    assert_eq!(run.accepted(), [0, 1, 2, 3, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_device_is_attached_anew_for_its_batch() {
    let mut run = Run::start(|_| {});
    run.send_behind_one(3).await;
    run.harness.hub.detach(&device("a")).await.unwrap();
    run.harness.hub.release();
    assert_eq!(run.settled().await, all(0..4, ACCEPTED));
    assert_eq!(run.harness.hub.attaches(&device("a")), 2);
    assert_eq!(run.accepted(), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_device_is_attached_goes_as_one() {
    let mut run = Run::start(|_| {});
    run.harness.hub.set_latency(SECOND);
    run.send(1).await;
    run.send(4).await;
    assert_eq!(run.settled().await, all(0..5, ACCEPTED));
    assert_eq!(run.sizes(), [1, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_gives_up_while_it_waits_is_not_sent() {
    let mut run = Run::start(|_| {});
    let handles = run.send_behind_one(4).await;
    handles[1].abort();
    handles[3].abort();
    sleep(SECOND).await;
    run.harness.hub.release();
    let settled = run.settled().await;
    assert_eq!(settled, all([0, 2, 4], ACCEPTED));
    assert_eq!(run.accepted(), [0, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_gives_up_on_its_way_takes_nobody_with_it() {
    let mut run = Run::start(|_| {});
    let handles = run.send_behind_one(5).await;
    // The first goes on its way, with it the others: 1 sends for 2 to 5.
    run.harness.hub.release();
    run.harness.hub.hold();
    soon(run.harness.hub.wait_held(5)).await;
    handles[3].abort();
    sleep(SECOND).await;
    assert_eq!(run.sizes(), [1, 5], "the others are still on their way");
    handles[1].abort();
    sleep(SECOND).await;
    // Another sends in the place of the one that sent, without those that gave up.
    assert_eq!(run.seen.sends()[2], ["2", "4", "5"]);
    run.send(1).await;
    run.harness.hub.release();
    assert_eq!(run.settled().await, all([0, 2, 4, 5, 6], ACCEPTED));
    // What the hub had got before may reach it twice, but nothing passes anything else.
    assert_eq!(run.accepted(), [0, 1, 2, 3, 4, 5, 2, 4, 5, 6]);
    assert_eq!(run.seen.faults(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_all_have_left_leaves_nothing_behind() {
    let mut run = Run::start(|_| {});
    for handle in run.send_behind_one(50).await {
        handle.abort();
    }
    assert_eq!(run.settled().await, []);
    let explanation = run.harness.gateway.explain(&device("a")).unwrap();
    assert_eq!(explanation.session.unwrap().queued, 0);
    assert_eq!(run.harness.gateway.stats().in_flight, 0);
    run.harness.hub.release();
    run.send(1).await;
    assert_eq!(run.settled().await, [(51, ACCEPTED)]);
    assert_eq!(run.accepted(), [0, 51]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_give_up_at_any_moment_hang_nobody() {
    const ROUNDS: usize = 300;
    const SENDERS: usize = 16;
    let mut run = Run::start(|config| config.batches.max_messages = 5);
    run.harness.hub.set_latency(Duration::from_millis(1));
    let ingress = run.harness.devices.ingress().await;
    for round in 0..ROUNDS {
        for sender in 0..SENDERS {
            let (ingress, number) = (ingress.clone(), round * SENDERS + sender);
            let message = uplink(&device("a"), &number.to_string());
            // From none to more than it takes, differently in each round.
            let patience = Duration::from_micros((number * 7919 % 12_000) as u64);
            let is_patient = number % 3 == 0;
            run.sends.spawn(async move {
                let deliver = ingress.reserve().await.deliver(message);
                if is_patient {
                    return (number, deliver.await);
                }
                let settled = tokio::time::timeout(patience, deliver).await;
                (number, settled.unwrap_or(LATER))
            });
        }
        tokio::task::yield_now().await;
        if round % 20 == 0 {
            run.harness.hub.cut();
        }
        while run.sends.len() > 3 * SENDERS {
            let (number, settlement) = soon(run.sends.join_next()).await.unwrap().unwrap();
            assert!(
                number % 3 != 0 || settlement == ACCEPTED,
                "{number}: {settlement:?}"
            );
        }
    }
    for (number, settlement) in run.settled().await {
        assert!(
            number % 3 != 0 || settlement == ACCEPTED,
            "{number}: {settlement:?}"
        );
    }
    let accepted: std::collections::HashSet<_> = run.accepted().into_iter().collect();
    assert!(
        (0..ROUNDS * SENDERS)
            .step_by(3)
            .all(|number| accepted.contains(&number))
    );
    assert_eq!(run.seen.faults(), Vec::<String>::new());
    assert_eq!(run.harness.gateway.stats().in_flight, 0);
}
