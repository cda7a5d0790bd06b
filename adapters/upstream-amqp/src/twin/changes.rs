//! Which changes of its desired properties a device was given, and which it missed. Pure.

use std::collections::VecDeque;

use bytes::Bytes;

/// A change on its way to the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// 0 if the hub did not say it.
    pub(super) version: u64,
    pub(super) body: Bytes,
    /// The body is all desired properties.
    pub(super) is_whole: bool,
}

/// Passes changes on in the order of their versions, each once. Where one is missing, all desired
/// properties are to be fetched; they come in the place of what was missed.
#[derive(Debug)]
pub(super) struct Changes {
    /// The version of the newest change passed on, or read by the device itself; 0 if none is known.
    passed: u64,
    /// Something may have been missed: until it is fetched, single changes are of no use.
    is_behind: bool,
    waiting: VecDeque<Change>,
    /// Changes that may wait; what is beyond is fetched later.
    room: usize,
}

impl Changes {
    /// Begins anew with a device that has had changes up to `known`, 0 if none.
    pub(super) fn new(known: u64, room: usize) -> Self {
        Self {
            passed: known,
            is_behind: false,
            waiting: VecDeque::new(),
            room,
        }
    }

    /// Takes note that the hub tells of changes from now on: it did not before.
    pub(super) fn subscribed(&mut self) {
        self.is_behind = true;
    }

    /// Takes note that the hub tells of nothing any more.
    pub(super) fn unsubscribed(&mut self) {
        self.is_behind = false;
        self.waiting.clear();
    }

    /// Tells whether all desired properties are to be fetched.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Takes a change of which the hub tells.
    pub(super) fn take(&mut self, version: u64, body: Bytes) {
        let has_room = self.waiting.len() < self.room;
        let is_next = version == self.passed + 1 && !self.is_behind;
        // Of a device without a past nothing is known to be missing.
        let is_first = self.passed == 0;
        if has_room && (is_next || is_first || version == 0) {
            self.passed = self.passed.max(version);
            self.waiting.push_back(Change {
                version,
                body,
                is_whole: false,
            });
        } else if version > self.passed {
            self.is_behind = true;
        }
    }

    /// Takes all desired properties, fetched after the last change that was told.
    pub(super) fn fetched(&mut self, version: u64, body: Bytes) {
        self.is_behind = false;
        // A device that was given nothing yet asks for its twin itself.
        if self.passed != 0 && self.passed != version {
            // A lower version is that of a twin that was made anew.
            self.waiting.clear();
            self.waiting.push_back(Change {
                version,
                body,
                is_whole: true,
            });
        }
        self.passed = version;
    }

    /// Takes note that the device has read its twin itself. True if that brought news.
    pub(super) fn read(&mut self, version: u64) -> bool {
        let is_newer = version > self.passed;
        if is_newer {
            self.passed = version;
            self.waiting.clear();
        }
        is_newer
    }

    /// The version up to which the device has, or is about to get, everything.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// The next change to pass on.
    pub(super) fn next(&mut self) -> Option<Change> {
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn versions(changes: &mut Changes) -> Vec<u64> {
        std::iter::from_fn(|| changes.next())
            .map(|c| c.version)
            .collect()
    }

    fn taken(known: u64, told: &[u64]) -> Changes {
        let mut changes = Changes::new(known, 8);
        told.iter()
            .for_each(|version| changes.take(*version, Bytes::new()));
        changes
    }

    #[test]
    fn changes_pass_in_order_and_once() {
        let mut changes = taken(3, &[4, 4, 5, 2, 5, 6]);
        assert_eq!(versions(&mut changes), [4, 5, 6]);
        assert!(!changes.is_behind());
    }

    #[test]
    fn a_gap_is_fetched_and_comes_as_one() {
        let mut changes = taken(3, &[4, 6, 7]);
        assert!(changes.is_behind());
        assert_eq!(versions(&mut changes), [4]);
        changes.fetched(7, Bytes::from_static(b"all"));
        let whole = changes.next().unwrap();
        assert!(whole.is_whole);
        assert_eq!((whole.version, &whole.body[..]), (7, &b"all"[..]));
        changes.take(7, Bytes::new());
        changes.take(8, Bytes::new());
        assert_eq!(versions(&mut changes), [8]);
    }

    #[test]
    fn nothing_is_made_up_for_a_device_that_was_given_nothing() {
        let mut changes = Changes::new(0, 8);
        changes.subscribed();
        changes.fetched(5, Bytes::new());
        assert!(versions(&mut changes).is_empty());
        changes.take(6, Bytes::new());
        assert_eq!(versions(&mut changes), [6]);
    }

    #[test]
    fn a_change_between_the_first_subscription_and_its_fetch_passes() {
        let mut changes = Changes::new(0, 8);
        changes.subscribed();
        changes.take(6, Bytes::new());
        changes.fetched(6, Bytes::new());
        assert_eq!(versions(&mut changes), [6]);
        assert!(!changes.is_behind());
    }

    #[test]
    fn a_twin_made_anew_comes_though_its_version_is_lower() {
        let mut changes = Changes::new(9, 8);
        changes.subscribed();
        changes.fetched(1, Bytes::new());
        assert_eq!(versions(&mut changes), [1]);
        changes.take(2, Bytes::new());
        assert_eq!(versions(&mut changes), [2]);
    }

    #[test]
    fn what_a_device_read_itself_is_not_told_again() {
        let mut changes = taken(3, &[4, 5]);
        assert!(changes.read(5) || changes.passed() == 5);
        let mut changes = taken(3, &[]);
        assert!(changes.read(6));
        changes.take(5, Bytes::new());
        changes.take(6, Bytes::new());
        changes.take(7, Bytes::new());
        assert_eq!(versions(&mut changes), [7]);
    }

    #[test]
    fn changes_beyond_the_room_are_fetched() {
        let mut changes = taken(1, &(2..30).collect::<Vec<_>>());
        assert!(changes.is_behind());
        assert_eq!(versions(&mut changes), (2..10).collect::<Vec<_>>());
    }

    /// What can happen between a hub and a device.
    #[derive(Debug, Clone)]
    enum Step {
        /// The hub's properties change; the notice arrives or is lost.
        Write { arrives: bool },
        /// The device's side is given the next change.
        Deliver,
        /// The links are lost, and come again.
        Reconnect,
        /// A fetch that is due is answered.
        Fetch,
        /// The device reads its twin itself.
        Read,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<bool>().prop_map(|arrives| Step::Write { arrives }),
            4 => Just(Step::Deliver),
            1 => Just(Step::Reconnect),
            2 => Just(Step::Fetch),
            1 => Just(Step::Read),
        ]
    }

    proptest! {
        /// Whatever is lost, no version is given twice, none is skipped but by all properties at
        /// once, and in the end the device has the newest.
        #[test]
        fn a_device_is_given_every_version_once_and_ends_with_the_newest(
            steps in proptest::collection::vec(step(), 0..80),
            room in 1..5usize,
        ) {
            let (mut hub, mut device) = (1u64, 0u64);
            let mut changes = Changes::new(0, room);
            changes.subscribed();
            let deliver = |changes: &mut Changes, device: &mut u64| {
                let Some(change) = changes.next() else { return Ok(()) };
                prop_assert!(change.version > *device, "{} after {device}", change.version);
                prop_assert!(change.is_whole || *device == 0 || change.version == *device + 1);
                *device = change.version;
                Ok(())
            };
            let mut is_known = false;
            for step in steps {
                match step {
                    Step::Write { arrives } => {
                        hub += 1;
                        if arrives {
                            changes.take(hub, Bytes::new());
                        }
                    }
                    Step::Deliver => deliver(&mut changes, &mut device)?,
                    Step::Reconnect => {
                        // What waited is lost with the links.
                        let known = if is_known { device } else { 0 };
                        changes = Changes::new(known, room);
                        changes.subscribed();
                    }
                    Step::Fetch if changes.is_behind() => {
                        changes.fetched(hub, Bytes::new());
                        // The first fetch only says where the device stands.
                        if device == 0 && changes.waiting.is_empty() {
                            device = hub;
                        }
                    }
                    Step::Fetch => {}
                    Step::Read => {
                        if changes.read(hub) || changes.waiting.is_empty() {
                            device = device.max(changes.passed());
                        }
                    }
                }
                is_known |= device != 0;
                prop_assert!(changes.waiting.len() <= room);
            }
            // The hub says one thing more, which arrives.
            hub += 1;
            changes.take(hub, Bytes::new());
            if changes.is_behind() {
                changes.fetched(hub, Bytes::new());
            }
            for _ in 0..=room {
                deliver(&mut changes, &mut device)?;
            }
            prop_assert_eq!(device, hub);
        }
    }
}
