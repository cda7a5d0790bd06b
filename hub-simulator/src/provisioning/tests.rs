//! The service's state under registrations, enrolments and time, without protocols or hubs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::allocation::LinkedHub;
use super::enrolment::Kind;
use super::error::{Code, DpsError};
use super::key::Key;
use super::login::{Credentials, Login, Proof};
use super::service::{IfMatch, PageRequest};
use super::state::{Pace, Placement, Reply, State};
use crate::hub::sas::sign;

mod stored;

const SCOPE: &str = "0ne12345678";
const PACE: Pace = Pace {
    retry_after: Duration::from_secs(3),
    assigning: Duration::from_millis(200),
    throttled: false,
};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn hubs(names: &[&str]) -> Vec<LinkedHub> {
    let hub = |name: &&str| LinkedHub {
        host: (*name).to_owned(),
        weight: 1,
    };
    names.iter().map(hub).collect()
}

/// A service with the group `g`, and the group's key.
fn service() -> (State, Key) {
    let (mut state, key) = (State::new(Some(SCOPE.to_owned())), Key::random());
    state.keep_group("g", key.clone(), at(0));
    (state, key)
}

fn token(id: &str, key: &Key) -> String {
    let resource = format!("{SCOPE}/registrations/{id}");
    sign(&resource, key.bytes(), 1_800_000_000, Some("registration"))
}

fn log_in(state: &State, id: &str, key: &Key) -> Result<Login, DpsError> {
    state.log_in(SCOPE, id, Proof::Token(&token(id, key)), at(0))
}

fn put(state: &mut State, kind: Kind, id: &str, terms: Value) -> Result<Value, DpsError> {
    let mut terms = terms;
    if terms["attestation"].is_null() {
        terms["attestation"] = json!({ "type": "symmetricKey" });
    }
    let any = IfMatch(Some("*"));
    let linked = hubs(&["hub-0", "hub-1", "hub-2"]);
    state.put(kind, id, terms.to_string().as_bytes(), any, &linked, at(0))
}

/// Registers, and polls until the end; returns the last answer and what is to happen in the hubs.
fn register(
    state: &mut State,
    id: &str,
    key: &Key,
    linked: &[LinkedHub],
    now: SystemTime,
) -> (Reply, Option<Placement>) {
    let login = log_in(state, id, key).unwrap();
    let (first, placement) = state.register(&login, None, linked, &PACE, now).unwrap();
    assert_eq!((first.status, first.retry_after), (202, Some(3)));
    let operation = first.body["operationId"].as_str().unwrap();
    let last = state.operation_status(&login, operation, &PACE, now + PACE.assigning);
    (last.unwrap(), placement)
}

fn code<T: std::fmt::Debug>(result: Result<T, DpsError>) -> Code {
    result.unwrap_err().code
}

#[test]
fn a_device_of_a_group_is_assigned_under_its_derived_key() {
    let (mut state, group) = service();
    let key = group.derive("Meter-1");
    let (reply, placement) = register(&mut state, "Meter-1", &key, &hubs(&["hub-0"]), at(0));
    assert_eq!((reply.status, reply.retry_after), (200, None));
    let result = &reply.body["registrationState"];
    assert_eq!(reply.body["status"], "assigned");
    assert_eq!(result["assignedHub"], "hub-0");
    assert_eq!(result["deviceId"], "Meter-1");
    assert_eq!(result["substatus"], "initialAssignment");
    assert_eq!(result["symmetricKey"], json!({ "enrollmentGroupId": "g" }));
    let Credentials::Keys(keys) = placement.unwrap().credentials else {
        panic!("not keys");
    };
    assert_eq!(keys.primary_key, key);
}

#[test]
fn an_operation_is_under_way_before_it_ends_and_unknown_to_others() {
    let (mut state, group) = service();
    let login = log_in(&state, "d", &group.derive("d")).unwrap();
    let linked = hubs(&["hub-0"]);
    let (first, _) = state.register(&login, None, &linked, &PACE, at(0)).unwrap();
    let operation = first.body["operationId"].as_str().unwrap();
    let poll = state
        .operation_status(&login, operation, &PACE, at(0))
        .unwrap();
    assert_eq!((poll.status, poll.retry_after), (202, Some(3)));
    assert_eq!(poll.body["status"], "assigning");
    let other = log_in(&state, "e", &group.derive("e")).unwrap();
    assert_eq!(
        code(state.operation_status(&other, operation, &PACE, at(1))),
        Code::OperationNotFound
    );
    assert_eq!(
        code(state.operation_status(&login, operation, &PACE, at(100_000))),
        Code::OperationNotFound
    );
}

#[test]
fn who_cannot_prove_to_be_enrolled_is_not_let_in() {
    let (mut state, group) = service();
    let good = group.derive("d");
    let try_token = |state: &State, scope: &str, id: &str, text: &str| {
        code(state.log_in(scope, id, Proof::Token(text), at(0)))
    };
    let text = token("d", &good);
    assert_eq!(
        try_token(&state, "0neOTHER", "d", &text),
        Code::ServiceNotFound
    );
    assert_eq!(try_token(&state, SCOPE, "e", &text), Code::Unauthorized);
    assert_eq!(
        try_token(&state, SCOPE, "d", "nonsense"),
        Code::Unauthorized
    );
    assert_eq!(
        try_token(&state, SCOPE, "d", &token("d", &Key::random())),
        Code::Unauthorized
    );
    assert_eq!(
        try_token(&state, SCOPE, "no id", &text),
        Code::InvalidArgument
    );
    let resource = format!("{SCOPE}/registrations/d");
    let old = sign(&resource, good.bytes(), 1, Some("registration"));
    assert_eq!(try_token(&state, SCOPE, "d", &old), Code::Unauthorized);
    let foreign = sign(&resource, good.bytes(), 1_800_000_000, Some("device"));
    assert_eq!(try_token(&state, SCOPE, "d", &foreign), Code::Unauthorized);
    // An individual enrolment goes before the group, whose key is good no longer.
    let login = log_in(&state, "d", &good).unwrap();
    put(&mut state, Kind::Individual, "D", json!({})).unwrap();
    assert_eq!(try_token(&state, SCOPE, "d", &text), Code::Unauthorized);
    assert_eq!(
        code(state.register(&login, None, &hubs(&["hub-0"]), &PACE, at(0))),
        Code::Unauthorized
    );
}

#[test]
fn a_disabled_enrolment_ends_in_the_status_disabled() {
    let (mut state, group) = service();
    put(
        &mut state,
        Kind::Group,
        "g",
        json!({ "provisioningStatus": "disabled" }),
    )
    .unwrap();
    let (reply, placement) = register(
        &mut state,
        "d",
        &group.derive("d"),
        &hubs(&["hub-0"]),
        at(0),
    );
    assert_eq!(reply.body["status"], "disabled");
    assert_eq!(placement, None);
}

#[test]
fn without_a_hub_to_go_to_a_registration_fails() {
    let (mut state, group) = service();
    let (reply, placement) = register(&mut state, "d", &group.derive("d"), &[], at(0));
    assert_eq!(reply.body["status"], "failed");
    assert_eq!(reply.body["registrationState"]["errorCode"], 400_208);
    assert_eq!(placement, None);
}

#[test]
fn what_a_device_keeps_when_it_moves_is_for_its_enrolment_to_say() {
    for (policy, substatus, hub, migrate) in [
        (Value::Null, "deviceDataMigrated", "hub-1", Some(true)),
        (
            json!({ "updateHubAssignment": true, "migrateDeviceData": false }),
            "deviceDataReset",
            "hub-1",
            Some(false),
        ),
        (
            json!({ "updateHubAssignment": false, "migrateDeviceData": false }),
            "initialAssignment",
            "hub-0",
            None,
        ),
    ] {
        let (mut state, group) = service();
        put(
            &mut state,
            Kind::Group,
            "g",
            json!({ "reprovisionPolicy": policy }),
        )
        .unwrap();
        let key = group.derive("d");
        register(&mut state, "d", &key, &hubs(&["hub-0"]), at(0));
        let (reply, placement) = register(&mut state, "d", &key, &hubs(&["hub-1"]), at(10));
        let result = &reply.body["registrationState"];
        assert_eq!(
            (&result["assignedHub"], &result["substatus"]),
            (&json!(hub), &json!(substatus))
        );
        let from = placement.and_then(|placement| placement.from);
        assert_eq!(from.map(|from| from.migrate), migrate);
    }
}

#[test]
fn a_device_that_registers_again_stays_where_it_is() {
    let (mut state, group) = service();
    let key = group.derive("d");
    let linked = hubs(&["hub-0", "hub-1", "hub-2"]);
    let (first, _) = register(&mut state, "d", &key, &linked, at(0));
    let (again, placement) = register(&mut state, "D", &group.derive("D"), &linked, at(10));
    let hub = |reply: &Reply| reply.body["registrationState"]["assignedHub"].clone();
    assert_eq!(hub(&first), hub(&again));
    let state = &again.body["registrationState"];
    assert_eq!(state["substatus"], "reprovisionedToInitialAssignment");
    assert_eq!(state["deviceId"], "d");
    assert_eq!(placement.unwrap().from, None);
}

#[test]
fn an_enrolment_is_written_under_its_etag_only() {
    let (mut state, _) = service();
    let linked = hubs(&["hub-0"]);
    let body = json!({ "registrationId": "d", "attestation": { "type": "symmetricKey" } });
    let body = body.to_string();
    let mut write = |if_match: Option<&str>| {
        let condition = IfMatch(if_match);
        let kind = Kind::Individual;
        state.put(kind, "d", body.as_bytes(), condition, &linked, at(0))
    };
    let first = write(None).unwrap();
    assert_eq!(code(write(None)), Code::EnrollmentExists);
    assert_eq!(code(write(Some("other"))), Code::PreconditionFailed);
    let quoted = format!("\"{}\"", first["etag"].as_str().unwrap());
    let second = write(Some(&quoted)).unwrap();
    // Keys that are not given stay.
    assert_eq!(first["attestation"], second["attestation"]);
    let shown = state.show(Kind::Individual, "d", at(0)).unwrap();
    assert_eq!(shown["attestation"], json!({ "type": "symmetricKey" }));
    assert_eq!(shown["registrationState"]["status"], "unassigned");
    assert_eq!(shown["provisioningStatus"], "enabled");
    assert_eq!(
        code(state.remove(Kind::Individual, "d", IfMatch(Some("other")))),
        Code::PreconditionFailed
    );
    state.remove(Kind::Individual, "d", IfMatch(None)).unwrap();
    assert_eq!(
        code(state.show(Kind::Individual, "d", at(0))),
        Code::EnrollmentNotFound
    );
}

#[test]
fn what_the_simulator_does_not_do_is_refused_with_a_reason() {
    let (mut state, _) = service();
    for terms in [
        json!({ "attestation": { "type": "tpm", "tpm": { "endorsementKey": "AA==" } } }),
        json!({ "allocationPolicy": "custom" }),
        json!({ "deviceId": "device/module" }),
        json!({ "attestation": { "type": "symmetricKey", "symmetricKey": { "primaryKey": "short" } } }),
    ] {
        let error = put(&mut state, Kind::Individual, "d", terms).unwrap_err();
        assert_eq!((error.status(), error.code), (400, Code::InvalidArgument));
    }
    let error = put(
        &mut state,
        Kind::Individual,
        "d",
        json!({ "iotHubs": ["elsewhere"] }),
    );
    assert_eq!(code(error), Code::IotHubNotLinked);
}

#[test]
fn bulk_operations_tell_of_each_enrolment_that_failed() {
    let (mut state, _) = service();
    let linked = hubs(&["hub-0"]);
    let mut bulk = |mode: &str| {
        let enrolment =
            |id: &str| json!({ "registrationId": id, "attestation": { "type": "symmetricKey" } });
        let body = json!({ "mode": mode, "enrollments": [enrolment("a"), enrolment("b")] });
        let body = body.to_string();
        state
            .bulk(Kind::Individual, body.as_bytes(), &linked, at(0))
            .unwrap()
    };
    assert_eq!(
        bulk("create"),
        json!({ "isSuccessful": true, "errors": [] })
    );
    // As the real service was seen to answer an update without an etag.
    let failed = |id: &str| {
        json!({
            "registrationId": id, "errorCode": 409_201, "errorStatus": "Enrollment already exists.",
        })
    };
    let errors = json!([failed("a"), failed("b")]);
    assert_eq!(
        bulk("update"),
        json!({ "isSuccessful": false, "errors": errors })
    );
    assert_eq!(bulk("delete")["isSuccessful"], true);
    assert_eq!(bulk("delete")["errors"][1]["errorCode"], 404_201);
}

#[test]
fn a_query_comes_in_pages_that_hold_everything_once() {
    let (mut state, _) = service();
    let ids: Vec<String> = (0..7).map(|number| format!("d-{number}")).collect();
    for id in &ids {
        put(&mut state, Kind::Individual, id, json!({})).unwrap();
    }
    let (mut found, mut continuation) = (Vec::new(), None::<String>);
    loop {
        let page = PageRequest {
            continuation: continuation.as_deref(),
            size: Some(3),
        };
        let query = br#"{"query":"SELECT * FROM enrollments"}"#;
        let page = state.query(Kind::Individual, query, page).unwrap();
        assert!(page.items.len() <= 3);
        let id = |item: &Value| item["registrationId"].as_str().unwrap().to_owned();
        found.extend(page.items.iter().map(id));
        continuation = page.continuation;
        if continuation.is_none() {
            break;
        }
    }
    assert_eq!(found, ids);
}

#[test]
fn hubs_are_filled_by_what_is_registered_now() {
    let (mut state, group) = service();
    let terms = json!({ "allocationPolicy": "geoLatency" });
    put(&mut state, Kind::Group, "g", terms).unwrap();
    let group = match state.keys_of(Kind::Group, "g") {
        Some(keys) => Key::parse(&keys.primary).unwrap(),
        None => group,
    };
    let linked = hubs(&["hub-0", "hub-1"]);
    let assigned = |state: &mut State, id: &str| {
        let (reply, _) = register(state, id, &group.derive(id), &linked, at(0));
        reply.body["registrationState"]["assignedHub"].clone()
    };
    for (id, hub) in [
        ("a", "hub-0"),
        ("b", "hub-1"),
        ("c", "hub-0"),
        ("d", "hub-1"),
    ] {
        assert_eq!(assigned(&mut state, id), hub);
    }
    for id in ["b", "d"] {
        state.remove_registration(id, IfMatch(None)).unwrap();
    }
    for (id, hub) in [("e", "hub-1"), ("f", "hub-1"), ("g", "hub-0")] {
        assert_eq!(assigned(&mut state, id), hub);
    }
}

#[test]
fn the_rate_limits_hold_when_they_are_on() {
    let (mut state, group) = service();
    let throttled = Pace {
        throttled: true,
        ..PACE
    };
    let login = log_in(&state, "d", &group.derive("d")).unwrap();
    let linked = hubs(&["hub-0"]);
    let (first, _) = state
        .register(&login, None, &linked, &throttled, at(0))
        .unwrap();
    let operation = first.body["operationId"].as_str().unwrap();
    let mut poll = |second| state.operation_status(&login, operation, &throttled, at(second));
    for second in 0..5 {
        poll(second).unwrap();
    }
    let refused = poll(5).unwrap_err();
    assert_eq!(refused.code, Code::Throttled);
    assert!(refused.retry_after.is_some());
    poll(10).unwrap();
}

/// What can happen to a service, for devices and hubs by number.
#[derive(Debug, Clone)]
enum Step {
    Register { device: u8 },
    Policy { reprovision: u8, allocation: u8 },
    Link { hubs: u8 },
    Enrol { device: u8, hub: u8 },
    Withdraw { device: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u8).prop_map(|device| Step::Register { device }),
        1 => (0..3u8, 0..2u8).prop_map(|(reprovision, allocation)| Step::Policy { reprovision, allocation }),
        1 => (0..8u8).prop_map(|hubs| Step::Link { hubs }),
        1 => (0..4u8, 0..3u8).prop_map(|(device, hub)| Step::Enrol { device, hub }),
        1 => (0..4u8).prop_map(|device| Step::Withdraw { device }),
    ]
}

proptest! {
    /// Whatever happens, a device that was assigned is in exactly the hub that it was told, and one
    /// whose enrolment never moves devices stays where it came first.
    #[test]
    fn a_registration_ends_on_exactly_one_hub(steps in proptest::collection::vec(step(), 1..60)) {
        const HUBS: [&str; 3] = ["hub-0", "hub-1", "hub-2"];
        let (mut state, group) = service();
        let mut linked = hubs(&HUBS);
        let mut devices: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            let now = at(10 * number as u64);
            match step {
                Step::Link { hubs: bits } => {
                    let chosen: Vec<&str> = (0..3).filter(|bit| bits & 1 << bit != 0).map(|bit| HUBS[bit]).collect();
                    linked = hubs(&chosen);
                }
                Step::Policy { reprovision, allocation } => {
                    let policy = json!({ "updateHubAssignment": reprovision > 0, "migrateDeviceData": reprovision > 1 });
                    let allocation = ["hashed", "geoLatency"][usize::from(allocation)];
                    put(&mut state, Kind::Group, "g", json!({ "reprovisionPolicy": policy, "allocationPolicy": allocation })).unwrap();
                }
                Step::Enrol { device, hub } => {
                    let terms = json!({ "allocationPolicy": "static", "iotHubs": [HUBS[usize::from(hub)]] });
                    put(&mut state, Kind::Individual, &format!("d-{device}"), terms).unwrap();
                }
                Step::Withdraw { device } => {
                    // Its device stays in the hub, of which the service knows nothing any more.
                    let id = format!("d-{device}");
                    if state.remove(Kind::Individual, &id, IfMatch(None)).is_ok() {
                        devices.values_mut().for_each(|hub| { hub.remove(&id); });
                    }
                }
                Step::Register { device } => {
                    let id = format!("d-{device}");
                    let key = match state.keys_of(Kind::Individual, &id) {
                        Some(keys) => Key::parse(&keys.primary).unwrap(),
                        None => group.derive(&id),
                    };
                    let before = state.registration(&id).and_then(|known| known.hub.clone());
                    let (reply, placement) = register(&mut state, &id, &key, &linked, now);
                    if let Some(placement) = placement {
                        prop_assert!(placement.if_missing || linked.iter().any(|hub| hub.host == placement.hub));
                        if let Some(from) = &placement.from {
                            prop_assert_eq!(Some(&from.hub), before.as_ref());
                            let left = devices.get_mut(&from.hub).is_some_and(|hub| hub.remove(&from.device_id));
                            prop_assert!(left);
                        }
                        devices.entry(placement.hub).or_default().insert(placement.device_id);
                    }
                    let result = &reply.body["registrationState"];
                    if reply.body["status"] == "assigned" {
                        let holders: Vec<&String> = devices.iter().filter(|(_, ids)| ids.contains(&id)).map(|(hub, _)| hub).collect();
                        prop_assert_eq!(holders, vec![result["assignedHub"].as_str().unwrap()]);
                        let stays = result["substatus"] == "initialAssignment" && before.is_some();
                        prop_assert!(!stays || result["assignedHub"].as_str() == before.as_deref());
                    } else {
                        prop_assert_eq!(&reply.body["status"], "failed");
                    }
                }
            }
        }
    }

    /// No request body makes the service panic, and what is refused changes nothing.
    #[test]
    fn no_body_harms_the_service(body in proptest::collection::vec(any::<u8>(), 0..80), text in r#"\{("[a-zA-Z]{1,12}":("[a-z]*"|\{\}|null|[0-9]),?){0,6}\}"#) {
        let (mut state, _) = service();
        let linked = hubs(&["hub-0"]);
        for body in [body.as_slice(), text.as_bytes()] {
            for kind in [Kind::Individual, Kind::Group] {
                if state.put(kind, "x", body, IfMatch(None), &linked, at(0)).is_err() {
                    prop_assert!(state.enrolment_of(kind, "x").is_err());
                }
                drop(state.bulk(kind, body, &linked, at(0)));
                drop(state.query(kind, body, PageRequest::default()));
            }
        }
    }
}
