//! One AMQP connection: its driver, its token node and its lanes.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use gateway_core::credential::SasToken;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::cbs::Cbs;
use crate::client::{ClientError, Connection as Client, Options};
use crate::env::Env;
use crate::error::AmqpError;
use crate::keeper::Keeper;
use crate::lane::Lane;

/// Is open as long as somebody holds it and the hub keeps it.
#[derive(Debug)]
pub(crate) struct Connection {
    number: u64,
    env: Arc<Env>,
    client: Client,
    cbs: Cbs,
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
    /// Connects to the hub and opens its token node.
    ///
    /// Cancel safe: what was opened is closed.
    pub(crate) async fn open(env: &Arc<Env>) -> Result<Arc<Self>, AmqpError> {
        let (down, close) = (CancellationToken::new(), env.closing.child_token());
        let unless_opened = close.clone().drop_guard();
        let opened = async {
            let client = open_client(env, &down, &close).await?;
            let cbs = async { Cbs::open(env, client.begin().await?, down.clone()).await };
            let cbs = cbs.await.map_err(refused)?;
            Ok((client, cbs))
        };
        let opened = timeout(env.config.wire.connect_timeout, opened).await;
        let (client, cbs) = opened.unwrap_or(Err(AmqpError::Unanswered("the connection")))?;
        let number = env.connection_number();
        tracing::info!(host = env.config.host, number, "Connected to the hub");
        let lanes = (0..env.config.pool.lanes)
            .map(|_| Mutex::default())
            .collect();
        let connection = Arc::new(Self {
            number,
            env: env.clone(),
            client,
            cbs,
            keeper: Keeper::new(env),
            lanes,
            next_lane: AtomicUsize::new(0),
            own_lanes: Mutex::default(),
            down,
            close: unless_opened.disarm(),
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
        if lanes.len() >= self.env.config.pool.own_lanes {
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
        let give_up = |error| {
            tracing::warn!("The hub does not answer a begin; its connection is given up");
            self.close.cancel();
            error
        };
        if self.client.is_worn_out() {
            // Whoever asked did not wait for as long as this would.
            return Err(give_up(AmqpError::Down));
        }
        let session = timeout(self.env.config.wire.answer_timeout, self.client.begin()).await;
        let session = session.map_err(|_| give_up(AmqpError::Unanswered("a session")))?;
        let session = session.map_err(refused)?;
        Ok(Lane::start(
            &self.env,
            session,
            (self.number, &self.down),
            is_own,
        ))
    }
}

/// What the hub says to the first words on a connection or a session blames none of its devices.
fn refused(error: ClientError) -> AmqpError {
    AmqpError::Open(error.into())
}

/// Connects, and has the connection driven until it is lost or to be closed.
async fn open_client(
    env: &Arc<Env>,
    down: &CancellationToken,
    close: &CancellationToken,
) -> Result<Client, AmqpError> {
    let wire = &env.config.wire;
    let socket = env.transport.connect().await.map_err(AmqpError::Connect)?;
    let options = Options {
        container: env.name("gateway", "connection"),
        host: env.config.host.clone(),
        idle_timeout: wire.idle_timeout,
        heartbeat: wire.heartbeat,
        buffer: wire.buffer,
    };
    let opened = Client::open(socket, options).await;
    let (client, driver) = opened.map_err(AmqpError::Open)?;
    let (down, close) = (down.clone(), close.clone());
    env.tasks.spawn(async move {
        let error = driver.run(close.clone()).await;
        if !close.is_cancelled() {
            tracing::warn!(error = %error, "Connection to the hub lost");
        }
        down.cancel();
    });
    Ok(client)
}
