//! One connection of a device, and what the hub sent on it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, Weak};

use gateway_core::credential::SasToken;
use gateway_core::governor::Operation;
use gateway_core::{Credential, DeviceIdentity, Interest};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::device::Device;
use super::env::Env;
use super::error::HubError;
use super::login::{Life, user_name};
use super::topic::{self, Heard};
use crate::client::{Client, Inbox, Incoming, Limits, Options, Publish, Version};
use crate::error::MqttError;
use crate::lock::lock;

/// Messages that wait on one connection, and methods that wait for a device. The hub has 50 messages
/// at most for one.
const WAITING: usize = 64;
/// Messages that the hub may send without an acknowledgement of ours, far beyond what it does.
const RECEIVED: u16 = 1024;
/// Messages of ours that may wait for their turn: some batches.
const QUEUED: usize = 10_000;

/// Is open as long as somebody holds it and the hub keeps it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u64,
    /// What the hub let the device in with.
    pub(super) credential: Credential,
    pub(super) client: Client,
    pub(super) post: Arc<Post>,
    pub(super) life: Life,
    pub(super) opened: Instant,
    /// Who has something in flight: what replaces this connection waits for them.
    pub(super) work: TaskTracker,
    /// What the hub was asked to tell of.
    subscribed: Mutex<Interest>,
    /// Whether the hub was asked for answers about the twin.
    twin: OnceCell<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.client.abort();
    }
}

impl Line {
    /// Opens a connection, up to the hub's CONNACK.
    ///
    /// Cancel safe: what was being opened is closed.
    pub(super) async fn open(
        env: &Arc<Env>,
        device: &Arc<Device>,
        identity: &DeviceIdentity,
        token: &SasToken,
        life: Life,
    ) -> Result<Arc<Self>, HubError> {
        let post = Arc::new(Post {
            env: Arc::downgrade(env),
            device: Arc::downgrade(device),
            messages: Waiting::default(),
        });
        let options = options(env, identity, token);
        let begun = Instant::now();
        let client = match Client::connect(&options, post.clone(), &env.tasks).await {
            Ok(client) => client,
            Err(error) => return Err(note_failure(env, begun, error)),
        };
        env.reach.reached();
        let number = env.line_number();
        tracing::info!(device.id = %device.id, number, "Connected to the hub");
        Ok(Arc::new(Self {
            number,
            credential: identity.credential.clone(),
            client,
            post,
            life,
            opened: Instant::now(),
            work: TaskTracker::new(),
            subscribed: Mutex::default(),
            twin: OnceCell::new(),
        }))
    }

    /// Publishes in this order. Ok if the hub has acknowledged all.
    pub(super) async fn publish(&self, mut publishes: Vec<Publish>) -> Result<(), HubError> {
        match (publishes.pop(), publishes.is_empty()) {
            (Some(one), true) => self.client.publish(one).await?,
            (Some(last), false) => {
                publishes.push(last);
                self.client.publish_all(publishes).await?;
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// Why it ended.
    pub(super) fn reason(&self) -> HubError {
        match self.client.reason().as_deref() {
            Some(MqttError::Left) => HubError::Dropped,
            _ => HubError::Down,
        }
    }

    /// Asks for answers about the twin, once.
    pub(super) async fn hear_answers(&self) -> Result<(), HubError> {
        let filters = [topic::TWIN.to_owned()];
        let subscribe = || async { self.client.subscribe(&filters).await };
        self.twin.get_or_try_init(subscribe).await?;
        Ok(())
    }

    /// What the hub was asked to tell of.
    pub(super) fn subscribed(&self) -> Interest {
        *lock(&self.subscribed)
    }

    pub(super) fn set_subscribed(&self, interest: Interest) {
        *lock(&self.subscribed) = interest;
    }
}

fn options(env: &Env, identity: &DeviceIdentity, token: &SasToken) -> Options {
    let (config, wire) = (&env.config, &env.config.wire);
    Options {
        host: config.name().to_owned(),
        address: config.address.clone(),
        port: config.port(),
        transport: env.transport.clone(),
        version: Version::V4,
        client_id: identity.device.as_str().to_owned(),
        user_name: Some(user_name(&config.host, identity)),
        password: Some(token.secret_text().to_owned()),
        // The hub keeps the device's messages and subscriptions between its connections.
        clean_start: false,
        session_expiry: None,
        keep_alive: wire.keep_alive,
        will: None,
        ordered_acks: true,
        limits: Limits {
            connect_timeout: wire.connect_timeout,
            answer_timeout: wire.answer_timeout,
            in_flight: wire.in_flight,
            max_packet: wire.max_packet,
            buffer: wire.buffer,
            receive: RECEIVED,
            queued: QUEUED,
        },
    }
}

/// Takes note of what a failed try says about the hub.
fn note_failure(env: &Env, begun: Instant, error: MqttError) -> HubError {
    let error = HubError::from(error);
    if error.is_throttle() {
        env.door.throttled(Operation::Connect);
    }
    match error.is_unreachable() {
        true => {
            let wait = env.reach.failed(begun);
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(error = %error, source, ?wait, "Cannot reach the hub");
        }
        false => env.reach.reached(),
    }
    error
}

/// Something with the time at which it came.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) at: Instant,
    pub(super) incoming: Incoming,
}

/// Is where commands of one kind wait for the device's task, so many at most.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<VecDeque<Arrived>>);

impl Waiting {
    /// Takes out the next.
    pub(super) fn next(&self) -> Option<Arrived> {
        lock(&self.0).pop_front()
    }

    /// False if there is no room.
    fn push(&self, incoming: Incoming) -> bool {
        let mut waiting = lock(&self.0);
        let has_room = waiting.len() < WAITING;
        if has_room {
            let at = Instant::now();
            waiting.push_back(Arrived { at, incoming });
        }
        has_room
    }
}

/// Sorts what the hub sends on one connection.
#[derive(Debug)]
pub(super) struct Post {
    env: Weak<Env>,
    device: Weak<Device>,
    /// The hub takes the word on a message from the connection that it came on.
    pub(super) messages: Waiting,
}

impl Post {
    fn push(&self, device: &Device, incoming: Incoming, waiting: &Waiting) {
        if waiting.push(incoming) {
            return device.changed.notify_one();
        }
        tracing::warn!(device.id = %device.id, "Command dropped: too many wait");
        if let Some(env) = self.env.upgrade() {
            env.counters.dropped.fetch_add(1, Relaxed);
        }
    }
}

impl Inbox for Post {
    fn on_publish(&self, incoming: Incoming) {
        let Some(device) = self.device.upgrade() else {
            return;
        };
        if incoming.is_cut {
            tracing::warn!(device.id = %device.id, "A packet larger than `wire.max_packet` dropped");
            if let Some(env) = self.env.upgrade() {
                env.counters.dropped.fetch_add(1, Relaxed);
            }
            return incoming.receipt.acknowledge();
        }
        match topic::read(&incoming.topic) {
            // Acknowledged when it is settled.
            Some(Heard::Message { .. }) => self.push(&device, incoming, &self.messages),
            Some(Heard::Method { .. }) => self.push(&device, incoming, &device.methods),
            Some(Heard::Twin {
                status,
                request,
                version,
            }) => {
                let Incoming {
                    payload, receipt, ..
                } = incoming;
                receipt.acknowledge();
                device.asks.answered(request, status, version, payload);
            }
            Some(Heard::Desired { version }) => {
                let Incoming {
                    payload, receipt, ..
                } = incoming;
                receipt.acknowledge();
                device.desired.told(version, payload);
                device.changed.notify_one();
            }
            None => {
                tracing::warn!(device.id = %device.id, topic = incoming.topic, "Unknown topic");
                incoming.receipt.acknowledge();
            }
        }
    }
}
