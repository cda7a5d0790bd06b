//! One AMQP session, shared by some devices of a connection.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{Fields, ReceiverSettleMode, SenderSettleMode};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::env::{Env, Event, lock};
use crate::error::{AmqpError, LINK};

/// Links that wait to be opened.
const QUEUE: usize = 64;
/// The client lets go of a link that the hub has refused or detached in a task of its own. A link
/// opened before that takes over its handle and gets its detach, which ends the session, and the
/// connection with it.
const REST: Duration = Duration::from_millis(10);

/// A link to be opened.
#[derive(Debug, Clone)]
pub(crate) struct LinkSpec {
    pub(crate) name: String,
    /// The hub's end.
    pub(crate) address: String,
    pub(crate) settled: bool,
    pub(crate) properties: Fields,
}

enum Job {
    Sender(LinkSpec, oneshot::Sender<Result<Sender, AmqpError>>),
    Receiver(LinkSpec, oneshot::Sender<Result<Receiver, AmqpError>>),
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) serial: u64,
    /// Whether it is for devices that misbehaved.
    pub(crate) is_own: bool,
    jobs: mpsc::Sender<Job>,
    /// Bounds what is in flight: behind a shut session window the client gathers without bound.
    pub(crate) window: Arc<Semaphore>,
    /// Fires when the session is gone; a child of the connection's.
    pub(crate) down: CancellationToken,
    /// Transfers left before the session must be replaced.
    left: AtomicU64,
    rest: Rest,
}

/// When the next link may be opened.
#[derive(Debug, Clone)]
struct Rest(Arc<Mutex<Instant>>);

impl Rest {
    fn begin(&self) {
        *lock(&self.0) = Instant::now() + REST;
    }

    fn end(&self) -> Instant {
        *lock(&self.0)
    }
}

impl Lane {
    /// Serves a session until it ends, then tells the supervisor.
    pub(crate) fn start(
        env: &Arc<Env>,
        session: SessionHandle<()>,
        connection: &CancellationToken,
        is_own: bool,
    ) -> Arc<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let lane = Arc::new(Self {
            serial: env.serial(),
            is_own,
            jobs,
            window: Arc::new(Semaphore::new(env.config.wire.in_flight_per_lane)),
            down: connection.child_token(),
            left: AtomicU64::new(env.config.pool.lane_transfers),
            rest: Rest(Arc::new(Mutex::new(Instant::now()))),
        });
        let (serial, window, down) = (lane.serial, lane.window.clone(), lane.down.clone());
        let rest = lane.rest.clone();
        let env = env.clone();
        env.clone().tasks.spawn(async move {
            serve(session, queue, &down, &rest, env.config.wire.answer_timeout).await;
            down.cancel();
            // Whoever waits for the window holds a device's link, which recovery needs.
            window.close();
            env.tell(Event::LaneLost(serial)).await;
        });
        lane
    }

    /// Counts a transfer. A session that nears the wrap of its transfer numbers is given up in
    /// time: it would stall for good (`next-outgoing-id`, AMQP 1.0 section 2.5.6).
    pub(crate) fn count_transfer(&self) {
        if self.left.fetch_sub(1, Relaxed) == 1 {
            tracing::info!(
                lane = self.serial,
                "Session is used up and will be replaced"
            );
            self.down.cancel();
        }
    }

    /// Notes that a link here was lost by the hub's doing, not by ours.
    pub(crate) fn note_lost_link(&self) {
        self.rest.begin();
    }

    pub(crate) async fn open_sender(&self, spec: LinkSpec) -> Result<Sender, AmqpError> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job::Sender(spec, reply))
            .await
            .map_err(|_| AmqpError::Down)?;
        answer.await.map_err(|_| AmqpError::Down)?
    }

    /// Opens a receiver that keeps up a credit for its device.
    pub(crate) async fn open_receiver(
        &self,
        spec: LinkSpec,
        credit: u32,
    ) -> Result<Receiver, AmqpError> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job::Receiver(spec, reply))
            .await
            .map_err(|_| AmqpError::Down)?;
        let mut receiver = answer.await.map_err(|_| AmqpError::Down)??;
        receiver.set_credit_mode(CreditMode::Auto(credit));
        let given = receiver.set_credit(credit).await;
        given.map_err(|error| AmqpError::Unexpected(error.to_string()))?;
        Ok(receiver)
    }
}

async fn serve(
    mut session: SessionHandle<()>,
    mut queue: mpsc::Receiver<Job>,
    down: &CancellationToken,
    rest: &Rest,
    patience: Duration,
) {
    loop {
        let job = tokio::select! {
            biased;
            () = down.cancelled() => return,
            ended = session.on_end() => {
                tracing::info!(error = ?ended.err(), "Session ended");
                return;
            }
            job = queue.recv() => match job {
                Some(job) => job,
                None => return,
            },
        };
        sleep_until(rest.end()).await;
        // To its end, whoever asked: a cancelled attach ends the session when its answer comes.
        // One that is never answered blocks the session, so the session is given up with it.
        let attached = match job {
            Job::Sender(spec, reply) => answer(
                timeout(patience, attach_sender(&mut session, spec)).await,
                reply,
            ),
            Job::Receiver(spec, reply) => answer(
                timeout(patience, attach_receiver(&mut session, spec)).await,
                reply,
            ),
        };
        match attached {
            Attached::Yes => {}
            Attached::Refused => rest.begin(),
            Attached::Unanswered => {
                tracing::warn!("The hub does not answer an attach; its session is given up");
                return;
            }
        }
    }
}

enum Attached {
    Yes,
    Refused,
    Unanswered,
}

fn answer<T>(
    result: Result<Result<T, AmqpError>, Elapsed>,
    reply: oneshot::Sender<Result<T, AmqpError>>,
) -> Attached {
    let attached = match &result {
        Ok(Ok(_)) => Attached::Yes,
        Ok(Err(_)) => Attached::Refused,
        Err(_) => Attached::Unanswered,
    };
    let result = result.unwrap_or(Err(AmqpError::Unanswered(LINK)));
    // A link that nobody waits for any more closes as it is dropped; it has no credit yet.
    drop(reply.send(result));
    attached
}

async fn attach_sender(
    session: &mut SessionHandle<()>,
    spec: LinkSpec,
) -> Result<Sender, AmqpError> {
    let builder = Sender::builder()
        .name(spec.name)
        .source(spec.address.as_str())
        .target(spec.address.as_str())
        .sender_settle_mode(settle_mode(spec.settled))
        .receiver_settle_mode(ReceiverSettleMode::First)
        .properties(spec.properties);
    Ok(builder.attach(session).await?)
}

async fn attach_receiver(
    session: &mut SessionHandle<()>,
    spec: LinkSpec,
) -> Result<Receiver, AmqpError> {
    let builder = Receiver::builder()
        .name(spec.name)
        .source(spec.address.as_str())
        .target(spec.address.as_str())
        .sender_settle_mode(settle_mode(spec.settled))
        .receiver_settle_mode(ReceiverSettleMode::First)
        .properties(spec.properties)
        // None yet: dropped with transfers on their way, a receiver ends the whole session.
        .credit_mode(CreditMode::Manual);
    Ok(builder.attach(session).await?)
}

fn settle_mode(settled: bool) -> SenderSettleMode {
    if settled {
        SenderSettleMode::Settled
    } else {
        SenderSettleMode::Unsettled
    }
}
