//! Commands that were transmitted, and that nobody waits for any more.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Command, Outcome};
use crate::event::DownlinkId;

/// Commands of one device that are remembered: of class A there is one for each window.
const ORPHANS: usize = 8;

/// Uplinks after which a device will not confirm any more. It does with the first; the network
/// server may tell of that uplink before it tells of the confirmation.
pub(super) const UPLINKS: u8 = 2;

#[derive(Debug)]
struct Orphan {
    /// What the network server knows it by.
    downlink: DownlinkId,
    origin: Arc<str>,
    acknowledged: bool,
    /// Uplinks since it was taken back.
    uplinks: u8,
}

/// What a command was found to be that is given out again.
#[derive(Debug)]
pub(super) enum Found {
    /// Its device has confirmed it.
    Ended(Outcome),
    /// Its device may still; the network server knows it by this.
    Open(DownlinkId),
}

/// The orphans of a device, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Orphans(VecDeque<Orphan>);

impl Orphans {
    /// Remembers a command, if it will be known again.
    pub(super) fn add(&mut self, downlink: DownlinkId, command: Command) {
        let Some(origin) = command.origin else { return };
        if self.0.len() == ORPHANS {
            self.0.pop_front();
        }
        self.0.push_back(Orphan {
            downlink,
            origin,
            acknowledged: false,
            uplinks: 0,
        });
    }

    /// Notes an uplink, and forgets what it does not confirm any more. What is confirmed is kept
    /// until it is asked for.
    pub(super) fn uplink(&mut self) {
        self.0.retain_mut(|orphan| {
            orphan.uplinks = orphan.uplinks.saturating_add(1);
            orphan.acknowledged || orphan.uplinks < UPLINKS
        });
    }

    /// Notes a device's word. What it has not heard is forgotten, so that it is sent again.
    pub(super) fn acknowledged(&mut self, id: &DownlinkId, acknowledged: bool) {
        let at = self.0.iter().position(|orphan| orphan.downlink == *id);
        match at.and_then(|at| self.0.get_mut(at)) {
            Some(orphan) if acknowledged => orphan.acknowledged = true,
            Some(_) => self.0.retain(|orphan| orphan.downlink != *id),
            None => {}
        }
    }

    /// Takes out the command that another one is again.
    pub(super) fn claim(&mut self, again: &Command) -> Option<Found> {
        let origin = again.origin.as_ref().filter(|_| again.redelivered)?;
        let at = self.0.iter().position(|orphan| orphan.origin == *origin)?;
        let orphan = self.0.remove(at)?;
        Some(match orphan.acknowledged {
            true => Found::Ended(Outcome::Acknowledged),
            false => Found::Open(orphan.downlink),
        })
    }
}
