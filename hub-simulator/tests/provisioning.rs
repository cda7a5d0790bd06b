//! Provisioning over HTTPS, the service API, and what provisioning does in the hubs.
#![allow(clippy::unwrap_used, reason = "a test file")]

#[path = "support/dps.rs"]
mod dps;
#[path = "support/http.rs"]
mod http;
mod support;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use dps::{at_once, derive, device, grouped};
use fe2o3_amqp::connection::Connection;
use http::{Http, Reply};
use hub_simulator::{HubSimulator, ProvisioningOptions};
use serde_json::{Value, json};
use support::{Client, soon, token};
use tokio::net::TcpStream;
use tokio::task::yield_now;

async fn hub() -> HubSimulator {
    let builder = HubSimulator::builder().with_tls(false);
    builder.with_provisioning(at_once()).start().await.unwrap()
}

/// Registers over HTTP and polls; returns the last answer.
async fn register(hub: &HubSimulator, token: &str, path: &str) -> Reply {
    let mut http = Http::connect(hub, token).await;
    let path = format!("{path}/register");
    let first = http.ask("PUT", &path, &[], b"{}").await;
    if first.status != 202 {
        return first;
    }
    assert_eq!(first.header("retry-after"), "0");
    let operation = first.json()["operationId"].as_str().unwrap().to_owned();
    let path = path.replace("/register", &format!("/operations/{operation}"));
    http.get(&path).await
}

async fn assigned(hub: &HubSimulator, id: &str) -> Value {
    let (token, path) = grouped(hub, id);
    let reply = register(hub, &token, &path).await;
    assert_eq!(reply.status, 200);
    let mut body = reply.json();
    assert_eq!(body["status"], "assigned");
    body["registrationState"].take()
}

#[tokio::test]
async fn a_device_connects_to_its_hub_with_the_key_that_it_registered_with() {
    let hub = hub().await;
    let state = assigned(&hub, "meter-1").await;
    assert_eq!(state["assignedHub"], hub.host());
    let key = BASE64.encode(derive(&hub.provisioning().group_key(), "meter-1"));
    assert_eq!(hub.device_keys("meter-1").unwrap().primary, key);
    let string = format!(
        "HostName={};DeviceId=meter-1;SharedAccessKey={key}",
        hub.host()
    );
    let mut client = Client::connect(&hub).await;
    client.authorize(&string, "meter-1").await;
    drop(client.telemetry("meter-1").await);
}

#[tokio::test]
async fn an_assignment_is_under_way_for_its_time() {
    let options = ProvisioningOptions::default().with_assigning(Duration::from_secs(3600));
    let builder = HubSimulator::builder().with_tls(false);
    let hub = builder.with_provisioning(options).start().await.unwrap();
    let (token, path) = grouped(&hub, "d");
    let mut http = Http::connect(&hub, &token).await;
    let first = http.ask("PUT", &format!("{path}/register"), &[], b"").await;
    assert_eq!((first.status, first.header("retry-after")), (202, "3"));
    let operation = first.json()["operationId"].as_str().unwrap().to_owned();
    let poll = http.get(&format!("{path}/operations/{operation}")).await;
    assert_eq!((poll.status, poll.header("retry-after")), (202, "3"));
    assert_eq!(poll.json()["status"], "assigning");
}

#[tokio::test]
async fn a_device_without_a_good_token_is_unauthorized() {
    let hub = hub().await;
    let (_, path) = grouped(&hub, "d");
    for token in [
        String::new(),
        "SharedAccessSignature nonsense".to_owned(),
        device(&hub, "d", b"another key").0,
        grouped(&hub, "e").0,
    ] {
        let reply = register(&hub, &token, &path).await;
        assert_eq!(reply.status, 401);
        assert_eq!(reply.header("x-ms-error-code"), "401002");
        let body = reply.json();
        assert_eq!(body["errorCode"], 401_002);
        assert!(body["trackingId"].is_string() && body["timestampUtc"].is_string());
    }
    assert_eq!(hub.device_keys("d"), None);
}

#[tokio::test]
async fn a_disabled_enrolment_lets_nobody_into_a_hub() {
    let hub = hub().await;
    assert!(hub.provisioning().disable_enrolment("default"));
    let (token, path) = grouped(&hub, "d");
    let reply = register(&hub, &token, &path).await;
    assert_eq!(reply.json()["status"], "disabled");
    assert_eq!(hub.device_keys("d"), None);
    assert!(hub.provisioning().enable_enrolment("default"));
    assigned(&hub, "d").await;
}

#[tokio::test]
async fn an_individual_enrolment_names_its_device_and_its_first_twin() {
    let hub = hub().await;
    let terms = json!({
        "deviceId": "pump",
        "initialTwin": { "tags": { "site": 7 }, "properties": { "desired": { "rate": 3 } } },
        "capabilities": { "iotEdge": true },
    });
    let keys = hub.provisioning().enrol_device("serial-9", &terms).unwrap();
    let (token, path) = device(&hub, "serial-9", &BASE64.decode(&keys.primary).unwrap());
    let mut http = Http::connect(&hub, &token).await;
    let body = br#"{"registrationId":"serial-9","payload":{"modelId":"dtmi:example:pump;1"}}"#;
    let first = http
        .ask("PUT", &format!("{path}/register"), &[], body)
        .await;
    assert_eq!(first.status, 202);
    let found = http.post(&path, &Value::Null).await.json();
    assert_eq!(
        (&found["deviceId"], &found["status"]),
        (&json!("pump"), &json!("assigned"))
    );
    assert_eq!(hub.device_keys("pump").unwrap(), keys);
    assert_eq!(hub.twin("pump")["desired"]["rate"], 3);
    for module in ["pump/$edgeAgent", "pump/$edgeHub"] {
        assert!(hub.device_keys(module).is_some(), "{module}");
    }
    let registered = hub.provisioning().registered("SERIAL-9").unwrap();
    assert_eq!(registered.payload["modelId"], "dtmi:example:pump;1");
}

#[tokio::test]
async fn the_service_api_writes_reads_lists_and_removes_enrolments() {
    let hub = hub().await;
    let string = hub.provisioning().service_connection_string();
    let mut http = Http::connect(&hub, &token(&string)).await;
    let body = json!({ "enrollmentGroupId": "g", "attestation": { "type": "symmetricKey" } });
    let body = body.to_string();
    let put = http
        .ask("PUT", "/enrollmentGroups/g", &[], body.as_bytes())
        .await;
    assert_eq!(put.status, 200);
    let stored = put.json();
    assert!(stored["attestation"]["symmetricKey"]["primaryKey"].is_string());
    let again = http
        .ask("PUT", "/enrollmentGroups/g", &[], body.as_bytes())
        .await;
    assert_eq!(
        (again.status, again.json()["errorCode"].as_u64()),
        (409, Some(409_202))
    );
    let shown = http.get("/enrollmentGroups/g").await.json();
    assert_eq!(shown["etag"], stored["etag"]);
    assert_eq!(shown["attestation"], json!({ "type": "symmetricKey" }));
    let mechanism = http
        .post("/enrollmentgroups/g/attestationmechanism", &Value::Null)
        .await;
    assert_eq!(mechanism.json(), stored["attestation"]);

    let query = json!({ "query": "SELECT * FROM enrollmentGroups" }).to_string();
    let query = query.as_bytes();
    let page = |header: String| {
        let headers = ["x-ms-max-item-count: 1".to_owned(), header];
        headers.to_vec()
    };
    let lines = page("Accept: application/json".to_owned());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let first = http
        .ask("POST", "/enrollmentGroups/query", &lines, query)
        .await;
    assert_eq!(first.header("x-ms-item-type"), "EnrollmentGroup");
    assert_eq!(first.json()[0]["enrollmentGroupId"], "default");
    let lines = page(format!(
        "x-ms-continuation: {}",
        first.header("x-ms-continuation")
    ));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let second = http
        .ask("POST", "/enrollmentGroups/query", &lines, query)
        .await;
    assert_eq!(second.json()[0]["enrollmentGroupId"], "g");
    assert_eq!(second.header("x-ms-continuation"), "");

    let stale = http
        .ask(
            "DELETE",
            "/enrollmentGroups/g",
            &["If-Match: \"stale\""],
            b"",
        )
        .await;
    assert_eq!(stale.status, 412);
    let etag = format!("If-Match: {}", stored["etag"].as_str().unwrap());
    let gone = http
        .ask("DELETE", "/enrollmentGroups/g", &[&etag], b"")
        .await;
    assert_eq!(gone.status, 204);
    let missing = http.get("/enrollmentGroups/g").await;
    assert_eq!(
        (missing.status, missing.json()["errorCode"].as_u64()),
        (404, Some(404_202))
    );

    assigned(&hub, "d").await;
    let listed = http
        .post("/registrations/default/query", &Value::Null)
        .await;
    assert_eq!(listed.json()[0]["registrationId"], "d");
    let one = http.get("/registrations/d").await.json();
    assert_eq!(one["status"], "assigned");
    assert_eq!(
        http.ask("DELETE", "/registrations/d", &[], b"")
            .await
            .status,
        204
    );
    assert_eq!(http.get("/registrations/d").await.status, 404);
}

#[tokio::test]
async fn the_service_api_asks_for_the_services_own_policy() {
    let hub = hub().await;
    for token in [
        String::new(),
        token(&hub.policy_connection_string("iothubowner")),
        grouped(&hub, "d").0,
    ] {
        let mut http = Http::connect(&hub, &token).await;
        let reply = http.get("/enrollmentGroups/default").await;
        assert_eq!(
            (reply.status, reply.header("x-ms-error-code")),
            (401, "401002")
        );
    }
}

/// Two more hubs behind the listeners of the first.
async fn cloud() -> [HubSimulator; 3] {
    let start = |host: &str| {
        let builder = HubSimulator::builder().with_tls(false).with_host(host);
        builder.with_provisioning(at_once())
    };
    let first = start("one.test").start().await.unwrap();
    let second = start("two.test").beside(&first).start().await.unwrap();
    let third = start("three.test").beside(&first).start().await.unwrap();
    [first, second, third]
}

#[tokio::test]
async fn devices_are_spread_over_hubs_and_each_is_in_its_own() {
    let hubs = cloud().await;
    for number in 0..30 {
        let id = format!("device-{number}");
        let state = assigned(&hubs[0], &id).await;
        for hub in &hubs {
            let is_here = hub.device_keys(&id).is_some();
            assert_eq!(is_here, state["assignedHub"] == hub.host());
        }
    }
    let counts = hubs.each_ref().map(|hub| {
        let here = (0..30).filter(|number| hub.device_keys(&format!("device-{number}")).is_some());
        here.count()
    });
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[tokio::test]
async fn a_device_fails_over_to_another_hub_with_its_twin() {
    let [one, two, three] = &cloud().await;
    let provisioning = one.provisioning();
    let terms = json!({ "allocationPolicy": "geoLatency", "iotHubs": ["one.test", "two.test"] });
    let keys = provisioning.enrol_group("default", &terms).unwrap();
    assert_eq!(keys.primary, provisioning.group_key());
    let state = assigned(one, "d").await;
    let (here, there) = if state["assignedHub"] == "one.test" {
        (one, two)
    } else {
        (two, one)
    };
    here.patch_desired("d", &json!({ "rate": 5 })).unwrap();
    here.add_device("d/module");
    here.faults().fail_over();
    let state = assigned(one, "d").await;
    assert_eq!(state["assignedHub"], there.host());
    assert_eq!(state["substatus"], "deviceDataMigrated");
    assert_eq!(here.device_keys("d"), None);
    assert_eq!(here.device_keys("d/module"), None, "its modules go along");
    assert_eq!(there.twin("d")["desired"]["rate"], 5);
    assert_eq!(there.twin("d")["desired"]["$version"], 2);
    assert_eq!(three.device_keys("d"), None);
    let string = there.device_connection_string("d");
    let name = there.host().to_owned();
    let connection = Connection::builder()
        .container_id("d")
        .hostname(name.as_str());
    let stream = TcpStream::connect(one.addr()).await.unwrap();
    let connection = soon(connection.open_with_stream(stream)).await.unwrap();
    let mut client = Client::begin(connection).await;
    client.authorize(&string, "d").await;
}

#[tokio::test]
async fn an_edge_device_has_its_modules_in_the_hub_that_it_moves_to() {
    let hubs = &cloud().await;
    let provisioning = hubs[0].provisioning();
    let terms = json!({ "capabilities": { "iotEdge": true } });
    provisioning.enrol_group("default", &terms).unwrap();
    let mut seen = 0;
    for _ in 0..2 {
        let state = assigned(&hubs[0], "edge").await;
        for hub in hubs {
            let is_here = state["assignedHub"] == hub.host();
            for module in ["edge/$edgeAgent", "edge/$edgeHub"] {
                assert_eq!(hub.device_keys(module).is_some(), is_here, "{module}");
            }
            if is_here {
                seen += 1;
                hub.faults().fail_over();
            }
        }
    }
    assert_eq!(seen, 2);
}

#[tokio::test]
async fn a_device_that_its_hub_has_lost_is_placed_there_again_though_it_never_moves() {
    let hub = hub().await;
    let policy = json!({ "updateHubAssignment": false, "migrateDeviceData": false });
    let terms = json!({ "reprovisionPolicy": policy });
    hub.provisioning().enrol_group("default", &terms).unwrap();
    assigned(&hub, "d").await;
    hub.patch_desired("d", &json!({ "rate": 5 })).unwrap();
    assigned(&hub, "d").await;
    assert_eq!(hub.twin("d")["desired"]["rate"], 5, "it is left as it is");
    hub.remove_device("d");
    let state = assigned(&hub, "d").await;
    assert_eq!(state["substatus"], "initialAssignment");
    assert!(hub.device_keys("d").is_some());
}

#[tokio::test]
async fn a_hub_without_weight_gets_no_device() {
    let [one, two, three] = &cloud().await;
    for hub in [two, three] {
        one.provisioning().set_weight(hub.host(), 0);
    }
    for number in 0..10 {
        let state = assigned(one, &format!("device-{number}")).await;
        assert_eq!(state["assignedHub"], one.host());
    }
}

#[tokio::test]
async fn the_service_survives_a_restart_with_its_scope_keys_and_registrations() {
    let directory = tempfile::tempdir().unwrap();
    let start = async || {
        let builder = HubSimulator::builder().with_tls(false);
        let builder = builder.with_provisioning(at_once());
        builder.with_state(directory.path()).start().await.unwrap()
    };
    let hub = start().await;
    let (scope, string) = (
        hub.provisioning().id_scope(),
        hub.provisioning().service_connection_string(),
    );
    assigned(&hub, "d").await;
    hub.save().unwrap();
    drop(hub);
    let hub = start().await;
    assert_eq!(hub.provisioning().id_scope(), scope);
    assert_eq!(hub.provisioning().service_connection_string(), string);
    let registered = hub.provisioning().registered("d").unwrap();
    assert_eq!(registered.hub.as_deref(), Some(hub.host()));
    let state = assigned(&hub, "d").await;
    assert_eq!(state["substatus"], "reprovisionedToInitialAssignment");
}

#[tokio::test]
async fn a_device_that_registers_while_the_hubs_start_again_stays_where_its_data_is() {
    let directory = tempfile::tempdir().unwrap();
    let stored = |host: &str| {
        let builder = HubSimulator::builder().with_tls(false).with_host(host);
        let builder = builder.with_provisioning(at_once());
        builder.with_state(directory.path().join(host))
    };
    let hubs = stored("one.test").start_with([stored("two.test")]).await;
    let (one, others) = hubs.unwrap();
    let mut ids = (0..).map(|number| format!("device-{number}"));
    let id = loop {
        let id = ids.next().unwrap();
        if assigned(&one, &id).await["assignedHub"] == "two.test" {
            break id;
        }
    };
    others[0].patch_desired(&id, &json!({ "rate": 5 })).unwrap();
    let ((token, path), address) = (grouped(&one, &id), one.https_addr());
    one.stop().await.unwrap();
    drop(others);

    // The second one's store is in use for a while.
    let user = stored("two.test").start().await.unwrap();
    let first = stored("one.test").with_https_address(address);
    let starting = first.start_with([stored("two.test")]);
    let registering = async {
        while TcpStream::connect(address).await.is_err() {
            yield_now().await;
        }
        let mut http = Http::connect_to(address, "one.test").await;
        let (path, proof) = (
            format!("{path}/register"),
            format!("Authorization: {token}"),
        );
        let headers = [proof.as_str()];
        let registered = http.ask("PUT", &path, &headers, b"{}");
        let waiting = async move {
            for _ in 0..1000 {
                yield_now().await;
            }
            drop(user);
        };
        tokio::join!(registered, waiting).0
    };
    let (hubs, reply) = tokio::join!(starting, registering);
    let (one, others) = hubs.unwrap();
    assert_eq!(reply.status, 202);
    let registered = one.provisioning().registered(&id).unwrap();
    assert_eq!(registered.hub.as_deref(), Some("two.test"));
    assert_eq!(others[0].twin(&id)["desired"]["rate"], 5);
    assert_eq!(one.device_keys(&id), None);
}
