//! Which changes of desired properties a device is given: whatever notices are lost or late, whatever
//! is fetched, missed or not listened to, no version comes twice, none is skipped but by all properties
//! at once, what waits is bounded, and in the end the device has the newest. And what a twin's JSON says
//! of them.
#![no_main]

use bytes::Bytes;
use gateway_core::{DesiredChange, DesiredChanges, desired_of, version_of};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Step {
    /// The hub's properties change; the notice arrives or is lost.
    Write { arrives: bool },
    /// A notice comes again, so many versions late.
    Repeat { behind: u8 },
    /// The next change goes to the device.
    Deliver,
    /// The links are lost, and come again.
    Reconnect,
    /// A fetch that is due is answered, perhaps with what was before the last change.
    Fetch { is_stale: bool },
    /// The device reads its twin itself.
    Read,
    /// The device has what went to it, or it says that it has not.
    Settle { arrives: bool },
    /// The device listens no more.
    Leave,
    /// It listens again.
    Listen,
    /// The hub tells of a change without its version.
    Unversioned,
    /// The device is made anew at the hub.
    Recreate,
}

struct World {
    changes: DesiredChanges,
    room: usize,
    hub: u64,
    /// The newest version that the device has.
    device: u64,
    /// What is remembered of the device over a loss of its links.
    known: u64,
    listens: bool,
    on_its_way: Option<DesiredChange>,
    /// Single changes are of no use to the device until it has all properties.
    lacks: bool,
    /// The device may be given what it has, for a change of an unknown version or one that it has read.
    is_unsure: bool,
}

impl World {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { arrives } => {
                self.hub += 1;
                if *arrives {
                    self.tell(self.hub);
                }
            }
            Step::Repeat { behind } => {
                let version = self.hub.saturating_sub(u64::from(*behind)).max(1);
                // What is older than the first fetch is news to a device that was given nothing.
                if self.device > 0 {
                    self.tell(version);
                }
            }
            Step::Deliver => self.deliver(),
            Step::Reconnect => self.reconnect(),
            // What is older than what went to the device is believed of a new twin only.
            Step::Fetch { is_stale } => {
                let gone = self.on_its_way.as_ref().map_or(0, |change| change.version);
                let is_stale = *is_stale && self.hub > self.known.max(self.device).max(gone) + 1;
                self.fetch(self.hub - u64::from(is_stale));
            }
            Step::Read => {
                if self.changes.read(self.hub) {
                    self.has_all(self.hub);
                }
            }
            Step::Settle { arrives } => self.settle(*arrives),
            Step::Leave => {
                self.lacks |= self.changes.is_waiting();
                self.changes.unsubscribed();
                self.listens = false;
            }
            Step::Listen => {
                if !self.listens {
                    self.changes.subscribed();
                    self.listens = true;
                }
            }
            Step::Unversioned => {
                self.tell(0);
                self.is_unsure |= self.listens;
            }
            Step::Recreate => {
                // It is given all at once: one that has come as far as the one before it is not told from it.
                if self.listens && self.known > 1 {
                    self.reconnect();
                    (self.hub, self.device, self.lacks) = (1, 0, true);
                    self.fetch(1);
                    self.deliver();
                    self.settle(true);
                    assert_eq!(self.device, 1);
                }
            }
        }
        assert!(self.listens || !self.changes.is_waiting());
    }

    fn tell(&mut self, version: u64) {
        if self.listens {
            self.changes.take(version, Bytes::new());
        }
    }

    fn reconnect(&mut self) {
        self.settle(false);
        self.changes = DesiredChanges::new(self.known, self.room);
        // One that was given nothing asks for its twin itself.
        self.lacks &= self.known > 0 && self.known < self.hub;
        if self.listens {
            self.changes.subscribed();
        }
    }

    fn deliver(&mut self) {
        if self.on_its_way.is_some() {
            return;
        }
        let Some(change) = self.changes.pop() else {
            return;
        };
        let (version, device) = (change.version, self.device);
        if change.is_whole {
            assert!(version > device || self.lacks || self.is_unsure, "{version} after {device}");
        } else {
            assert!(!self.lacks, "{version} after a miss");
            assert!(device == 0 || version == device + 1, "{version} after {device}");
        }
        self.on_its_way = Some(change);
    }

    fn has_all(&mut self, version: u64) {
        // What it has read itself meanwhile is newer, and may come again after a loss of the links.
        self.is_unsure |= version < self.device;
        (self.device, self.known, self.lacks) = (self.device.max(version), version, false);
    }

    fn settle(&mut self, arrives: bool) {
        let Some(change) = self.on_its_way.take() else {
            return;
        };
        if !arrives {
            self.changes.missed();
            if !self.listens {
                self.changes.unsubscribed();
            }
            self.lacks = true;
            self.known = self.known.max(self.changes.known());
        } else if change.is_whole {
            self.has_all(change.version);
        } else {
            self.device = self.device.max(change.version);
            self.known = self.known.max(change.version);
        }
    }

    fn fetch(&mut self, version: u64) {
        let is_due = self.listens && self.changes.is_behind();
        // As whoever owns the changes does: what is still on its way to the device may be lost.
        if is_due
            && self.changes.fetched(version, Bytes::new())
            && self.known == 0
            && !self.changes.is_waiting()
            && self.on_its_way.is_none()
        {
            self.known = self.changes.known();
        }
    }
}

fuzz_target!(|input: (u8, Vec<Step>, &[u8])| {
    let (room, steps, text) = input;
    let room = usize::from(room % 4) + 1;
    let mut world = World {
        changes: DesiredChanges::new(0, room),
        room,
        hub: 1,
        device: 0,
        known: 0,
        listens: true,
        on_its_way: None,
        lacks: false,
        is_unsure: false,
    };
    world.changes.subscribed();
    steps.iter().take(500).for_each(|step| world.step(step));
    // The device listens, and the hub says one thing more, which arrives.
    world.settle(true);
    world.step(&Step::Listen);
    world.step(&Step::Write { arrives: true });
    world.fetch(world.hub);
    let mut given = 0;
    while world.changes.is_waiting() {
        world.deliver();
        world.settle(true);
        given += 1;
    }
    assert!(given <= room);
    assert_eq!(world.device, world.hub);

    let twin = Bytes::copy_from_slice(text);
    if let Some((version, desired)) = desired_of(&twin) {
        assert_eq!(version_of(&desired), Some(version));
        assert!(twin.windows(desired.len()).any(|part| part == desired));
    }
});
