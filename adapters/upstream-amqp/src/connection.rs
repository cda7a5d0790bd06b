//! One AMQP connection: its driver, its token node and its lanes.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use gateway_core::credential::{SasToken, SharedAccessPolicy};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cbs::Cbs;
use crate::client::{Connection as Client, Options};
use crate::env::Env;
use crate::error::AmqpError;
use crate::lane::Lane;
use crate::token;

/// The wait before a policy's token that could not be renewed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// Is open as long as somebody holds it and the hub keeps it.
#[derive(Debug)]
pub(crate) struct Connection {
    env: Arc<Env>,
    client: Client,
    cbs: Arc<Cbs>,
    lanes: Box<[Mutex<Option<Arc<Lane>>>]>,
    next_lane: AtomicUsize,
    /// Lanes of devices that misbehaved, which live as long as these do.
    own_lanes: Mutex<Vec<Weak<Lane>>>,
    /// Whether the policy's token has been put, for the one policy that this connection serves.
    policy: Mutex<bool>,
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
            let client = open_client(env, &down, &close).await?;
            let cbs = Cbs::open(env, client.begin().await?, down.clone()).await?;
            Ok((client, cbs))
        };
        let opened = timeout(env.config.wire.connect_timeout, opened).await;
        let (client, cbs) = opened
            .unwrap_or(Err(AmqpError::Unanswered("the connection")))
            .inspect_err(|_| close.cancel())?;
        tracing::info!(host = env.config.host, "Connected to the hub");
        let lanes = (0..env.config.pool.lanes)
            .map(|_| Mutex::default())
            .collect();
        Ok(Arc::new(Self {
            env: env.clone(),
            client,
            cbs: Arc::new(cbs),
            lanes,
            next_lane: AtomicUsize::new(0),
            own_lanes: Mutex::default(),
            policy: Mutex::new(false),
            down,
            close,
        }))
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

    /// Puts the policy's token unless it has been put, and keeps it fresh from then on.
    pub(crate) async fn put_policy(&self, policy: &SharedAccessPolicy) -> Result<(), AmqpError> {
        let mut put = self.policy.lock().await;
        if *put {
            return Ok(());
        }
        let (host, ttl) = (self.env.config.host.clone(), self.env.config.wire.token_ttl);
        let sign = |policy: &SharedAccessPolicy| {
            let expires = SystemTime::now() + ttl;
            SasToken::sign_with_policy(&host, policy.name(), policy.keys().primary(), expires)
        };
        self.cbs.put(host.clone(), sign(policy)).await?;
        *put = true;
        let (cbs, down, policy, host) = (
            self.cbs.clone(),
            self.down.clone(),
            policy.clone(),
            host.clone(),
        );
        self.env.tasks.spawn(async move {
            let renew = async {
                let mut wait = token::renewal(ttl);
                loop {
                    sleep(wait).await;
                    let expires = SystemTime::now() + ttl;
                    let key = policy.keys().primary();
                    let token = SasToken::sign_with_policy(&host, policy.name(), key, expires);
                    wait = match cbs.put(host.clone(), token).await {
                        Ok(()) => token::renewal(ttl),
                        Err(error) => {
                            tracing::warn!(error = %error, "The policy's token was not renewed");
                            RENEW_AGAIN
                        }
                    };
                }
            };
            tokio::select! {
                () = down.cancelled() => {}
                () = renew => {}
            }
        });
        Ok(())
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
        let session = timeout(self.env.config.wire.answer_timeout, self.client.begin()).await;
        let session = session.map_err(|_| {
            tracing::warn!("The hub does not answer a begin; its connection is given up");
            self.close.cancel();
            AmqpError::Unanswered("a session")
        })??;
        Ok(Lane::start(&self.env, session, &self.down, is_own))
    }
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
