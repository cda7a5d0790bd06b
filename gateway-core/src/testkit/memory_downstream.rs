use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::downstream::{Downstream, ServeContext};
use crate::error::{DownstreamError, ErrorKind, UpstreamError};
use crate::id::{DeviceId, MessageId};
use crate::ingress::{Announcement, Ingress, Presence};
use crate::message::{
    Delivered, Downlink, MethodReply, Settlement, TwinReply, TwinRequest, Uplink,
};

/// Commands that wait for a device's [`MemoryDevice::next`].
const QUEUE: usize = 64;
/// How long a device may take to answer what has no deadline of its own.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Is a downstream in memory, whose devices are handles. Cheap to clone: all clones are one.
#[derive(Debug, Clone, Default)]
pub struct MemoryDownstream(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ingress: watch::Sender<Option<Ingress>>,
    connections: Mutex<HashMap<DeviceId, Connection>>,
    connected: AtomicU64,
    in_flight: TaskTracker,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    commands: mpsc::Sender<Command>,
    ended: CancellationToken,
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, HashMap<DeviceId, Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryDownstream {
    /// Makes a downstream without devices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The door inward, once the gateway runs: this waits for it.
    pub async fn ingress(&self) -> Ingress {
        let mut served = self.0.ingress.subscribe();
        let ingress = served.wait_for(Option::is_some).await;
        let ingress = ingress.ok().and_then(|ingress| ingress.clone());
        ingress.expect("`self` keeps the sender, and the door is there")
    }

    /// Makes a device that only speaks: it is not announced, and no command reaches it.
    pub async fn device(&self, device: DeviceId) -> MemoryDevice {
        self.open(device).await
    }

    /// Connects a device that hears commands. An older connection of the same device ends.
    ///
    /// # Errors
    /// The hub refuses the device; see [`Ingress::online`].
    pub async fn connect(&self, device: DeviceId) -> Result<MemoryDevice, UpstreamError> {
        self.connect_as(Announcement::new(device)).await
    }

    /// Connects a device with an interest and a token of its choice.
    ///
    /// # Errors
    /// The hub refuses the device; see [`Ingress::online`].
    pub async fn connect_as(
        &self,
        announcement: Announcement,
    ) -> Result<MemoryDevice, UpstreamError> {
        let mut device = self.open(announcement.device.clone()).await;
        device.presence = Some(device.ingress.online(announcement).await?);
        let (commands, queue) = mpsc::channel(QUEUE);
        device.commands = queue.into();
        let connection = Connection {
            number: device.number,
            commands,
            ended: device.ended.clone(),
        };
        let older = self.0.connections().insert(device.id.clone(), connection);
        if let Some(older) = older {
            older.ended.cancel();
        }
        Ok(device)
    }

    async fn open(&self, id: DeviceId) -> MemoryDevice {
        let ingress = self.ingress().await;
        MemoryDevice {
            id,
            number: self.0.connected.fetch_add(1, Relaxed),
            ingress,
            downstream: self.0.clone(),
            commands: mpsc::channel(1).1.into(),
            presence: None,
            ended: CancellationToken::new(),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Downstream for MemoryDownstream {
    async fn serve(&self, context: ServeContext) -> Result<(), DownstreamError> {
        self.0.ingress.send_replace(Some(context.ingress));
        context.shutdown.cancelled().await;
        self.0.in_flight.close();
        self.0.in_flight.wait().await;
        for (_, connection) in self.0.connections().drain() {
            connection.ended.cancel();
        }
        Ok(())
    }

    async fn send(&self, downlink: Downlink) -> Result<Delivered, DownstreamError> {
        let deadline = match &downlink {
            Downlink::Message(message) => message.deadline,
            Downlink::Method(call) => call.deadline,
            _ => Instant::now() + ANSWER_TIME,
        };
        let fail = |kind| Err(DownstreamError::new(kind, "send"));
        let connection = {
            let connections = self.0.connections();
            let connection = connections.get(downlink.device());
            connection.map(|connection| (connection.commands.clone(), connection.ended.clone()))
        };
        let Some((commands, ended)) = connection else {
            return fail(ErrorKind::UnknownDevice);
        };
        if let Downlink::End(_) = downlink {
            ended.cancel();
            return Ok(Delivered::Sent);
        }
        let (answer, answered) = oneshot::channel();
        let command = Command {
            downlink,
            answer,
            ingress: self.ingress().await,
        };
        let delivery = async {
            if commands.send(command).await.is_err() {
                return fail(ErrorKind::UnknownDevice);
            }
            // A command dropped unanswered is a connection lost.
            answered.await.unwrap_or(fail(ErrorKind::Disconnected))
        };
        tokio::select! {
            () = ended.cancelled() => fail(ErrorKind::Disconnected),
            delivered = timeout_at(deadline, delivery) => {
                delivered.unwrap_or(fail(ErrorKind::TimedOut))
            }
        }
    }
}

/// Is a device of a [`MemoryDownstream`]. Dropped, it is disconnected.
#[derive(Debug)]
pub struct MemoryDevice {
    id: DeviceId,
    number: u64,
    ingress: Ingress,
    downstream: Arc<Shared>,
    commands: tokio::sync::Mutex<mpsc::Receiver<Command>>,
    presence: Option<Presence>,
    ended: CancellationToken,
}

impl MemoryDevice {
    /// The device's name.
    #[must_use]
    pub fn id(&self) -> &DeviceId {
        &self.id
    }

    /// Sends a message with a new id and waits for what became of it.
    pub async fn send(&self, body: impl Into<Bytes>) -> Settlement {
        let uplink = Uplink::new(self.id.clone(), MessageId::random(), body);
        self.send_uplink(uplink).await
    }

    /// Sends a message and waits for what became of it.
    ///
    /// # Cancel safety
    /// Safe; the hub may or may not have the message.
    pub async fn send_uplink(&self, uplink: Uplink) -> Settlement {
        let _in_flight = self.downstream.in_flight.token();
        self.ingress.reserve().await.deliver(uplink).await
    }

    /// Asks the hub about the device's twin.
    ///
    /// # Errors
    /// As [`Ingress::twin`].
    ///
    /// # Cancel safety
    /// Safe; a patch may or may not have been applied.
    pub async fn twin(&self, request: TwinRequest) -> Result<TwinReply, UpstreamError> {
        self.ingress.twin(&self.id, request).await
    }

    /// Waits for the next command; none if a newer connection or the gateway ended this one.
    ///
    /// # Cancel safety
    /// Safe; no command is lost.
    pub async fn next(&self) -> Option<Command> {
        let mut commands = self.commands.lock().await;
        tokio::select! {
            biased;
            () = self.ended.cancelled() => None,
            command = commands.recv() => command,
        }
    }

    /// Waits until a newer connection, the hub or the gateway has ended this one.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for MemoryDevice {
    fn drop(&mut self) {
        let mut connections = self.downstream.connections();
        let current = connections
            .get(&self.id)
            .map(|connection| connection.number);
        if current == Some(self.number) {
            connections.remove(&self.id);
        }
        self.ended.cancel();
    }
}

/// Is a command that a device was given. Dropped unanswered, it counts as `Disconnected`.
#[derive(Debug)]
#[must_use = "the hub waits for the answer"]
pub struct Command {
    downlink: Downlink,
    answer: oneshot::Sender<Result<Delivered, DownstreamError>>,
    ingress: Ingress,
}

impl Command {
    /// What was sent.
    #[must_use]
    pub fn downlink(&self) -> &Downlink {
        &self.downlink
    }

    /// Confirms that the device has it.
    pub fn acknowledge(self) {
        self.settle(Ok(Delivered::Acknowledged));
    }

    /// Answers a method.
    pub fn reply(self, reply: MethodReply) {
        self.settle(Ok(Delivered::Answered(reply)));
    }

    /// Refuses it with this kind: `Rejected` for good.
    pub fn refuse(self, kind: ErrorKind) {
        self.settle(Err(DownstreamError::new(kind, "device")));
    }

    fn settle(self, outcome: Result<Delivered, DownstreamError>) {
        // Whoever waited may have given up at the deadline.
        if let Err(Ok(Delivered::Answered(_))) = self.answer.send(outcome) {
            self.ingress.note_late_answer(self.downlink.device());
        }
    }
}
