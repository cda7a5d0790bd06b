//! One AMQP session, shared by some devices of a connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::client::{ClientError, LinkId, LinkSpec, Receiver, Sender, Session, SessionEvent};
use crate::device::Device;
use crate::env::{Env, Event, lock};
use crate::error::{AmqpError, LINK};

/// Devices by their telemetry links.
type Owners = Mutex<HashMap<LinkId, Weak<Device>>>;

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) number: u64,
    /// The number of its connection.
    pub(crate) connection: u64,
    /// Whether it is for devices that misbehaved.
    pub(crate) is_own: bool,
    env: Arc<Env>,
    session: Session,
    owners: Arc<Owners>,
    /// Fires when the session is gone; a child of the connection's.
    pub(crate) down: CancellationToken,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.down.cancel();
    }
}

/// Keeps a device among those that are told when the hub detaches their telemetry link.
#[derive(Debug)]
pub(crate) struct Watch {
    owners: Arc<Owners>,
    link: LinkId,
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.owners).remove(&self.link);
    }
}

impl Lane {
    /// Serves a session until it ends, then tells the supervisor.
    pub(crate) fn start(
        env: &Arc<Env>,
        session: Session,
        (connection, down): (u64, &CancellationToken),
        is_own: bool,
    ) -> Arc<Self> {
        let lane = Arc::new(Self {
            number: env.lane_number(),
            connection,
            is_own,
            env: env.clone(),
            session: session.clone(),
            owners: Arc::default(),
            down: down.child_token(),
        });
        let (number, down) = (lane.number, lane.down.clone());
        let (env, owners) = (env.clone(), lane.owners.clone());
        env.clone().tasks.spawn(async move {
            let reason = tokio::select! {
                () = down.cancelled() => None,
                error = serve(&env, &session, &owners) => Some(error),
            };
            if let Some(error) = reason.filter(|_| !down.is_cancelled()) {
                tracing::info!(lane = number, error = %error, "Session ended");
            }
            down.cancel();
            // A device that is not among them yet sees that the lane is down.
            let lost: Vec<_> = lock(&owners).values().filter_map(Weak::upgrade).collect();
            if !lost.is_empty() {
                env.tell(Event::LaneLost(number, lost)).await;
            }
        });
        lane
    }

    /// Opens a sender. One that is not answered in time is detached once it is.
    ///
    /// Cancel safe, in the same way.
    pub(crate) async fn open_sender(&self, spec: LinkSpec) -> Result<Sender, AmqpError> {
        self.opened(self.session.attach_sender(spec)).await
    }

    /// Opens a receiver that keeps up a credit for its device.
    ///
    /// Cancel safe, as [`open_sender`](Self::open_sender).
    pub(crate) async fn open_receiver(
        &self,
        spec: LinkSpec,
        credit: u32,
    ) -> Result<Receiver, AmqpError> {
        self.opened(self.session.attach_receiver(spec, credit))
            .await
    }

    async fn opened<T>(
        &self,
        attach: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, AmqpError> {
        if self.session.is_worn_out() {
            let lane = self.number;
            tracing::warn!(
                lane,
                "The hub leaves links unanswered; their session is given up"
            );
            self.down.cancel();
            return Err(AmqpError::Down);
        }
        match timeout(self.env.config.wire.answer_timeout, attach).await {
            Ok(link) => Ok(link?),
            Err(_) => Err(AmqpError::Unanswered(LINK)),
        }
    }

    /// Messages that may be sent on a link of this lane now.
    pub(crate) fn credit(&self, link: LinkId) -> u32 {
        self.session.credit(link)
    }

    /// Has a device told when the hub detaches its telemetry link, until the watch is dropped.
    ///
    /// A link that was detached before is not reported: look at it afterwards.
    pub(crate) fn watch(&self, link: LinkId, device: &Arc<Device>) -> Watch {
        lock(&self.owners).insert(link, Arc::downgrade(device));
        Watch {
            owners: self.owners.clone(),
            link,
        }
    }
}

async fn serve(env: &Env, session: &Session, owners: &Owners) -> AmqpError {
    loop {
        match session.event().await {
            SessionEvent::Ended(error) => return error.into(),
            SessionEvent::Detached(link) => {
                let owner = lock(owners).get(&link).and_then(Weak::upgrade);
                if let Some(device) = owner {
                    env.tell(Event::LinkDetached(device, link)).await;
                }
            }
        }
    }
}
