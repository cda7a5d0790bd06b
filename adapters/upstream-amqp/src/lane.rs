//! One AMQP session, shared by some devices of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::link::{ReceiverAttachError, SenderAttachError};
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{Fields, ReceiverSettleMode, SenderSettleMode};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::env::{Env, Event};
use crate::error::AmqpError;

/// Links that wait to be opened.
const QUEUE: usize = 64;
/// After a refused link the client may meet the end of that one while it opens the next.
const AFTER_REFUSAL: Duration = Duration::from_millis(5);

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
    jobs: mpsc::Sender<Job>,
    /// Bounds what is in flight: behind a shut session window the client gathers without bound.
    pub(crate) window: Arc<Semaphore>,
    /// Fires when the session is gone; a child of the connection's.
    pub(crate) down: CancellationToken,
    /// Transfers left before the session must be replaced.
    left: AtomicU64,
}

impl Lane {
    /// Serves a session until it ends, then tells the supervisor.
    pub(crate) fn start(
        env: &Arc<Env>,
        session: SessionHandle<()>,
        connection: &CancellationToken,
    ) -> Arc<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let lane = Arc::new(Self {
            serial: env.serial(),
            jobs,
            window: Arc::new(Semaphore::new(env.config.wire.in_flight_per_lane)),
            down: connection.child_token(),
            left: AtomicU64::new(env.config.pool.lane_transfers),
        });
        let (serial, window, down) = (lane.serial, lane.window.clone(), lane.down.clone());
        let env = env.clone();
        env.clone().tasks.spawn(async move {
            serve(session, queue, &down, env.config.wire.answer_timeout).await;
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
        // To its end, whoever asked: a cancelled attach ends the session when its answer comes.
        // One that is never answered blocks the session, so the session is given up with it.
        let answered = match job {
            Job::Sender(spec, reply) => {
                let result = timeout(patience, attach_sender(&mut session, &spec)).await;
                answer(result, reply)
            }
            Job::Receiver(spec, reply) => {
                let result = timeout(patience, attach_receiver(&mut session, &spec)).await;
                answer(result, reply)
            }
        };
        if !answered {
            tracing::warn!("The hub does not answer an attach; its session is given up");
            return;
        }
    }
}

fn answer<T>(
    result: Result<Result<T, AmqpError>, tokio::time::error::Elapsed>,
    reply: oneshot::Sender<Result<T, AmqpError>>,
) -> bool {
    let answered = result.is_ok();
    let result = result.unwrap_or(Err(AmqpError::Unanswered("a link")));
    // A link that nobody waits for any more closes as it is dropped; it has no credit yet.
    drop(reply.send(result));
    answered
}

async fn attach_sender(
    session: &mut SessionHandle<()>,
    spec: &LinkSpec,
) -> Result<Sender, AmqpError> {
    let attach = async |session: &mut SessionHandle<()>, name: String| {
        Sender::builder()
            .name(name)
            .source(spec.address.as_str())
            .target(spec.address.as_str())
            .sender_settle_mode(settle_mode(spec.settled))
            .receiver_settle_mode(ReceiverSettleMode::First)
            .properties(spec.properties.clone())
            .attach(session)
            .await
    };
    match attach(session, spec.name.clone()).await {
        Err(SenderAttachError::IllegalState) => {
            sleep(AFTER_REFUSAL).await;
            Ok(attach(session, format!("{}-again", spec.name)).await?)
        }
        result => Ok(result?),
    }
}

async fn attach_receiver(
    session: &mut SessionHandle<()>,
    spec: &LinkSpec,
) -> Result<Receiver, AmqpError> {
    let attach = async |session: &mut SessionHandle<()>, name: String| {
        Receiver::builder()
            .name(name)
            .source(spec.address.as_str())
            .target(spec.address.as_str())
            .sender_settle_mode(settle_mode(spec.settled))
            .receiver_settle_mode(ReceiverSettleMode::First)
            .properties(spec.properties.clone())
            // None yet: dropped with transfers on their way, a receiver ends the whole session.
            .credit_mode(CreditMode::Manual)
            .attach(session)
            .await
    };
    match attach(session, spec.name.clone()).await {
        Err(ReceiverAttachError::IllegalState) => {
            sleep(AFTER_REFUSAL).await;
            Ok(attach(session, format!("{}-again", spec.name)).await?)
        }
        result => Ok(result?),
    }
}

fn settle_mode(settled: bool) -> SenderSettleMode {
    if settled {
        SenderSettleMode::Settled
    } else {
        SenderSettleMode::Unsettled
    }
}
