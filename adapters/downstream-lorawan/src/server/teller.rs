//! Tells the downstream what happens in the network, while the server goes on.

use std::collections::HashMap;
use std::sync::Arc;

use gateway_core::{MessageId, Settlement};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::config::LimitConfig;
use super::losses::Losses;
use crate::embed::NetworkEvents;
use crate::event::{DevEui, DeviceAck, DownlinkFailed, Event, TransmitAck, Uplink};
use crate::proto::mac;

/// What became of a downlink.
#[derive(Debug)]
pub(super) enum Outcome {
    Transmit(TransmitAck),
    Device(DeviceAck),
    Failed(DownlinkFailed),
}

/// Says what became of an uplink whose device wants an acknowledgement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    pub(super) dev_eui: DevEui,
    pub(super) counter: u32,
    pub(super) mic: [u8; 4],
    /// The hub has it; or else it was lost, and the device may say it again.
    pub(super) taken: bool,
}

impl Settled {
    /// What is to be said of an uplink that nobody has taken yet; nothing if its device does not
    /// ask.
    pub(super) fn lost(uplink: &mac::Uplink) -> Option<Self> {
        uplink.confirmed.then_some(Self {
            dev_eui: uplink.dev_eui,
            counter: uplink.counter,
            mic: uplink.mic,
            taken: false,
        })
    }
}

/// Tells events; what makes a message goes one after the other for each device.
#[derive(Debug)]
pub(super) struct Teller {
    events: NetworkEvents,
    settled: mpsc::Sender<Settled>,
    tasks: JoinSet<()>,
    lanes: HashMap<DevEui, Lane>,
    room: Arc<Semaphore>,
    bound: usize,
    bound_per_device: usize,
    losses: Losses,
}

/// What a device's next message comes after.
#[derive(Debug)]
struct Lane {
    /// Ends when the hub has settled what the device said last.
    last: oneshot::Receiver<()>,
    /// Each message that waits has a clone.
    share: Arc<()>,
}

impl Teller {
    /// Makes one that lets so many messages wait for the hub.
    pub(super) fn new(
        events: NetworkEvents,
        settled: mpsc::Sender<Settled>,
        limits: &LimitConfig,
    ) -> Self {
        Self {
            events,
            settled,
            tasks: JoinSet::new(),
            lanes: HashMap::new(),
            room: Arc::new(Semaphore::new(limits.uplinks)),
            bound: limits.uplinks,
            bound_per_device: limits.uplinks_per_device,
            losses: Losses::default(),
        }
    }

    /// Tells what became of a downlink, at once.
    pub(super) fn outcome(&mut self, outcome: Outcome) {
        let events = self.events.clone();
        self.tasks.spawn(async move {
            match outcome {
                Outcome::Transmit(ack) => events.transmit_ack(ack).await,
                Outcome::Device(ack) => events.device_ack(ack).await,
                Outcome::Failed(failed) => events.downlink_failed(failed).await,
            }
        });
    }

    /// Tells of an uplink, and before it what it acknowledges; commands for its windows are
    /// taken until `closes`. Whether the hub has it is said as the `word`, if one is wanted.
    pub(super) fn uplink(
        &mut self,
        before: Option<DeviceAck>,
        uplink: Uplink,
        closes: Instant,
        word: Option<Settled>,
    ) {
        let heard = Instant::now();
        let (events, turn) = (self.events.clone(), self.turn(uplink.dev_eui));
        let word = word.map(|word| (word, self.settled.clone()));
        self.tasks.spawn(async move {
            if let Some(before) = before {
                // Rare, and larger than the usual way.
                Box::pin(events.device_ack(before)).await;
            }
            let taken = match turn.begin().await {
                Some(_turn) => deliver(&events, &uplink, heard, closes).await,
                None => false,
            };
            if let Some((word, settled)) = word {
                // Nobody to tell when the server ends.
                settled.send(Settled { taken, ..word }).await.ok();
            }
        });
    }

    /// Tells of something else that makes a message.
    pub(super) fn report(&mut self, event: Event) {
        let (events, turn) = (self.events.clone(), self.turn(event.dev_eui()));
        self.tasks.spawn(async move {
            let Some(turn) = turn.begin().await else {
                return;
            };
            // The same however often it is told.
            let id = MessageId::random();
            while let Settlement::RetryLater(after) =
                events.handle_as(event.clone(), id.clone()).await
            {
                sleep(after).await;
            }
            drop(turn);
        });
    }

    /// Takes note of what has been told.
    pub(super) fn tidy(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(error = %error, "A task panicked; please report this");
            }
        }
    }

    fn turn(&mut self, dev_eui: DevEui) -> Turn {
        self.tidy();
        let lane = self.lanes.remove(&dev_eui);
        let (before, share) = lane.map(|lane| (lane.last, lane.share)).unzip();
        let share = share.unwrap_or_default();
        let waiting = Arc::strong_count(&share) - 1;
        let has_room = waiting < self.bound_per_device;
        let permit = has_room.then(|| self.room.clone().try_acquire_owned().ok());
        let Some(permit) = permit.flatten() else {
            if let Some(last) = before {
                self.lanes.insert(dev_eui, Lane { last, share });
            }
            if let Some(lost) = self.losses.count() {
                let of_all = self.bound - self.room.available_permits();
                tracing::warn!(device.id = %dev_eui, waiting, of_all, lost, "Too much waits for the hub; new messages were dropped");
            }
            return Turn(None);
        };
        let (end, last) = oneshot::channel();
        let lane = Lane {
            last,
            share: share.clone(),
        };
        self.lanes.insert(dev_eui, lane);
        Turn(Some(Waiting {
            before,
            end,
            permit,
            share,
        }))
    }
}

/// Tells of an uplink until the hub says yes or no, and whether it has it.
async fn deliver(events: &NetworkEvents, uplink: &Uplink, heard: Instant, closes: Instant) -> bool {
    let (mut again, mut reading) = (false, None);
    loop {
        let handed_in = events.hand_in(uplink, heard, closes, again, &mut reading);
        match handed_in.await {
            Settlement::RetryLater(after) => sleep(after).await,
            settlement => return settlement == Settlement::Accepted,
        }
        again = true;
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let lost = self.bound - self.room.available_permits();
        if lost > 0 {
            tracing::warn!(
                lost,
                "The server ended before the hub had taken all messages"
            );
        }
    }
}

/// A message's turn among its device's; none if there is no room for it.
struct Turn(Option<Waiting>);

struct Waiting {
    before: Option<oneshot::Receiver<()>>,
    end: oneshot::Sender<()>,
    permit: OwnedSemaphorePermit,
    share: Arc<()>,
}

/// Lets the next message go when it is dropped.
struct Begun {
    _end: oneshot::Sender<()>,
    _permit: OwnedSemaphorePermit,
    _share: Arc<()>,
}

impl Turn {
    async fn begin(self) -> Option<Begun> {
        let Waiting {
            before,
            end,
            permit,
            share,
        } = self.0?;
        if let Some(before) = before {
            // It ends by being dropped.
            before.await.ok();
        }
        Some(Begun {
            _end: end,
            _permit: permit,
            _share: share,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
    use gateway_core::testkit::MemoryUpstream;
    use gateway_core::{ErrorKind, Gateway};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::embed::{EuiDirectory, LorawanConfig, LorawanDownstream, Profile};
    use crate::event::{Battery, Status};
    use crate::payload::{Decoded, decode_with};

    const DEV_EUI: DevEui = DevEui::new([1; 8]);

    /// A gateway between a hub in memory and a teller.
    fn start(profile: Profile) -> (MemoryUpstream, Teller, JoinSet<()>) {
        let builder = LorawanDownstream::builder(LorawanConfig::default());
        let builder = builder.with_directory(EuiDirectory::new(profile));
        let (lorawan, _) = builder.stream().unwrap();
        let (settled, _) = mpsc::channel(1);
        let teller = Teller::new(lorawan.events(), settled, &LimitConfig::default());
        let hub = MemoryUpstream::new();
        let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
        let policy = SharedAccessPolicy::new("device", key);
        let gateway = Gateway::builder(hub.clone())
            .with_credentials(HubPolicyCredentials::new(policy))
            .with_downstream("lorawan", lorawan)
            .build()
            .unwrap();
        let mut run = JoinSet::new();
        run.spawn(async move { drop(gateway.run(CancellationToken::new()).await) });
        (hub, teller, run)
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_that_the_hub_takes_twice_has_the_same_id() {
        let (hub, mut teller, _run) = start(Profile::default());
        hub.lose_settlements(usize::MAX);
        teller.report(Event::Status(Status::new(DEV_EUI, Battery::External, 7)));
        // So long that the gateway gives it back more than once.
        sleep(Duration::from_secs(600)).await;
        let accepted = hub.accepted();
        assert!(accepted.len() > 1);
        assert!(accepted.iter().all(|message| message.id == accepted[0].id));
    }

    #[tokio::test(start_paused = true)]
    async fn a_payload_is_read_once_however_often_the_hub_puts_its_message_off() {
        let reads = Arc::new(AtomicUsize::new(0));
        let counter = reads.clone();
        let codec = decode_with(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(Decoded::new("{}"))
        });
        let (hub, mut teller, _run) = start(Profile::default().with_codec(codec));
        for _ in 0..2 {
            hub.reject_next(ErrorKind::Other);
        }
        let uplink = Uplink::new(DEV_EUI, 1, 1, "x");
        teller.uplink(None, uplink, Instant::now(), None);
        hub.wait_accepted(1).await;
        assert_eq!(reads.load(Ordering::SeqCst), 1);
    }
}
