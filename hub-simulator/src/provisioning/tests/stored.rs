//! What of the state is stored.

use super::*;
use crate::provisioning::stored::Stored;
use crate::provisioning::table::Rows;

/// The state as it comes back from the store.
fn stored(state: &mut State) -> State {
    fn some<T>(rows: Rows<T>) -> Vec<(String, T)> {
        let some = |(id, row): (String, Option<T>)| Some((id, row?));
        rows.into_iter().filter_map(some).collect()
    }
    let changes = state.take_changes();
    let stored = Stored {
        service: serde_json::from_value(changes.service.unwrap()).unwrap(),
        individuals: some(changes.individuals),
        groups: some(changes.groups),
        registrations: some(changes.registrations),
    };
    stored.into()
}

#[test]
fn the_state_survives_being_stored() {
    let (mut state, group) = service();
    let key = group.derive("d");
    register(&mut state, "d", &key, &hubs(&["hub-0"]), at(0));
    state.track_changes();
    let mut state = stored(&mut state);
    let (reply, _) = register(&mut state, "d", &key, &hubs(&["hub-0", "hub-1"]), at(10));
    assert_eq!(reply.body["status"], "assigned");
    assert_eq!(state.id_scope, SCOPE);
    assert_eq!((state.loads.of("HUB-0"), state.loads.of("hub-1")), (1, 0));
}

#[test]
fn a_state_that_was_stored_as_one_is_still_read() {
    let (mut state, group) = service();
    register(
        &mut state,
        "d",
        &group.derive("d"),
        &hubs(&["hub-0"]),
        at(0),
    );
    state.track_changes();
    let changes = state.take_changes();
    let by_id = |rows: Value| -> Value {
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| (row[0].as_str().unwrap().to_owned(), row[1].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let mut whole = changes.service.unwrap();
    whole["individuals"] = by_id(json!(changes.individuals));
    whole["groups"] = by_id(json!(changes.groups));
    whole["registrations"] = by_id(json!(changes.registrations));
    let stored = Stored {
        service: serde_json::from_value(whole).unwrap(),
        individuals: Vec::new(),
        groups: Vec::new(),
        registrations: Vec::new(),
    };
    let mut state = State::from(stored);
    assert_eq!(
        state.registration("d").unwrap().hub.as_deref(),
        Some("hub-0")
    );
    assert_eq!(state.loads.of("hub-0"), 1);
    // It is stored as rows from then on.
    state.track_changes();
    let changes = state.take_changes();
    assert_eq!(changes.service.unwrap().get("registrations"), None);
    assert_eq!((changes.groups.len(), changes.registrations.len()), (1, 1));
}

#[test]
fn what_has_changed_is_stored_and_nothing_else() {
    let (mut state, group) = service();
    let linked = hubs(&["hub-0"]);
    for id in ["a", "b"] {
        register(&mut state, id, &group.derive(id), &linked, at(0));
    }
    state.track_changes();
    state.take_changes();
    assert!(state.take_changes().is_empty());
    register(&mut state, "b", &group.derive("b"), &linked, at(10));
    let changes = state.take_changes();
    assert!(changes.service.is_none() && changes.groups.is_empty());
    let ids: Vec<&str> = changes.registrations.iter().map(|(id, _)| &**id).collect();
    assert_eq!(ids, ["b"]);
    state.put_back(&changes);
    state.remove_registration("a", IfMatch(None)).unwrap();
    let rows = state.take_changes().registrations;
    let kept: Vec<_> = rows
        .iter()
        .map(|(id, row)| (&**id, row.is_some()))
        .collect();
    assert_eq!(kept, [("a", false), ("b", true)]);
}
