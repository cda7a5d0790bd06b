//! What a device's desired properties are, which changes of them it was given, and which it missed.
//! Pure.

use std::collections::VecDeque;
use std::mem;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::id::DeviceId;
use crate::message::DesiredPatch;

/// Reads `$version` of a JSON object of properties; none if it has none.
#[must_use]
pub fn version_of(properties: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Versioned {
        #[serde(rename = "$version")]
        version: u64,
    }
    let properties = serde_json::from_slice::<Versioned>(properties).ok()?;
    Some(properties.version)
}

/// Finds the desired properties in a twin's JSON, as they were written, with their version; none if
/// they are not there or have no version.
#[must_use]
pub fn desired_of(twin: &Bytes) -> Option<(u64, Bytes)> {
    #[derive(Deserialize)]
    struct Twin<'a> {
        #[serde(borrow)]
        desired: &'a RawValue,
    }
    let text = serde_json::from_slice::<Twin<'_>>(twin).ok()?.desired.get();
    let desired = twin.slice_ref(text.as_bytes());
    Some((version_of(&desired)?, desired))
}

/// Is a change of desired properties on its way to the device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DesiredChange {
    /// The version after it; 0 if the hub did not say it.
    pub version: u64,
    /// A JSON object.
    pub body: Bytes,
    /// Whether the body is all desired properties.
    pub is_whole: bool,
}

impl DesiredChange {
    /// Makes what the device is given of it.
    #[must_use]
    pub fn patch(&self, device: DeviceId) -> DesiredPatch {
        let patch = DesiredPatch::new(device, self.version, self.body.clone());
        match self.is_whole {
            true => patch.whole(),
            false => patch,
        }
    }
}

/// Passes changes of a device's desired properties on in the order of their versions, each once, for
/// an [`Upstream`](crate::Upstream) whose hub tells of changes and answers what there is.
///
/// Where a change is missing, all desired properties are to be fetched; they come in the place of what
/// was missed. Nothing is made up for a device that was given nothing yet: it reads its twin itself.
#[derive(Debug)]
pub struct DesiredChanges {
    /// The version of the newest change passed on, or read by the device itself; 0 if none is known.
    passed: u64,
    /// What the hub had when it was first asked, for a device to which nothing was passed on.
    base: u64,
    /// The newest version that the hub has told of.
    told: u64,
    /// Something may have been missed: until it is fetched, single changes are of no use.
    is_behind: bool,
    /// The device may lack a change that was passed on: what is fetched next is for it.
    owes_whole: bool,
    /// The version of the change taken out last.
    given: u64,
    waiting: VecDeque<DesiredChange>,
    /// Changes that may wait; what is beyond is fetched later.
    room: usize,
}

impl DesiredChanges {
    /// Begins anew with a device that has had changes up to `known`, 0 if none. So many changes may
    /// wait to be passed on; what is beyond is fetched later.
    #[must_use]
    pub fn new(known: u64, room: usize) -> Self {
        Self {
            passed: known,
            base: 0,
            told: 0,
            is_behind: false,
            owes_whole: false,
            given: 0,
            waiting: VecDeque::new(),
            room,
        }
    }

    /// Takes note that the hub tells of changes from now on, which it did not before.
    pub fn subscribed(&mut self) {
        self.is_behind = true;
        self.told = 0;
    }

    /// Takes note that the hub tells of nothing any more.
    pub fn unsubscribed(&mut self) {
        self.is_behind = false;
        self.waiting.clear();
    }

    /// Takes note that the device may lack the change taken out last, as after
    /// [`Disposition::Abandon`](crate::Disposition::Abandon). What builds on it is dropped, and all
    /// desired properties are to be fetched, after a while; they are passed on whatever their version.
    pub fn missed(&mut self) {
        self.is_behind = true;
        self.owes_whole = true;
        self.waiting.clear();
        (self.passed, self.base) = (self.given.saturating_sub(1), 0);
    }

    /// Tells whether all desired properties are to be fetched.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Takes a change of which the hub tells.
    pub fn take(&mut self, version: u64, body: Bytes) {
        self.told = self.told.max(version);
        // The last version of all has no next one.
        let before = version.saturating_sub(1);
        let is_next = match (self.passed, self.base) {
            _ if self.owes_whole => false,
            // Nothing can be missing yet.
            (0, 0) => true,
            (0, base) => before <= base,
            (passed, _) => before == passed && !self.is_behind,
        };
        let has_room = self.waiting.len() < self.room;
        if has_room && (is_next || version == 0) {
            self.passed = self.passed.max(version);
            self.waiting.push_back(DesiredChange {
                version,
                body,
                is_whole: false,
            });
        } else if version > self.passed {
            self.is_behind = true;
        }
    }

    /// Takes all desired properties, as they were fetched. False if they are older than what the hub has told of: they
    /// are to be fetched again.
    pub fn fetched(&mut self, version: u64, body: Bytes) -> bool {
        if version < self.told {
            return false;
        }
        self.is_behind = false;
        let owes_whole = mem::take(&mut self.owes_whole);
        if self.known() == 0 && !owes_whole {
            // A device that was given nothing asks for its twin itself.
            self.base = version;
        } else if self.known() != version || owes_whole {
            // A lower version is that of a twin that was made anew.
            self.passed = version;
            self.waiting.clear();
            self.waiting.push_back(DesiredChange {
                version,
                body,
                is_whole: true,
            });
        }
        true
    }

    /// Takes note that the device has read its twin itself. True if that brought news.
    pub fn read(&mut self, version: u64) -> bool {
        let is_newer = version > self.passed;
        if is_newer {
            self.passed = version;
            self.owes_whole = false;
            self.waiting.clear();
        }
        is_newer
    }

    /// Tells the version from which on the device is not to miss anything; 0 if none is known.
    #[must_use]
    pub fn known(&self) -> u64 {
        match self.passed {
            0 => self.base,
            passed => passed,
        }
    }

    /// Tells whether a change waits to be passed on.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes out the next change to pass on.
    pub fn pop(&mut self) -> Option<DesiredChange> {
        let change = self.waiting.pop_front()?;
        self.given = change.version;
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_desired_half_of_a_twin_is_found_as_it_was_written() {
        let twin = Bytes::from_static(
            br#"{"desired": {"a": 1.50, "$version": 7}, "reported": {"$version": 2}}"#,
        );
        let (version, body) = desired_of(&twin).unwrap();
        assert_eq!(
            (version, &body[..]),
            (7, &br#"{"a": 1.50, "$version": 7}"#[..])
        );
        for text in [
            "",
            "{}",
            "[]",
            r#"{"desired":{}}"#,
            r#"{"desired":{"$version":"x"}}"#,
        ] {
            assert!(
                desired_of(&Bytes::from_static(text.as_bytes())).is_none(),
                "{text}"
            );
        }
    }

    fn versions(changes: &mut DesiredChanges) -> Vec<u64> {
        std::iter::from_fn(|| changes.pop())
            .map(|c| c.version)
            .collect()
    }

    fn taken(known: u64, told: &[u64]) -> DesiredChanges {
        let mut changes = DesiredChanges::new(known, 8);
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
        let whole = changes.pop().unwrap();
        assert!(whole.is_whole);
        assert_eq!((whole.version, &whole.body[..]), (7, &b"all"[..]));
        changes.take(7, Bytes::new());
        changes.take(8, Bytes::new());
        assert_eq!(versions(&mut changes), [8]);
    }

    #[test]
    fn nothing_is_made_up_for_a_device_that_was_given_nothing() {
        let mut changes = DesiredChanges::new(0, 8);
        changes.subscribed();
        assert!(changes.fetched(5, Bytes::new()));
        assert!(versions(&mut changes).is_empty());
        assert_eq!(changes.known(), 5);
        changes.take(6, Bytes::new());
        assert_eq!(versions(&mut changes), [6]);
    }

    #[test]
    fn a_change_that_is_told_behind_the_first_fetch_that_shows_it_passes() {
        let mut changes = DesiredChanges::new(0, 8);
        changes.subscribed();
        changes.fetched(6, Bytes::new());
        changes.take(5, Bytes::new());
        changes.take(6, Bytes::new());
        assert_eq!(versions(&mut changes), [5, 6]);
        assert!(!changes.is_behind());
    }

    #[test]
    fn what_is_fetched_is_not_believed_if_the_hub_has_told_of_more() {
        let mut changes = DesiredChanges::new(4, 8);
        changes.subscribed();
        changes.take(5, Bytes::new());
        assert!(!changes.fetched(4, Bytes::new()));
        assert!(changes.is_behind() && versions(&mut changes).is_empty());
        assert!(changes.fetched(5, Bytes::new()));
        assert_eq!(versions(&mut changes), [5]);
    }

    #[test]
    fn a_change_between_the_first_subscription_and_its_fetch_passes() {
        let mut changes = DesiredChanges::new(0, 8);
        changes.subscribed();
        changes.take(6, Bytes::new());
        changes.fetched(6, Bytes::new());
        assert_eq!(versions(&mut changes), [6]);
        assert!(!changes.is_behind());
    }

    #[test]
    fn a_twin_made_anew_comes_though_its_version_is_lower() {
        let mut changes = DesiredChanges::new(9, 8);
        changes.subscribed();
        changes.fetched(1, Bytes::new());
        assert_eq!(versions(&mut changes), [1]);
        changes.take(2, Bytes::new());
        assert_eq!(versions(&mut changes), [2]);
    }

    #[test]
    fn what_a_device_read_itself_is_not_told_again() {
        let mut changes = taken(3, &[4, 5]);
        assert!(!changes.read(5), "it is about to be given both");
        assert!(changes.read(6));
        assert!(versions(&mut changes).is_empty());
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

    #[test]
    fn a_change_that_its_device_missed_comes_again_with_all_and_nothing_builds_on_it() {
        for known in [0, 3] {
            let mut changes = taken(known, &[4, 5]);
            assert_eq!(changes.pop().unwrap().version, 4);
            changes.missed();
            assert_eq!(changes.known(), 3);
            changes.take(6, Bytes::new());
            assert!(changes.is_behind() && !changes.is_waiting());
            assert!(!changes.fetched(5, Bytes::new()));
            assert!(changes.fetched(6, Bytes::new()));
            let whole = changes.pop().unwrap();
            assert_eq!((whole.version, whole.is_whole), (6, true));
            changes.missed();
            assert!(changes.fetched(6, Bytes::new()));
            assert_eq!(changes.pop().unwrap(), whole, "it was missed too");
            changes.take(7, Bytes::new());
            assert_eq!(versions(&mut changes), [7]);
        }
    }

    #[test]
    fn the_first_version_of_all_comes_again_if_its_device_missed_it() {
        let mut changes = taken(0, &[1]);
        assert_eq!(versions(&mut changes), [1]);
        changes.missed();
        assert!(changes.fetched(1, Bytes::new()));
        assert_eq!(versions(&mut changes), [1]);
    }

    #[test]
    fn a_device_that_reads_what_it_missed_is_not_told_again() {
        let mut changes = taken(3, &[4]);
        assert_eq!(versions(&mut changes), [4]);
        changes.missed();
        assert!(!changes.read(3), "what it read is older");
        assert!(changes.read(4));
        assert!(changes.fetched(4, Bytes::new()));
        assert!(versions(&mut changes).is_empty());
    }

    #[test]
    fn versions_end_without_a_next_one() {
        let mut changes = taken(u64::MAX - 1, &[u64::MAX, u64::MAX]);
        assert_eq!(versions(&mut changes), [u64::MAX]);
        let mut changes = DesiredChanges::new(0, 8);
        changes.fetched(u64::MAX, Bytes::new());
        changes.take(u64::MAX, Bytes::new());
        assert_eq!(versions(&mut changes), [u64::MAX]);
        changes.missed();
        changes.fetched(u64::MAX, Bytes::new());
        assert_eq!(versions(&mut changes), [u64::MAX]);
    }

    /// What can happen between a hub and a device.
    #[derive(Debug, Clone)]
    enum Step {
        /// The hub's properties change; the notice arrives or is lost.
        Write { arrives: bool },
        /// The device is given the next change, and has it or not.
        Deliver { arrives: bool },
        /// The links are lost, and come again.
        Reconnect,
        /// A fetch that is due is answered, perhaps with what was before the last change.
        Fetch { is_stale: bool },
        /// The device reads its twin itself.
        Read,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<bool>().prop_map(|arrives| Step::Write { arrives }),
            4 => prop::bool::weighted(0.8).prop_map(|arrives| Step::Deliver { arrives }),
            1 => Just(Step::Reconnect),
            2 => any::<bool>().prop_map(|is_stale| Step::Fetch { is_stale }),
            1 => Just(Step::Read),
        ]
    }

    /// A device with its hub.
    struct Model {
        changes: DesiredChanges,
        hub: u64,
        /// The newest version that the device has.
        device: u64,
        /// What is remembered of the device over a loss of its links.
        known: u64,
        /// Whether it missed what it was given last.
        has_missed: bool,
    }

    impl Model {
        fn deliver(&mut self, arrives: bool) -> Result<(), TestCaseError> {
            let Some(change) = self.changes.pop() else {
                return Ok(());
            };
            let (version, device) = (change.version, self.device);
            prop_assert!(version > device, "{} after {}", version, device);
            let is_next = device == 0 || version == device + 1;
            prop_assert!(change.is_whole || is_next, "{} after {}", version, device);
            prop_assert!(
                change.is_whole || !self.has_missed,
                "{} after a miss",
                version
            );
            self.has_missed = !arrives;
            if arrives {
                self.device = version;
                self.known = self.known.max(version);
            } else {
                self.changes.missed();
                self.known = self.known.max(self.changes.known());
            }
            Ok(())
        }

        fn fetch(&mut self, version: u64) {
            if self.changes.is_behind() && self.changes.fetched(version, Bytes::new()) {
                self.remember();
            }
        }

        /// As whoever owns the changes does: what is still on its way to the device may be lost.
        fn remember(&mut self) {
            if self.known == 0 && self.changes.waiting.is_empty() {
                self.known = self.changes.known();
            }
        }
    }

    proptest! {
        /// Whatever is lost, no version is given twice, none is skipped but by all properties at
        /// once, and in the end the device has the newest.
        #[test]
        fn a_device_is_given_every_version_once_and_ends_with_the_newest(
            steps in proptest::collection::vec(step(), 0..80),
            room in 1..5usize,
            // With all steps' changes, the last one may be that of the last version of all.
            first in prop_oneof![Just(1), Just(u64::MAX - 81)],
        ) {
            let mut model = Model {
                changes: DesiredChanges::new(0, room),
                hub: first,
                device: 0,
                known: 0,
                has_missed: false,
            };
            model.changes.subscribed();
            for step in steps {
                match step {
                    Step::Write { arrives } => {
                        model.hub += 1;
                        if arrives {
                            model.changes.take(model.hub, Bytes::new());
                        }
                    }
                    Step::Deliver { arrives } => model.deliver(arrives)?,
                    Step::Reconnect => {
                        model.changes = DesiredChanges::new(model.known, room);
                        model.changes.subscribed();
                    }
                    // What is older than what the device has is believed of a new twin only.
                    Step::Fetch { is_stale } => {
                        let is_stale = is_stale && model.hub > model.known.max(model.device) + 1;
                        model.fetch(model.hub - u64::from(is_stale));
                    }
                    Step::Read => {
                        if model.changes.read(model.hub) {
                            model.device = model.hub;
                            model.known = model.hub;
                            model.has_missed = false;
                        }
                    }
                }
                prop_assert!(model.changes.waiting.len() <= room);
            }
            // The hub says one thing more, which arrives.
            model.hub += 1;
            model.changes.take(model.hub, Bytes::new());
            model.fetch(model.hub);
            for _ in 0..=room {
                model.deliver(true)?;
            }
            prop_assert_eq!(model.device, model.hub);
        }
    }
}
