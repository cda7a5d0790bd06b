//! Uplinks of one device that wait while others of it are on their way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::MutexGuard;

use tokio::sync::oneshot;

use super::{Busy, Gate, Session, lock};
use crate::config::BatchConfig;
use crate::message::{DEFAULT_RETRY_AFTER, Settlement, Uplink};

/// What a batch adds to each message and to each of its properties, in bytes, rounded up.
const MESSAGE_OVERHEAD: usize = 64;
const PROPERTY_OVERHEAD: usize = 16;

/// A device's queue. There is one only while somebody has a place in it.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The number of the next place.
    next: u64,
    /// Places taken and not left.
    places: usize,
    /// In order of places.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    uplink: Uplink,
    settle: oneshot::Sender<Settlement>,
}

impl Session {
    fn backlog(&self) -> MutexGuard<'_, Option<Box<Backlog>>> {
        lock(&self.backlog)
    }
}

impl Busy {
    /// Lets an uplink wait behind those that came before it.
    pub(crate) fn queue(&self, uplink: Uplink) -> Place<'_> {
        let (settle, settled) = oneshot::channel();
        let mut backlog = self.0.backlog();
        let backlog = backlog.get_or_insert_default();
        let number = backlog.next;
        backlog.next += 1;
        backlog.places += 1;
        let waiting = Waiting { uplink, settle };
        backlog.waiting.insert(number, waiting);
        Place {
            session: &self.0,
            number,
            settled,
        }
    }
}

impl<'a> Gate<'a> {
    /// Takes what may go together, from the first that waits on; none if nothing waits.
    pub(crate) fn take_batch(&self, bounds: &BatchConfig) -> Option<Batch<'a>> {
        let mut backlog = self.session.backlog();
        let waiting = &mut backlog.as_mut()?.waiting;
        if waiting.is_empty() {
            return None;
        }
        let mut batch = Batch {
            session: self.session,
            uplinks: Vec::with_capacity(waiting.len().min(bounds.max_messages)),
            places: VecDeque::with_capacity(waiting.len().min(bounds.max_messages)),
        };
        let mut bytes = 0;
        while let Some(first) = waiting.first_entry() {
            bytes += size(&first.get().uplink);
            let is_full = batch.places.len() >= bounds.max_messages || bytes > bounds.max_bytes;
            if is_full && !batch.places.is_empty() {
                break;
            }
            let (number, Waiting { uplink, settle }) = first.remove_entry();
            batch.uplinks.push(uplink);
            batch.places.push_back((number, settle));
        }
        Some(batch)
    }
}

/// Is an uplink's place in the backlog. Dropped, the uplink leaves it, unless it is on its way.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    session: &'a Session,
    number: u64,
    settled: oneshot::Receiver<Settlement>,
}

impl Place<'_> {
    /// Waits until somebody has sent the uplink.
    pub(crate) async fn settled(&mut self) -> Settlement {
        let settlement = (&mut self.settled).await;
        settlement.unwrap_or(Settlement::RetryLater(DEFAULT_RETRY_AFTER))
    }

    /// Tells what became of the uplink, if it has been sent.
    pub(crate) fn try_settled(&mut self) -> Option<Settlement> {
        self.settled.try_recv().ok()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut backlog = self.session.backlog();
        if let Some(queue) = backlog.as_mut() {
            queue.waiting.remove(&self.number);
            queue.places -= 1;
            if queue.places == 0 {
                *backlog = None;
            }
        }
    }
}

/// Is uplinks that go together. Dropped before all are settled, as with whoever was sending it, the
/// others wait in their old places for somebody else: the hub may get them twice, but in order.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    session: &'a Session,
    uplinks: Vec<Uplink>,
    /// Of those not settled yet, which are the last.
    places: VecDeque<(u64, oneshot::Sender<Settlement>)>,
}

impl Batch<'_> {
    /// The uplinks not settled yet.
    pub(crate) fn unsettled(&self) -> &[Uplink] {
        &self.uplinks[self.uplinks.len() - self.places.len()..]
    }

    /// Settles the first of them.
    pub(crate) fn settle(&mut self, count: usize, settlement: Settlement) {
        for (_, settle) in self.places.drain(..count) {
            // Who has gone need not be told.
            settle.send(settlement).ok();
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let first = self.uplinks.len() - self.places.len();
        let mut backlog = self.session.backlog();
        // Without a backlog nobody waits any more.
        if let Some(backlog) = backlog.as_mut() {
            for (uplink, (number, settle)) in self.uplinks.drain(first..).zip(self.places.drain(..))
            {
                if !settle.is_closed() {
                    backlog.waiting.insert(number, Waiting { uplink, settle });
                }
            }
        }
    }
}

/// What a message takes of a batch, in bytes.
fn size(uplink: &Uplink) -> usize {
    let texts = uplink.system.texts().count() + uplink.properties.len();
    uplink.size() + MESSAGE_OVERHEAD + texts * PROPERTY_OVERHEAD
}
