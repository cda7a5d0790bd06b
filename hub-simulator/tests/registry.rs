//! The identity registry over HTTP, and what its changes do to open connections.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

mod support;
#[path = "support/http.rs"]
mod web;

use hub_simulator::{C2d, C2dOutcome, HubSimulator};
use serde_json::{Value, json};
use support::{Client, message, plain_hub, soon, token};
use web::{Http, Reply};

async fn owner(hub: &HubSimulator) -> Http {
    Http::connect(hub, &token(&hub.policy_connection_string("iothubowner"))).await
}

async fn put(http: &mut Http, path: &str, if_match: Option<&str>, body: &Value) -> Reply {
    let header = if_match.map(|tag| format!("If-Match: {tag}"));
    let headers: Vec<&str> = header.iter().map(String::as_str).collect();
    http.ask("PUT", path, &headers, body.to_string().as_bytes())
        .await
}

async fn delete(http: &mut Http, path: &str, if_match: &str) -> Reply {
    let header = format!("If-Match: {if_match}");
    http.ask("DELETE", path, &[&header], b"").await
}

/// Asserts a refusal: its status and its name, in header and body.
fn refused(reply: &Reply, status: u16, name: &str) {
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(
        (reply.status, reply.header("iothub-errorcode")),
        (status, name),
        "{text}"
    );
    let body = reply.json();
    let message = body["Message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!("ErrorCode:{name};")),
        "{message}"
    );
}

fn keys_of(identity: &Value) -> &Value {
    &identity["authentication"]["symmetricKey"]
}

#[tokio::test]
async fn a_device_is_made_read_changed_and_deleted() {
    let hub = plain_hub().await;
    let mut http = owner(&hub).await;
    let made = put(&mut http, "/devices/d", None, &json!({ "deviceId": "d" })).await;
    assert_eq!(made.status, 200);
    assert_eq!(
        made.header("content-type"),
        "application/json; charset=utf-8"
    );
    let device = made.json();
    let etag = device["etag"].as_str().unwrap().to_owned();
    assert_eq!(made.header("etag"), format!("\"{etag}\""));
    assert_eq!(device["status"], "enabled");
    assert_eq!(device["capabilities"]["iotEdge"], false);
    assert_eq!(
        keys_of(&device)["primaryKey"],
        json!(hub.device_keys("d").unwrap().primary)
    );

    let read = http.get("/devices/d").await;
    assert_eq!((read.status, read.json()), (200, device.clone()));

    let change = json!({ "deviceId": "d", "status": "disabled", "statusReason": "lost" });
    let changed = put(
        &mut http,
        "/devices/d",
        Some(&format!("\"{etag}\"")),
        &change,
    )
    .await
    .json();
    assert_eq!(
        (&changed["status"], &changed["statusReason"]),
        (&json!("disabled"), &json!("lost"))
    );
    assert_ne!(changed["etag"], device["etag"]);
    assert_ne!(changed["statusUpdatedTime"], device["statusUpdatedTime"]);
    for kept in ["generationId", "authentication"] {
        assert_eq!(changed[kept], device[kept]);
    }

    let gone = delete(&mut http, "/devices/d", "\"*\"").await;
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    refused(&http.get("/devices/d").await, 404, "DeviceNotFound");
}

#[tokio::test]
async fn if_match_decides_between_making_and_changing() {
    let hub = plain_hub().await;
    let mut http = owner(&hub).await;
    let body = json!({ "deviceId": "d" });
    refused(
        &put(&mut http, "/devices/d", Some("*"), &body).await,
        404,
        "DeviceNotFound",
    );
    // An empty tag is none, as the .NET SDK writes it.
    let made = put(&mut http, "/devices/d", Some("\"\""), &body).await;
    let etag = made.header("etag").to_owned();
    let again = put(&mut http, "/devices/d", None, &body).await;
    refused(&again, 409, "DeviceAlreadyExists");
    assert_eq!(
        again.json()["Message"],
        "ErrorCode:DeviceAlreadyExists;A device with ID 'd' is already registered."
    );
    assert_eq!(
        put(&mut http, "/devices/d", Some(&etag), &body)
            .await
            .status,
        200
    );
    let stale = put(&mut http, "/devices/d", Some(&etag), &body).await;
    refused(&stale, 412, "PreconditionFailed");
    let text = stale.json()["Message"].as_str().unwrap().to_owned();
    assert!(
        text.contains("Device version did not match, existingVersion:"),
        "{text}"
    );
    refused(
        &delete(&mut http, "/devices/d", &etag).await,
        412,
        "PreconditionFailed",
    );
    refused(
        &http.ask("DELETE", "/devices/d", &[], b"").await,
        400,
        "ArgumentNull",
    );
    assert_eq!(delete(&mut http, "/devices/d", "*").await.status, 204);
}

#[tokio::test]
async fn ids_of_every_allowed_character_work_and_others_do_not() {
    let hub = plain_hub().await;
    let mut http = owner(&hub).await;
    let odd = "aZ09-.+%_#*?!(),:=@$'";
    let path: String = odd.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/devices/{path}");
    let made = put(&mut http, &path, None, &json!({ "deviceId": odd })).await;
    assert_eq!((made.status, &made.json()["deviceId"]), (200, &json!(odd)));
    assert_eq!(http.get(&path).await.json()["deviceId"], odd);
    let long = format!("/devices/{}", "x".repeat(129));
    for bad in [
        "/devices/a%20b",
        "/devices/a%2Fb",
        "/devices/%C3%A9",
        "/devices/%FF",
        &long,
    ] {
        let reply = put(&mut http, bad, None, &json!({})).await;
        refused(&reply, 400, "ArgumentInvalid");
    }
    let other = put(&mut http, "/devices/d", None, &json!({ "deviceId": "e" })).await;
    refused(&other, 400, "ArgumentInvalid");
}

#[tokio::test]
async fn keys_and_thumbprints_are_taken_as_they_are_given() {
    let hub = plain_hub().await;
    let mut http = owner(&hub).await;
    let keys = json!({ "primaryKey": "c2hvcnQ=", "secondaryKey": "YSBtdWNoIGxvbmdlciBvbmU=" });
    let body = json!({ "authentication": { "type": "sas", "symmetricKey": keys } });
    let made = put(&mut http, "/devices/d", None, &body).await.json();
    assert_eq!(keys_of(&made), &keys);
    // The keys open the door.
    let mut client = Client::device(&hub, "d").await;
    client.telemetry("d").await;

    let thumbprints = json!({ "primaryThumbprint": "AB".repeat(20), "secondaryThumbprint": null });
    let body = json!({ "authentication": { "type": "selfSigned", "x509Thumbprint": thumbprints } });
    let made = put(&mut http, "/devices/x", None, &body).await.json();
    assert_eq!(made["authentication"]["type"], "selfSigned");
    assert_eq!(made["authentication"]["x509Thumbprint"], thumbprints);
    assert_eq!(keys_of(&made)["primaryKey"], Value::Null);

    for bad in [
        json!({ "authentication": { "symmetricKey": { "primaryKey": "?" } } }),
        json!({ "authentication": { "type": "selfSigned" } }),
        json!({ "status": "asleep" }),
    ] {
        let reply = put(&mut http, "/devices/bad", None, &bad).await;
        refused(&reply, 400, "ArgumentInvalid");
    }
    let reply = http.ask("PUT", "/devices/bad", &[], b"{ no json").await;
    refused(&reply, 400, "IotHubFormatError");
}

#[tokio::test]
async fn devices_are_listed_and_counted() {
    let hub = plain_hub().await;
    hub.add_devices(["a", "b", "c"]);
    hub.set_enabled("b", false);
    let mut http = owner(&hub).await;
    put(&mut http, "/devices/a/modules/m", None, &json!({})).await;
    for (path, ids) in [
        ("/devices/", vec!["a", "b", "c"]),
        ("/devices?top=2", vec!["a", "b"]),
        ("/devices?top=0", vec!["a", "b", "c"]),
        ("/devices?top=many", vec!["a", "b", "c"]),
    ] {
        let list = http.get(path).await.json();
        let listed: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d["deviceId"].clone())
            .collect();
        assert_eq!(listed, ids, "{path}");
    }
    assert_eq!(
        http.get("/statistics/devices").await.json(),
        json!({ "totalDeviceCount": 3, "enabledDeviceCount": 2, "disabledDeviceCount": 1 })
    );
}

#[tokio::test]
async fn modules_live_and_die_with_their_device() {
    let hub = plain_hub().await;
    hub.add_device("d");
    hub.add_device("d-2");
    let mut http = owner(&hub).await;
    let body = json!({ "deviceId": "d", "moduleId": "m", "managedBy": "me" });
    let made = put(&mut http, "/devices/d/modules/m", None, &body).await;
    assert_eq!((made.status, made.header("etag")), (200, ""));
    let module = made.json();
    assert_eq!(
        (&module["moduleId"], &module["managedBy"]),
        (&json!("m"), &json!("me"))
    );
    let again = put(&mut http, "/devices/d/modules/m", None, &body).await;
    refused(&again, 409, "ModuleAlreadyExistsOnDevice");
    refused(
        &http.get("/devices/d/modules/other").await,
        404,
        "ModuleNotFound",
    );
    let stray = put(&mut http, "/devices/nobody/modules/m", None, &json!({})).await;
    refused(&stray, 404, "DeviceNotFound");
    assert_eq!(http.get("/devices/d/modules").await.json(), json!([module]));
    assert_eq!(http.get("/devices/d-2/modules").await.json(), json!([]));

    delete(&mut http, "/devices/d", "*").await;
    put(&mut http, "/devices/d", None, &json!({})).await;
    assert_eq!(http.get("/devices/d/modules").await.json(), json!([]));
}

#[tokio::test]
async fn a_device_has_fifty_modules_at_most() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let mut http = owner(&hub).await;
    for index in 0..50 {
        let path = format!("/devices/d/modules/m{index}");
        assert_eq!(put(&mut http, &path, None, &json!({})).await.status, 200);
    }
    let reply = put(&mut http, "/devices/d/modules/m50", None, &json!({})).await;
    refused(&reply, 413, "TooManyModulesOnDevice");
}

#[tokio::test]
async fn an_edge_device_has_its_scope_and_its_modules() {
    let hub = plain_hub().await;
    let mut http = owner(&hub).await;
    let body = json!({ "capabilities": { "iotEdge": true } });
    let edge = put(&mut http, "/devices/edge", None, &body).await.json();
    let scope = format!(
        "ms-azure-iot-edge://edge-{}",
        edge["generationId"].as_str().unwrap()
    );
    assert_eq!(edge["deviceScope"], scope);
    let modules = http.get("/devices/edge/modules").await.json();
    let ids: Vec<_> = modules
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["moduleId"].clone())
        .collect();
    assert_eq!(ids, ["$edgeAgent", "$edgeHub"]);
    assert_eq!(
        http.get("/devices/edge/modules/%24edgeHub").await.status,
        200
    );

    let leaf = put(
        &mut http,
        "/devices/leaf",
        None,
        &json!({ "deviceScope": scope }),
    )
    .await
    .json();
    assert_eq!(leaf["parentScopes"], json!([scope]));
}

#[tokio::test]
async fn a_bulk_request_does_what_it_can_and_tells_the_rest() {
    let hub = plain_hub().await;
    hub.add_devices(["old", "gone"]);
    let mut http = owner(&hub).await;
    let etag = http.get("/devices/old").await.json()["etag"].clone();
    let body = json!([
        { "id": "new", "importMode": "create", "status": "disabled",
          "tags": { "site": "n" }, "properties": { "desired": { "rate": 1 } } },
        { "id": "old", "importMode": "create" },
        { "id": "gone", "importMode": "Delete" },
        { "id": "nobody", "importMode": "update" },
        { "id": "new", "importMode": "update" },
        { "id": "bad", "importMode": "fold" },
        { "id": "maybe", "importMode": "createOrUpdate" },
        { "id": "old", "moduleId": "m", "importMode": "create" },
    ]);
    let reply = http.post("/devices", &body).await;
    assert_eq!(reply.status, 400);
    let result = reply.json();
    assert_eq!(result["isSuccessful"], false);
    let errors: Vec<_> = result["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            (
                e["deviceId"].as_str().unwrap(),
                e["errorCode"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        errors,
        [
            ("old", "DeviceAlreadyExists"),
            ("nobody", "DeviceNotFound"),
            ("new", "DeviceDefinedMultipleTimes"),
            ("bad", "ArgumentInvalid"),
        ]
    );
    assert_eq!(http.get("/devices/new").await.json()["status"], "disabled");
    let twin = http.get("/twins/new").await.json();
    assert_eq!(
        (&twin["tags"], &twin["version"]),
        (&json!({ "site": "n" }), &json!(2))
    );
    assert_eq!(twin["properties"]["desired"]["rate"], 1);
    refused(&http.get("/devices/gone").await, 404, "DeviceNotFound");
    assert_eq!(http.get("/devices/maybe").await.status, 200);
    assert_eq!(http.get("/devices/old/modules/m").await.status, 200);

    let body = json!([
        { "id": "old", "eTag": etag, "importMode": "updateIfMatchETag", "statusReason": "seen" },
        { "id": "new", "importMode": "updateTwin", "tags": { "site": null, "floor": 2 } },
        { "id": "maybe", "importMode": "deleteIfMatchETag", "eTag": "AAAA" },
    ]);
    let errors = http.post("/devices", &body).await.json()["errors"].clone();
    assert_eq!(errors.as_array().unwrap().len(), 1);
    assert_eq!(errors[0]["errorCode"], "PreconditionFailed");
    assert_eq!(
        http.get("/devices/old").await.json()["statusReason"],
        "seen"
    );
    assert_eq!(
        http.get("/twins/new").await.json()["tags"],
        json!({ "floor": 2 })
    );

    let all = http
        .post(
            "/devices",
            &json!([{ "id": "last", "importMode": "create" }]),
        )
        .await;
    let fine = json!({ "isSuccessful": true, "errors": [], "warnings": [] });
    assert_eq!((all.status, all.json()), (200, fine));
    let many: Vec<_> = (0..101).map(|n| json!({ "id": n.to_string() })).collect();
    refused(
        &http.post("/devices", &json!(many)).await,
        413,
        "TooManyDevices",
    );
}

#[tokio::test]
async fn each_policy_does_what_its_rights_allow() {
    let hub = plain_hub().await;
    hub.add_device("d");
    for (policy, read, write, twin) in [
        ("registryRead", 200, 401, 401),
        ("registryReadWrite", 200, 200, 401),
        ("service", 401, 401, 200),
        ("device", 401, 401, 401),
    ] {
        let mut http = Http::connect(&hub, &token(&hub.policy_connection_string(policy))).await;
        assert_eq!(http.get("/devices/d").await.status, read, "{policy}");
        let written = put(&mut http, "/devices/d", Some("*"), &json!({})).await;
        assert_eq!(written.status, write, "{policy}");
        assert_eq!(http.get("/twins/d").await.status, twin, "{policy}");
    }
    let mut device = Http::connect(&hub, &token(&hub.device_connection_string("d"))).await;
    refused(
        &device.get("/devices/d").await,
        401,
        "IotHubUnauthorizedAccess",
    );
}

#[tokio::test]
async fn the_connection_state_follows_the_links() {
    let hub = plain_hub().await;
    let mut http = owner(&hub).await;
    let mut client = Client::device(&hub, "d").await;
    let link = client.telemetry("d").await;
    let here = http.get("/devices/d").await.json();
    assert_eq!(here["connectionState"], "Connected");
    assert_ne!(here["connectionStateUpdatedTime"], "0001-01-01T00:00:00Z");
    assert_ne!(here["lastActivityTime"], "0001-01-01T00:00:00Z");
    soon(link.close()).await.unwrap();
    soon(hub.wait_until(|stats| stats.attached_devices == 0)).await;
    let twin = http.get("/twins/d").await.json();
    assert_eq!(twin["connectionState"], "Disconnected");
    assert_ne!(twin["lastActivityTime"], "0001-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_disabled_device_loses_its_links_and_comes_back_when_it_is_enabled() {
    let hub = plain_hub().await;
    let mut http = owner(&hub).await;
    let mut client = Client::device(&hub, "d").await;
    let mut link = client.telemetry("d").await;
    put(
        &mut http,
        "/devices/d",
        Some("*"),
        &json!({ "status": "disabled" }),
    )
    .await;
    soon(hub.wait_until(|stats| stats.attached_devices == 0)).await;
    soon(link.send(message("m", "late"))).await.unwrap_err();
    put(
        &mut http,
        "/devices/d",
        Some("*"),
        &json!({ "status": "enabled" }),
    )
    .await;
    let mut client = Client::device(&hub, "d").await;
    support::accepted(
        soon(client.telemetry("d").await.send(message("m", "now")))
            .await
            .unwrap(),
    );
}

#[tokio::test]
async fn a_deleted_device_loses_its_links_and_its_messages() {
    let hub = plain_hub().await;
    let mut http = owner(&hub).await;
    let mut client = Client::device(&hub, "d").await;
    let _link = client.telemetry("d").await;
    let ticket = hub.send_c2d("d", C2d::new("unread")).unwrap();
    assert_eq!(
        http.get("/devices/d").await.json()["cloudToDeviceMessageCount"],
        1
    );
    assert_eq!(delete(&mut http, "/devices/d", "*").await.status, 204);
    soon(hub.wait_until(|stats| stats.attached_devices == 0)).await;
    assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Purged);
}

#[tokio::test]
async fn telemetry_is_activity() {
    let hub = plain_hub().await;
    let string = hub.device_connection_string("d");
    let mut device = Http::connect(&hub, &token(&string)).await;
    let sent = device
        .ask("POST", "/devices/d/messages/events", &[], b"hot")
        .await;
    assert_eq!(sent.status, 204);
    let seen = owner(&hub).await.get("/devices/d").await.json();
    assert_ne!(seen["lastActivityTime"], "0001-01-01T00:00:00Z");
    assert_eq!(seen["connectionState"], "Disconnected");
}

#[tokio::test]
async fn what_is_not_simulated_says_so() {
    let hub = plain_hub().await;
    let mut http = owner(&hub).await;
    assert_eq!(http.get("/configurations").await.json(), json!([]));
    assert_eq!(http.get("/jobs").await.json(), json!([]));
    for path in ["/configurations/c", "/jobs/v2/j", "/digitaltwins/d"] {
        let reply = put(&mut http, path, None, &json!({})).await;
        refused(&reply, 400, "InvalidOperation");
    }
}

#[tokio::test]
async fn a_device_that_cannot_sign_is_not_registered_at_first_sight() {
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_auto_register(true)
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&hub).await;
    let wrong = hub_simulator::sign("localhost/devices/d", b"wrong", u64::MAX / 2, None);
    assert_eq!(client.cbs.put("d", &wrong).await.0, 401);
    let mut http = owner(&hub).await;
    refused(&http.get("/devices/d").await, 404, "DeviceNotFound");
}
