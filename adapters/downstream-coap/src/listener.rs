//! What one socket's task knows of a device that listens.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use gateway_core::{DeviceId, Downlink, Interest, Presence};
use tokio::time::Instant;

use crate::carrier::PeerKey;
use crate::proto::message::Code;
use crate::proto::udp::{CallId, ExchangeId, ObservationId};
use crate::registry::{Claim, Delivery};

pub(crate) type Exchange = ExchangeId<PeerKey>;
pub(crate) type Observation = ObservationId<PeerKey>;
pub(crate) type Call = CallId<PeerKey>;

/// What can be observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Commands,
    Desired,
}

/// A wish to observe that waits for the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) exchange: Exchange,
    pub(crate) topic: Topic,
    /// The twin is being asked for.
    pub(crate) is_reading: bool,
}

/// A request that is answered when there is a command, or when its time is up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Poll {
    pub(crate) exchange: Exchange,
    /// The code of either answer.
    pub(crate) code: Code,
    /// A gateway waits for its child.
    pub(crate) is_child: bool,
    /// When it came.
    pub(crate) since: Instant,
    pub(crate) deadline: Instant,
}

/// What carries a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vehicle {
    Notification(Observation),
    /// The device has the first block of a notification, and may fetch the others.
    Rest(Observation),
    /// An answer that the device waited for, and that it acknowledges.
    Answer(Exchange),
    /// The device may fetch the other blocks of such an answer.
    AnswerRest(Exchange),
    Call(Call),
}

/// The way that a delivery may take now.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Notify(Observation),
    Answer(Poll),
    Post,
    Nowhere,
}

/// A device that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Where it was last heard.
    pub(crate) peer: PeerKey,
    /// It is a child, for which its gateway speaks.
    pub(crate) is_child: bool,
    pub(crate) claim: Claim,
    pub(crate) commands: Option<Observation>,
    pub(crate) desired: Option<Observation>,
    pub(crate) poll: Option<Poll>,
    /// The last wait that began, by the number of its exchange.
    pub(crate) last_wait: Option<u64>,
    /// Its last poll was answered, and until then it is expected to ask again.
    pub(crate) expected_until: Option<Instant>,
    /// Commands are posted to its own server.
    pub(crate) is_server: bool,
    pub(crate) registrations: Vec<Registration>,
    pub(crate) presence: Option<Presence>,
    /// What the hub was told that the device wants.
    pub(crate) announced: Interest,
    pub(crate) is_announcing: bool,
    /// When the hub, which could not take it, is told again.
    pub(crate) announce_at: Option<Instant>,
    pub(crate) queue: VecDeque<Box<Delivery>>,
    pub(crate) flight: Option<(Vehicle, Box<Delivery>)>,
    /// When its silence is too long.
    pub(crate) silent_at: Instant,
    scheduled: Option<Instant>,
}

impl Listener {
    /// What it wants to hear.
    pub(crate) fn interest(&self) -> Interest {
        let registers = |topic| self.registrations.iter().any(|one| one.topic == topic);
        let hears_commands =
            self.commands.is_some() || self.polls() || self.is_server || registers(Topic::Commands);
        let hears_changes = self.desired.is_some() || registers(Topic::Desired);
        Interest::NONE
            .with_messages(hears_commands)
            .with_methods(hears_commands)
            .with_desired(hears_changes)
    }

    fn polls(&self) -> bool {
        self.poll.is_some() || self.expected_until.is_some()
    }

    /// Tells whether it wants to hear something that it has asked for.
    pub(crate) fn has_asked(&self) -> bool {
        let observes = self.commands.is_some() || self.desired.is_some();
        observes || self.polls() || !self.registrations.is_empty()
    }

    /// How a downlink may reach it now; `None` if there will be a way soon.
    fn way(&self, downlink: &Downlink) -> Option<Way> {
        let (topic, observation) = match downlink {
            Downlink::Desired(_) => (Topic::Desired, self.desired),
            _ => (Topic::Commands, self.commands),
        };
        let is_coming = self.registrations.iter().any(|one| one.topic == topic);
        match (observation, self.poll) {
            (Some(observation), _) => Some(Way::Notify(observation)),
            (None, Some(poll)) if topic == Topic::Commands => Some(Way::Answer(poll)),
            _ if topic == Topic::Commands && self.is_server => Some(Way::Post),
            _ if is_coming => None,
            _ if topic == Topic::Commands && self.polls() => None,
            // What goes back before the hub knows that the device hears less comes again at once.
            _ if self.is_announcing || self.announce_at.is_some() => None,
            _ => Some(Way::Nowhere),
        }
    }

    pub(crate) fn observation(&mut self, topic: Topic) -> &mut Option<Observation> {
        match topic {
            Topic::Commands => &mut self.commands,
            Topic::Desired => &mut self.desired,
        }
    }

    /// The next delivery that has not to wait, with its way.
    pub(crate) fn next_delivery(&mut self) -> Option<(Box<Delivery>, Way)> {
        let way = |delivery: &Delivery| self.way(&delivery.downlink);
        let mut queue = self.queue.iter().enumerate();
        let (at, way) = queue.find_map(|(at, delivery)| Some((at, way(delivery)?)))?;
        Some((self.queue.remove(at)?, way))
    }

    /// When there is something to do for it next.
    fn due(&self) -> Option<Instant> {
        let observes = self.commands.is_some() || self.desired.is_some();
        let times = [
            self.flight.as_ref().map(|(_, delivery)| delivery.deadline),
            self.queue.iter().map(|delivery| delivery.deadline).min(),
            self.poll.map(|poll| poll.deadline),
            self.expected_until,
            self.announce_at,
            (observes || self.is_server).then_some(self.silent_at),
        ];
        times.into_iter().flatten().min()
    }
}

/// The devices that listen at one socket.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    devices: HashMap<DeviceId, Listener>,
    /// Their names, by where they were last heard.
    peers: HashMap<PeerKey, HashSet<DeviceId>>,
    observers: HashMap<Observation, DeviceId>,
    callees: HashMap<Call, DeviceId>,
    /// Who was answered, and acknowledges it or fetches the rest.
    answered: HashMap<Exchange, DeviceId>,
    timers: BTreeSet<(Instant, DeviceId)>,
    /// Devices for which their peer had another notification on its way.
    held: HashMap<PeerKey, VecDeque<DeviceId>>,
}

impl Listeners {
    pub(crate) fn get(&mut self, device: &DeviceId) -> Option<&mut Listener> {
        self.devices.get_mut(device)
    }

    /// The device's entry, made if there is none and it can be claimed.
    pub(crate) fn enter(
        &mut self,
        device: &DeviceId,
        peer: PeerKey,
        silent_at: Instant,
        claim: impl FnOnce() -> Option<Claim>,
    ) -> Option<&mut Listener> {
        let mut before = None;
        let listener = match self.devices.entry(device.clone()) {
            Entry::Occupied(entry) => {
                let listener = entry.into_mut();
                before = Some(std::mem::replace(&mut listener.peer, peer));
                listener
            }
            Entry::Vacant(entry) => entry.insert(Listener {
                peer,
                is_child: false,
                claim: claim()?,
                commands: None,
                desired: None,
                poll: None,
                last_wait: None,
                expected_until: None,
                is_server: false,
                registrations: Vec::new(),
                presence: None,
                announced: Interest::NONE,
                is_announcing: false,
                announce_at: None,
                queue: VecDeque::new(),
                flight: None,
                silent_at,
                scheduled: None,
            }),
        };
        listener.silent_at = silent_at;
        if before != Some(peer) {
            if let Some(before) = before {
                part(&mut self.peers, before, device);
            }
            self.peers.entry(peer).or_default().insert(device.clone());
        }
        Some(listener)
    }

    pub(crate) fn remove(&mut self, device: &DeviceId) -> Option<Listener> {
        let listener = self.devices.remove(device)?;
        part(&mut self.peers, listener.peer, device);
        if let Some(at) = listener.scheduled {
            self.timers.remove(&(at, device.clone()));
        }
        for observation in [listener.commands, listener.desired].into_iter().flatten() {
            self.observers.remove(&observation);
        }
        Some(listener)
    }

    pub(crate) fn observes(&mut self, observation: Observation, device: &DeviceId) {
        self.observers.insert(observation, device.clone());
    }

    pub(crate) fn observer(&self, observation: Observation) -> Option<DeviceId> {
        self.observers.get(&observation).cloned()
    }

    /// Forgets an observation and says whose it was.
    pub(crate) fn ended(&mut self, observation: Observation) -> Option<DeviceId> {
        self.observers.remove(&observation)
    }

    pub(crate) fn calls(&mut self, call: Call, device: &DeviceId) {
        self.callees.insert(call, device.clone());
    }

    /// Forgets a request to a device's server and says whose that is.
    pub(crate) fn called(&mut self, call: Call) -> Option<DeviceId> {
        self.callees.remove(&call)
    }

    pub(crate) fn answers(&mut self, exchange: Exchange, device: &DeviceId) {
        self.answered.insert(exchange, device.clone());
    }

    /// Forgets an answer, and says whose it was.
    pub(crate) fn answered(&mut self, exchange: Exchange) -> Option<DeviceId> {
        self.answered.remove(&exchange)
    }

    /// Notes that a device has to wait until its peer has acknowledged something else.
    pub(crate) fn hold(&mut self, peer: PeerKey, device: &DeviceId) {
        let held = self.held.entry(peer).or_default();
        if !held.contains(device) {
            held.push_back(device.clone());
        }
    }

    /// The devices that waited for a peer.
    pub(crate) fn release(&mut self, peer: PeerKey) -> VecDeque<DeviceId> {
        self.held.remove(&peer).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// The devices that were last heard there.
    pub(crate) fn heard_at(&self, peer: PeerKey) -> Vec<DeviceId> {
        let devices = self.peers.get(&peer).into_iter().flatten();
        devices.cloned().collect()
    }

    /// The devices that listen.
    pub(crate) fn names(&self) -> Vec<DeviceId> {
        self.devices.keys().cloned().collect()
    }

    /// The devices with polls, which are answered when the gateway stops.
    pub(crate) fn polling(&self) -> Vec<DeviceId> {
        let polling = self.devices.iter();
        let polling = polling.filter(|(_, listener)| listener.polls());
        polling.map(|(device, _)| device.clone()).collect()
    }

    /// Tells whether something is on its way to a device.
    pub(crate) fn has_flights(&self) -> bool {
        let mut devices = self.devices.values();
        devices.any(|listener| listener.flight.is_some() || !listener.queue.is_empty())
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A device whose time has come.
    pub(crate) fn due(&mut self, now: Instant) -> Option<DeviceId> {
        if self.timers.first()?.0 > now {
            return None;
        }
        let (_, device) = self.timers.pop_first()?;
        if let Some(listener) = self.devices.get_mut(&device) {
            listener.scheduled = None;
        }
        Some(device)
    }

    /// Sees to it that the device is looked at in time.
    pub(crate) fn schedule(&mut self, device: &DeviceId) {
        let Some(listener) = self.devices.get_mut(device) else {
            return;
        };
        let Some(due) = listener.due() else { return };
        // A timer that is too early is left: it costs less than moving it.
        if listener.scheduled.is_none_or(|scheduled| due < scheduled) {
            if let Some(scheduled) = listener.scheduled.replace(due) {
                self.timers.remove(&(scheduled, device.clone()));
            }
            self.timers.insert((due, device.clone()));
        }
    }
}

/// Takes a device out of those at a peer.
fn part(peers: &mut HashMap<PeerKey, HashSet<DeviceId>>, peer: PeerKey, device: &DeviceId) {
    if let Entry::Occupied(mut there) = peers.entry(peer) {
        there.get_mut().remove(device);
        if there.get().is_empty() {
            there.remove();
        }
    }
}
