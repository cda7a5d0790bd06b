//! The one task that owns the network: what is heard and what is asked goes in, and once it is
//! stored, frames and events go out.

mod downlinks;
mod timers;
mod uplinks;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::concentrators::{Concentrators, Radio};
use super::config::{ServerConfig, TimingConfig};
use super::losses::Losses;
use super::orders::Order;
use super::store::{Change, SessionStore};
use super::teller::{Settled, Teller};
use crate::embed::NetworkEvents;
use crate::event::{DevEui, Downlink};
use crate::proto::mac::{Collector, CopyKind, Network};
use downlinks::{Awaited, Flight, Launch};
use timers::{Timer, Timers};
use uplinks::{Opening, Told};

/// What is written at a time at most; what waits is the next write's.
const BATCH: usize = 1024;

#[derive(Debug)]
pub(super) struct Engine {
    network: Network,
    collector: Collector,
    store: Box<dyn SessionStore>,
    concentrators: Arc<Concentrators>,
    teller: Teller,
    settled: mpsc::Receiver<Settled>,
    timing: TimingConfig,
    /// What the network's times are counted from.
    started: Instant,
    timers: Timers,
    /// Devices that hear, or have heard.
    openings: HashMap<DevEui, Opening>,
    /// When each device was asked how it is.
    asked: HashMap<DevEui, Instant>,
    /// Frames whose concentrator has not said what became of them.
    flights: HashMap<u16, Flight>,
    next_token: u16,
    /// Confirmed downlinks that their devices have not answered.
    awaited: HashMap<DevEui, Awaited>,
    /// Downlinks that wait for the hub's word on the uplink that opened their window.
    held: HashMap<DevEui, Downlink>,
    losses: Losses,
    changes: BTreeMap<DevEui, Scope>,
    effects: Vec<Effect>,
}

/// How much of a device has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Session,
    Device,
}

/// What is done once the changes that allow it are stored.
#[derive(Debug)]
enum Effect {
    Launch(Launch),
    Tell(Told),
}

impl Engine {
    pub(super) fn new(
        network: Network,
        store: Box<dyn SessionStore>,
        concentrators: Arc<Concentrators>,
        events: NetworkEvents,
        config: &ServerConfig,
    ) -> Self {
        let (sender, settled) = mpsc::channel(BATCH);
        let second_window = Duration::from_secs(u64::from(config.timing.rx_delay) + 1);
        Self {
            network,
            collector: Collector::new(config.timing.hold, second_window, config.limits.frames),
            store,
            concentrators,
            teller: Teller::new(events, sender, &config.limits),
            settled,
            timing: config.timing.clone(),
            started: Instant::now(),
            timers: Timers::default(),
            openings: HashMap::new(),
            asked: HashMap::new(),
            flights: HashMap::new(),
            next_token: 0,
            awaited: HashMap::new(),
            held: HashMap::new(),
            losses: Losses::default(),
            changes: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// Runs until it is dropped; from `stop` on it hears no new frames.
    pub(super) async fn run(
        mut self,
        mut radio: mpsc::Receiver<Radio>,
        mut orders: mpsc::Receiver<Order>,
        stop: CancellationToken,
    ) {
        loop {
            let due = self.next_due();
            let wait = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(said) = radio.recv() => self.said(said, &stop),
                Some(order) = orders.recv() => self.order(order),
                Some(word) = self.settled.recv() => self.settle(word),
                () = wait => {}
                else => return,
            }
            // What has come meanwhile shares a write.
            for _ in 0..BATCH {
                match radio.try_recv() {
                    Ok(said) => self.said(said, &stop),
                    Err(_) => break,
                }
            }
            for _ in 0..BATCH {
                match orders.try_recv() {
                    Ok(order) => self.order(order),
                    Err(_) => break,
                }
            }
            for _ in 0..BATCH {
                match self.settled.try_recv() {
                    Ok(word) => self.settle(word),
                    Err(_) => break,
                }
            }
            self.fire();
            self.commit().await;
            self.teller.tidy();
        }
    }

    fn said(&mut self, said: Radio, stop: &CancellationToken) {
        match said {
            Radio::Heard { .. } if stop.is_cancelled() => {}
            Radio::Heard { frame, reception } => {
                let now = self.started.elapsed();
                if self.collector.hear(now, frame, reception) == CopyKind::Overflow
                    && let Some(lost) = self.losses.count()
                {
                    tracing::warn!(lost, "Too many frames are held; new ones were dropped");
                }
            }
            Radio::Transmitted {
                gateway,
                token,
                result,
            } => self.transmitted(gateway, token, result),
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let frame = self.collector.next_at();
        let frame = frame.map(|at| self.started + at + self.timing.gather);
        frame.into_iter().chain(self.timers.next_at()).min()
    }

    /// Does what is due.
    fn fire(&mut self) {
        let now = Instant::now();
        let since_start = now - self.started;
        let is_time = |due| due + self.timing.gather <= since_start;
        if self.collector.next_at().is_some_and(is_time) {
            self.hand_out(since_start);
        }
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Answer(dev_eui, heard_at) => self.answer_without(dev_eui, heard_at),
                Timer::Flight(token, number) => self.lost(token, number),
                Timer::Acknowledgement(dev_eui, number) => self.unanswered(dev_eui, number),
            }
        }
    }

    /// Hands out frames whose time has come.
    fn hand_out(&mut self, now: Duration) {
        for _ in 0..BATCH {
            let Some(due) = self.collector.next_at() else {
                break;
            };
            let Some(collected) = self.collector.next(now) else {
                break;
            };
            // That long after it was heard first.
            let heard_at = self.started + due - self.timing.hold;
            self.heard(collected, heard_at);
        }
    }

    fn changed(&mut self, dev_eui: DevEui, scope: Scope) {
        let known = self.changes.entry(dev_eui).or_insert(scope);
        *known = scope.max(*known);
    }

    /// Stores what has changed, and then does what it allows.
    async fn commit(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        let effects = std::mem::take(&mut self.effects);
        let rows: Vec<Change> = changes
            .iter()
            .filter_map(|(dev_eui, scope)| self.change(*dev_eui, *scope))
            .collect();
        if !rows.is_empty() {
            let count = rows.len();
            if let Err(error) = self.store.save(rows).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(error = %error, cause, lost = effects.len(), devices = count, "Sessions not stored; what they allowed is not done");
                for effect in effects {
                    self.undo(effect);
                }
                // The network goes on from what has changed: the next write has that, too.
                for (dev_eui, scope) in changes {
                    self.changed(dev_eui, scope);
                }
                return;
            }
        }
        for effect in effects {
            match effect {
                Effect::Launch(launch) => self.launch(launch),
                Effect::Tell(told) => self.tell(told),
            }
        }
    }

    fn change(&self, dev_eui: DevEui, scope: Scope) -> Option<Change> {
        match (scope, self.network.session(dev_eui)) {
            (Scope::Session, Some(session)) => Some(Change::Session {
                dev_eui,
                session: session.clone(),
            }),
            _ => self.network.record(dev_eui).map(Change::Device),
        }
    }

    fn window_at(heard_at: Instant, delay: u8) -> Instant {
        heard_at + Duration::from_secs(delay.into())
    }
}
