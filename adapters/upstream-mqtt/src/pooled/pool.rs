//! What all parts of one upstream share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gateway_core::governor::{BudgetConfig, Door};
use gateway_core::{CloudCallback, ConfigError, DeviceId, Interest};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::{MqttEncoding, MqttPoolConfig, MqttSubscriptions, MqttVersion};
use super::device::{Device, Wish};
use super::line::Line;
use super::queues::{Bounds, Queues};
use super::suspicion::{Chore, Pace};
use super::template::{Template, Values};
use super::topics::{Kind, Topics};
use super::twin::Asked;
use super::verdict::Silence;
use crate::client::{Client, Limits, Options, Publish, Receipt, Transport, Version, Will};
use crate::error::MqttError;
use crate::lock::lock;

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) losses: AtomicU64,
    pub(super) lapsed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) unreadable: AtomicU64,
    pub(super) handed_over: AtomicU64,
    pub(super) left: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) config: MqttPoolConfig,
    pub(super) encoding: MqttEncoding,
    pub(super) topics: Topics,
    transport: Transport,
    pub(super) lines: Vec<Arc<Line>>,
    pub(super) devices: Mutex<HashMap<DeviceId, Arc<Device>>>,
    pub(super) queues: Arc<Queues>,
    pub(super) asked: Asked,
    pub(super) calls: super::methods::Calls,
    /// Small things to tell the broker that wait for its acknowledgement: answers in a device's place,
    /// dead letters, commands handed over. As many at a time as there is room for commands.
    chores: Arc<Semaphore>,
    /// Told when a device has missed changes of its desired properties.
    pub(super) behind: Notify,
    /// Whether desired properties are retained that came for a device before it was here.
    pub(super) has_retained: AtomicBool,
    pub(super) door: Door,
    pub(super) counters: Counters,
    /// Sends in flight.
    pub(super) sends: TaskTracker,
    /// Owns every task but those of connections; none outlives `closing`.
    pub(super) tasks: TaskTracker,
    /// Owns the tasks of connections.
    pub(super) connections: TaskTracker,
    pub(super) closing: CancellationToken,
}

impl Pool {
    pub(super) fn new(config: MqttPoolConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut budget = BudgetConfig::default();
        budget.connects = config.connects;
        let commands = &config.commands;
        let pace = Pace {
            reconnect: config.reconnect.most(),
            keep: commands.keep,
        };
        Ok(Self {
            encoding: config.encoding(),
            topics: Topics::new(&config)?,
            transport: config.transport()?,
            lines: (1..=config.connections)
                .map(|n| Arc::new(Line::new(n, config.window(), pace)))
                .collect(),
            devices: Mutex::default(),
            queues: Arc::new(Queues::new(Bounds {
                per_device: commands.per_device,
                most: config.room(),
            })),
            asked: Asked::new(commands.pending),
            calls: super::methods::Calls::default(),
            chores: Arc::new(Semaphore::new(config.room())),
            behind: Notify::new(),
            has_retained: AtomicBool::new(false),
            door: Door::new(&budget),
            counters: Counters::default(),
            sends: TaskTracker::new(),
            tasks: TaskTracker::new(),
            connections: TaskTracker::new(),
            closing: CancellationToken::new(),
            config,
        })
    }

    /// Runs work until it is done or the upstream ends.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Runs work until it is done or the connection ends.
    pub(super) fn spawn_for(
        &self,
        client: &Client,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let down = client.down().clone();
        self.spawn(async move {
            tokio::select! {
                () = down.cancelled() => {}
                () = work => {}
            }
        });
    }

    pub(super) fn options(&self, number: usize) -> Options {
        let (config, wire) = (&self.config, &self.config.wire);
        let keeps = !wire.session_expiry.is_zero();
        let id = format!("{}-{number}", config.instance);
        let mut options = Options::new(config.host.as_str(), config.port(), id);
        options.address = config.address.clone();
        options.transport = self.transport.clone();
        options.version = match config.version {
            MqttVersion::V3_1_1 => Version::V4,
            MqttVersion::V5 => Version::V5,
        };
        options.user_name = config.user_name.clone();
        options.password = config.password.as_ref().map(|p| p.reveal().to_owned());
        options.clean_start = !keeps;
        options.session_expiry = keeps.then_some(wire.session_expiry);
        options.keep_alive = wire.keep_alive;
        options.will = self.state_notice(number, "offline").map(|notice| Will {
            topic: notice.topic,
            payload: notice.payload,
            retain: true,
        });
        // Many devices share the connection: none waits for another's verdict.
        options.ordered_acks = false;
        options.limits = Limits {
            connect_timeout: wire.connect_timeout,
            answer_timeout: wire.answer_timeout,
            in_flight: wire.in_flight,
            receive: config.window(),
            max_packet: wire.max_packet,
            buffer: wire.buffer,
            ..Limits::default()
        };
        options
    }

    /// What the broker is told of the gateway's own state, over its first connection.
    pub(super) fn state_notice(&self, number: usize, state: &str) -> Option<Publish> {
        let template = self.topics.status.as_ref().filter(|_| number == 1)?;
        let topic = template.write(&Values::default()).ok()?;
        let payload = serde_json::json!({"instance": self.config.instance, "state": state});
        Some(Publish {
            topic,
            payload: Bytes::from(payload.to_string()),
            retain: true,
            properties: None,
        })
    }

    /// Says that the gateway is online, until the broker has it.
    pub(super) async fn announce(self: Arc<Self>, number: usize) {
        if let Some(notice) = self.state_notice(number, "online")
            && let Ok(client) = self.lines[number - 1].client()
            && let Err(error) = client.publish(notice).await
        {
            tracing::warn!(error = %error, count = 1, "The gateway's state could not be published");
        }
    }

    /// The connection of a device, by its place. It follows from the id alone, so that a device comes
    /// back to the session which the broker keeps for it, and to its own messages in flight.
    pub(super) fn place(&self, device: &DeviceId) -> usize {
        // FNV-1a, which never changes with a library.
        let hash = device
            .as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        // The low bits alone mix badly.
        ((hash ^ (hash >> 32)) % self.lines.len() as u64) as usize
    }

    pub(super) fn find(&self, device: &DeviceId) -> Option<Arc<Device>> {
        lock(&self.devices).get(device).cloned()
    }

    /// Whoever is to get a device's commands, if it is attached and listens.
    pub(super) fn listener(
        &self,
        device: &DeviceId,
        wants: impl FnOnce(&Interest) -> bool,
    ) -> Option<Arc<dyn CloudCallback>> {
        let device = self.find(device)?;
        let wish = lock(&device.wish);
        wants(&wish.interest).then(|| wish.callback.clone())
    }

    /// Attaches a device, or changes what it wants.
    pub(super) fn register(self: &Arc<Self>, id: DeviceId, wish: Wish) {
        let mut devices = lock(&self.devices);
        let place = self.place(&id);
        let interest = wish.interest;
        let had = match devices.get(&id) {
            Some(device) => std::mem::replace(&mut *lock(&device.wish), wish).interest,
            None => {
                devices.insert(id.clone(), Arc::new(Device::new(id.clone(), place, wish)));
                Interest::NONE
            }
        };
        // Within the lock, so that what is heard follows what was registered last.
        let now = self.filters(&id, place, interest);
        let before = self.filters(&id, place, had);
        for (place, filter) in now.iter().filter(|filter| !before.contains(filter)) {
            self.lines[*place].filters.want(filter.clone());
            self.lines[*place].keep(self);
        }
        for (place, filter) in before.iter().filter(|filter| !now.contains(filter)) {
            self.lines[*place].filters.unwant(filter);
        }
        if interest.desired
            && !had.desired
            && let Some(device) = devices.get(&id)
        {
            self.begin(device);
        }
    }

    /// Gives the subscription back by which commands of this kind come for a device that is not here.
    pub(super) fn disown(&self, id: &DeviceId, kind: Kind) {
        let devices = lock(&self.devices);
        if devices.contains_key(id) {
            return;
        }
        let interest = Interest::NONE
            .with_messages(kind == Kind::Message)
            .with_methods(kind == Kind::Method)
            .with_desired(kind == Kind::Desired);
        for (place, filter) in self.filters(id, self.place(id), interest) {
            self.lines[place].filters.leave(filter);
        }
    }

    /// Detaches a device, if it is attached.
    pub(super) fn unregister(&self, id: &DeviceId) {
        let mut devices = lock(&self.devices);
        let Some(device) = devices.remove(id) else {
            return;
        };
        let mut filters = self.filters(id, device.line, device.interest());
        if device.hears_twin.load(Relaxed) {
            filters.extend(self.twin_filter(&device));
        }
        for (place, filter) in filters {
            self.lines[place].filters.unwant(&filter);
        }
    }

    /// The filters by which a device hears what it wants, with the connections that hear them.
    pub(super) fn filters(
        &self,
        id: &DeviceId,
        place: usize,
        interest: Interest,
    ) -> Vec<(usize, String)> {
        let commands = &self.config.commands;
        let (place, id) = match commands.subscriptions {
            MqttSubscriptions::PerDevice => (place, Some(id)),
            MqttSubscriptions::Wildcard => (0, None),
        };
        let shared = |template: &Template| match &commands.group {
            Some(group) => format!("$share/{group}/{}", template.filter(id)),
            None => template.filter(id),
        };
        let topics = &self.topics;
        let messages = topics.messages.as_ref().filter(|_| interest.messages);
        let methods = topics.methods.as_ref().filter(|_| interest.methods);
        let desired = topics.desired.as_ref().filter(|_| interest.desired);
        let mut filters: Vec<_> = [messages, methods]
            .into_iter()
            .flatten()
            .map(shared)
            .collect();
        if commands.hands_over() && !filters.is_empty() {
            filters.push(format!("{}/#", commands.handover));
        }
        // State, not work: it harms nobody to hear it twice, and a group gets nothing retained.
        filters.extend(desired.map(|template| template.filter(id)));
        filters.into_iter().map(|filter| (place, filter)).collect()
    }

    /// The filter by which answers about a device's twin come, with the connection that hears it.
    pub(super) fn twin_filter(&self, device: &Device) -> Option<(usize, String)> {
        let is_own = self.config.commands.subscriptions == MqttSubscriptions::PerDevice
            && self.topics.twin_is_per_device();
        match is_own {
            true => Some((device.line, self.topics.twin_filter(Some(&device.id))?)),
            false => Some((0, self.topics.twin_filter(None)?)),
        }
    }

    /// Tells the broker something small about a command, for as long as it may take to answer.
    pub(super) async fn tell(
        self: &Arc<Self>,
        place: usize,
        chore: Chore,
        publish: Publish,
    ) -> Result<(), MqttError> {
        let line = &self.lines[place];
        // It may be of a device that was never here.
        line.keep(self);
        let offer = line.offer(chore, publish, &self.config.commands.retry);
        let told = timeout(self.config.wire.answer_timeout, offer).await;
        told.unwrap_or(Err(MqttError::Unanswered("a word about a command")))
    }

    /// Tells the broker something small about a command, and acknowledges that once it has it, or
    /// does not take it. If the command's own connection is lost before, the broker gives it again.
    pub(super) fn chore(
        self: &Arc<Self>,
        place: usize,
        chore: Chore,
        publish: Publish,
        receipts: Vec<Receipt>,
        lost: CancellationToken,
    ) {
        let Ok(permit) = self.chores.clone().try_acquire_owned() else {
            tracing::warn!(count = 1, "Too much waits for the broker's acknowledgement");
            return;
        };
        let pool = self.clone();
        self.spawn(async move {
            let _permit = permit;
            let told = tokio::select! {
                biased;
                () = lost.cancelled() => return,
                told = pool.tell(place, chore, publish) => told,
            };
            if let Err(error) = told {
                // What it does not take is no reason to be sent the command again.
                tracing::warn!(error = %error, count = 1, "The broker did not take an answer");
            }
            receipts.into_iter().for_each(Receipt::acknowledge);
        });
    }

    /// Counts a callback without a verdict.
    pub(super) fn count(&self, silence: Silence) {
        if silence == Silence::Late {
            self.counters.lapsed.fetch_add(1, Relaxed);
        }
    }
}
