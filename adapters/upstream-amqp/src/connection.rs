//! One AMQP connection: its driver, its token node and its lanes.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use fe2o3_amqp::Connection as Client;
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::{Session, SessionHandle};
use gateway_core::credential::SasToken;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cbs::Cbs;
use crate::env::Env;
use crate::error::AmqpError;
use crate::keeper::Keeper;
use crate::lane::Lane;
use crate::stream::coalesce;

/// What we tell the hub of our limits (AMQP 1.0 section 2.7.1); it has its own, lower or equal.
const MAX_FRAME_SIZE: u32 = 65_536;
const CHANNEL_MAX: u16 = 8191;
/// Frames between the client's own tasks. Its default of 65,535 only hides a stall.
const BUFFERED_FRAMES: usize = 4096;
/// How long an orderly close may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

type SessionReply = oneshot::Sender<Result<SessionHandle<()>, AmqpError>>;

/// Is open as long as somebody holds it and the hub keeps it.
#[derive(Debug)]
pub(crate) struct Connection {
    env: Arc<Env>,
    cbs: Cbs,
    sessions: mpsc::Sender<SessionReply>,
    lanes: Box<[Mutex<Option<Arc<Lane>>>]>,
    next_lane: AtomicUsize,
    /// Lanes of devices that misbehaved, which live as long as these do.
    own_lanes: Mutex<Vec<Weak<Lane>>>,
    keeper: Arc<Keeper>,
    down: CancellationToken,
    close: CancellationToken,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close.cancel();
    }
}

impl Connection {
    pub(crate) async fn open(env: &Arc<Env>) -> Result<Arc<Self>, AmqpError> {
        let (down, close) = (CancellationToken::new(), env.closing.child_token());
        let opened = async {
            let mut handle = open_client(env, &down).await?;
            let session = begin(&mut handle).await?;
            let cbs = Cbs::open(env, session, down.clone()).await?;
            Ok((handle, cbs))
        };
        let (handle, cbs) = match timeout(env.config.wire.connect_timeout, opened).await {
            Ok(Ok(opened)) => opened,
            failed => {
                down.cancel();
                return Err(match failed {
                    Ok(Err(error)) => error,
                    _ => AmqpError::Unanswered("the connection"),
                });
            }
        };
        let (sessions, requests) = mpsc::channel(8);
        let patience = env.config.wire.answer_timeout;
        env.tasks.spawn(drive(
            handle,
            requests,
            down.clone(),
            close.clone(),
            patience,
        ));
        tracing::info!(host = env.config.host, "Connected to the hub");
        let lanes = (0..env.config.pool.lanes)
            .map(|_| Mutex::default())
            .collect();
        let connection = Arc::new(Self {
            env: env.clone(),
            cbs,
            keeper: Keeper::new(env),
            sessions,
            lanes,
            next_lane: AtomicUsize::new(0),
            own_lanes: Mutex::default(),
            down,
            close,
        });
        let keeper = connection.keeper.clone();
        let renewed = keeper.run(Arc::downgrade(&connection), connection.down.clone());
        env.tasks.spawn(renewed);
        Ok(connection)
    }

    pub(crate) fn down(&self) -> &CancellationToken {
        &self.down
    }

    pub(crate) async fn put_token(
        &self,
        audience: String,
        token: SasToken,
    ) -> Result<(), AmqpError> {
        self.cbs.put(audience, token).await
    }

    /// Who renews what was put.
    pub(crate) fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// The next lane in turn, with a session of its own from its first device on.
    pub(crate) async fn lane(&self) -> Result<Arc<Lane>, AmqpError> {
        let turn = self.next_lane.fetch_add(1, Relaxed) % self.lanes.len();
        let mut lane = self.lanes[turn].lock().await;
        if let Some(lane) = lane.as_ref().filter(|lane| !lane.down.is_cancelled()) {
            return Ok(lane.clone());
        }
        let started = self.start_lane(false).await?;
        *lane = Some(started.clone());
        Ok(started)
    }

    /// A lane for a device that has misbehaved: of its own while there is room.
    pub(crate) async fn own_lane(&self) -> Result<Arc<Lane>, AmqpError> {
        let mut lanes = self.own_lanes.lock().await;
        let is_live = |lane: &Arc<Lane>| !lane.down.is_cancelled();
        lanes.retain(|lane| lane.upgrade().is_some_and(|lane| is_live(&lane)));
        if lanes.len() >= self.env.config.breaker.own_lanes {
            let turn = self.next_lane.fetch_add(1, Relaxed) % lanes.len();
            if let Some(lane) = lanes[turn].upgrade() {
                return Ok(lane);
            }
        }
        let lane = self.start_lane(true).await?;
        lanes.push(Arc::downgrade(&lane));
        Ok(lane)
    }

    async fn start_lane(&self, is_own: bool) -> Result<Arc<Lane>, AmqpError> {
        let (reply, session) = oneshot::channel();
        self.sessions
            .send(reply)
            .await
            .map_err(|_| AmqpError::Down)?;
        let session = session.await.map_err(|_| AmqpError::Down)??;
        Ok(Lane::start(&self.env, session, &self.down, is_own))
    }
}

async fn open_client(
    env: &Arc<Env>,
    down: &CancellationToken,
) -> Result<ConnectionHandle<()>, AmqpError> {
    let wire = &env.config.wire;
    let socket = env.transport.connect().await.map_err(AmqpError::Connect)?;
    let (stream, pump) = coalesce(socket, wire.buffer, wire.heartbeat);
    let pump_down = down.clone();
    env.tasks.spawn(async move {
        let ended = tokio::select! {
            ended = pump.run() => ended,
            // The client's last words were written long before this.
            () = async { pump_down.cancelled().await; sleep(CLOSE_PATIENCE).await } => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(error = %error, "Writing to the hub failed");
        }
        pump_down.cancel();
    });
    Client::builder()
        .container_id(env.name("gateway", "connection"))
        .hostname(Some(env.config.host.as_str()))
        .scheme("amqp")
        .sasl_profile(SaslProfile::Anonymous)
        .max_frame_size(MAX_FRAME_SIZE)
        .channel_max(CHANNEL_MAX)
        .idle_time_out(wire.idle_timeout.as_millis() as u32)
        .buffer_size(BUFFERED_FRAMES)
        .open_with_stream(stream)
        .await
        .map_err(AmqpError::Open)
}

async fn begin(handle: &mut ConnectionHandle<()>) -> Result<SessionHandle<()>, AmqpError> {
    Ok(Session::builder()
        .buffer_size(BUFFERED_FRAMES)
        .begin(handle)
        .await?)
}

/// Owns the client's handle until the connection ends, whoever ends it.
async fn drive(
    mut handle: ConnectionHandle<()>,
    mut requests: mpsc::Receiver<SessionReply>,
    down: CancellationToken,
    close: CancellationToken,
    patience: Duration,
) {
    loop {
        tokio::select! {
            biased;
            () = close.cancelled() => {
                if timeout(CLOSE_PATIENCE, handle.close()).await.is_err() {
                    tracing::debug!("The hub did not answer the close");
                }
                break;
            }
            () = down.cancelled() => break,
            closed = handle.on_close() => {
                tracing::warn!(error = ?closed.err(), "Connection to the hub lost");
                break;
            }
            Some(reply) = requests.recv() => match timeout(patience, begin(&mut handle)).await {
                Ok(session) => drop(reply.send(session)),
                Err(_) => {
                    tracing::warn!("The hub does not answer a begin; its connection is given up");
                    break;
                }
            },
        }
    }
    down.cancel();
}
