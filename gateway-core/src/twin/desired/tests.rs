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
fn changes_that_waited_when_their_device_stopped_to_listen_come_with_all_when_it_listens_again() {
    let mut changes = taken(3, &[4, 5, 6]);
    assert_eq!(changes.pop().unwrap().version, 4);
    changes.unsubscribed();
    assert_eq!((changes.known(), changes.is_waiting()), (4, false));
    changes.subscribed();
    assert!(changes.fetched(6, Bytes::new()));
    let whole = changes.pop().unwrap();
    assert_eq!((whole.version, whole.is_whole), (6, true));
}

#[test]
fn in_the_place_of_a_change_without_a_version_come_all_properties() {
    for known in [0, 3] {
        let mut changes = taken(known, &[4, 0, 5]);
        assert!(changes.is_behind());
        assert_eq!(versions(&mut changes), [4]);
        assert!(changes.fetched(6, Bytes::new()));
        let whole = changes.pop().unwrap();
        assert_eq!((whole.version, whole.is_whole), (6, true));
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
    /// The device listens no more, and listens again.
    Pause,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|arrives| Step::Write { arrives }),
        4 => prop::bool::weighted(0.8).prop_map(|arrives| Step::Deliver { arrives }),
        1 => Just(Step::Reconnect),
        2 => any::<bool>().prop_map(|is_stale| Step::Fetch { is_stale }),
        1 => Just(Step::Read),
        1 => Just(Step::Pause),
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
    /// Whether it missed what it was given last, or was not given what it did not wait for.
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
                    // One that was given nothing asks for its twin itself.
                    model.has_missed &= model.known > 0;
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
                Step::Pause => {
                    model.has_missed |= model.changes.is_waiting();
                    model.changes.unsubscribed();
                    model.changes.subscribed();
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
