//! Which changes of desired properties a device is given: whatever notices are lost or late and
//! whatever is fetched, no version comes twice, none is skipped but by all properties at once, what
//! waits is bounded, and in the end the device has the newest. And what a twin's JSON says of them.
#![no_main]

use bytes::Bytes;
use gateway_core::{DesiredChanges, desired_of, version_of};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Step {
    /// The hub's properties change; the notice arrives or is lost.
    Write { arrives: bool },
    /// A notice comes again, so many versions late.
    Repeat { behind: u8 },
    /// The device is given the next change.
    Deliver,
    /// The links are lost, and come again.
    Reconnect,
    /// A fetch that is due is answered, perhaps with what was before the last change.
    Fetch { is_stale: bool },
    /// The device reads its twin itself.
    Read,
}

struct World {
    changes: DesiredChanges,
    room: usize,
    hub: u64,
    /// The newest version that the device has.
    device: u64,
    /// What is remembered of the device over a loss of its links.
    known: u64,
}

impl World {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Write { arrives } => {
                self.hub += 1;
                if *arrives {
                    self.changes.take(self.hub, Bytes::new());
                }
            }
            Step::Repeat { behind } => {
                let version = self.hub.saturating_sub(u64::from(*behind)).max(1);
                // What is older than the first fetch is news to a device that was given nothing.
                if self.device > 0 {
                    self.changes.take(version, Bytes::new());
                }
            }
            Step::Deliver => self.deliver(),
            Step::Reconnect => {
                self.changes = DesiredChanges::new(self.known, self.room);
                self.changes.subscribed();
            }
            // What is older than what the device has is believed of a new twin only.
            Step::Fetch { is_stale } => {
                let is_stale = *is_stale && self.hub > self.known.max(self.device) + 1;
                self.fetch(self.hub - u64::from(is_stale));
            }
            Step::Read => {
                if self.changes.read(self.hub) {
                    self.device = self.hub;
                    self.known = self.hub;
                }
            }
        }
    }

    fn deliver(&mut self) {
        let Some(change) = self.changes.pop() else {
            return;
        };
        let (version, device) = (change.version, self.device);
        assert!(version > device, "{version} after {device}");
        let is_next = device == 0 || version == device + 1;
        assert!(change.is_whole || is_next, "{version} after {device}");
        self.device = version;
        self.known = self.known.max(version);
    }

    fn fetch(&mut self, version: u64) {
        let is_due = self.changes.is_behind();
        // As whoever owns the changes does: what is still on its way to the device may be lost.
        if is_due && self.changes.fetched(version, Bytes::new()) && self.known == 0 && !self.changes.is_waiting() {
            self.known = self.changes.known();
        }
    }
}

fuzz_target!(|input: (u8, Vec<Step>, &[u8])| {
    let (room, steps, text) = input;
    let room = usize::from(room % 4) + 1;
    let mut world =
        World { changes: DesiredChanges::new(0, room), room, hub: 1, device: 0, known: 0 };
    world.changes.subscribed();
    steps.iter().take(500).for_each(|step| world.step(step));
    // The hub says one thing more, which arrives.
    world.step(&Step::Write { arrives: true });
    world.fetch(world.hub);
    let mut given = 0;
    while world.changes.is_waiting() {
        world.deliver();
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
