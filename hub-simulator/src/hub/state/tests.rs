//! Links that end late, and the clock of queues; the time is the tests' own.

use super::*;
use crate::limits::Limits;

fn state() -> HubState {
    let limits = Limits::default();
    HubState::new(Registry::new("hub.test", false), &limits, Arc::default())
}

#[test]
fn links_of_a_removed_device_are_not_taken_for_those_of_its_successor() {
    let mut state = state();
    state.registry.add("d");
    state.link_opened("d");
    state.link_opened("d");
    assert!(state.remove_device("d"));
    assert_eq!(state.attached, 0);
    state.registry.add("d");
    state.link_opened("d");
    // The connections of the first one get round to it.
    state.link_closed("d");
    state.link_closed("d");
    assert_eq!((state.attached, state.registry.add("d").links), (1, 1));
    state.link_closed("d");
    assert_eq!((state.attached, state.registry.add("d").links), (0, 0));
}

#[test]
fn a_device_has_one_timer_however_many_messages_it_has_taken() {
    let mut state = state();
    state.registry.add("d");
    let start = Now::read();
    for seconds in (0..3600).step_by(10) {
        let later = Duration::from_secs(seconds);
        let now = Now {
            instant: start.instant + later,
            system: start.system + later,
        };
        state.tick(now);
        state.enqueue("d", C2d::new("x"), now).unwrap();
        let delivery = state.next_message("d", now).unwrap();
        let settled = state.settle("d", delivery.lock, Verdict::Complete, now);
        settled.unwrap();
        assert!(state.timers.len() <= 1);
    }
    state.enqueue("d", C2d::new("x"), start).unwrap();
    state.remove_device("d");
    assert_eq!(state.next_deadline(), None);
}

#[test]
fn a_timer_that_rings_for_nothing_changes_nothing() {
    let mut state = state();
    state.registry.add("d");
    let mut now = Now::read();
    state.enqueue("d", C2d::new("x"), now).unwrap();
    let delivery = state.next_message("d", now).unwrap();
    let settled = state.settle("d", delivery.lock, Verdict::Complete, now);
    settled.unwrap();
    state.registry.track_changes();
    state.registry.take_changed();
    now.instant += DEFAULT_TTL;
    state.tick(now);
    assert!(state.registry.take_changed().is_empty());
}
