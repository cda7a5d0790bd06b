//! Twins over HTTP, and what devices are told of them.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, though not in test functions"
)]

mod support;
#[path = "support/http.rs"]
mod web;

use fe2o3_amqp::link::{Receiver, Sender};
use fe2o3_amqp::types::messaging::{Body, Message, MessageAnnotations, MessageId, Properties};
use hub_simulator::HubSimulator;
use serde_json::{Value, json};
use support::{Client, accepted, plain_hub, soon, token};
use web::{Http, Reply};

async fn service(hub: &HubSimulator) -> Http {
    Http::connect(hub, &token(&hub.policy_connection_string("service"))).await
}

async fn write(
    http: &mut Http,
    method: &str,
    path: &str,
    if_match: Option<&str>,
    body: &Value,
) -> Reply {
    let header = if_match.map(|tag| format!("If-Match: {tag}"));
    let headers: Vec<&str> = header.iter().map(String::as_str).collect();
    http.ask(method, path, &headers, body.to_string().as_bytes())
        .await
}

/// A device's twin links, subscribed to its desired properties.
struct Follower {
    _requests: Sender,
    notifications: Receiver,
}

impl Follower {
    async fn open(client: &mut Client, identity: &str) -> Self {
        let address = format!("/devices/{identity}/twin");
        let mut notifications = client.receiver(&address).await;
        let mut requests = client.sender(&address).await;
        let annotations = MessageAnnotations::builder()
            .insert("operation", "PUT")
            .insert("resource", "/notifications/twin/properties/desired");
        let id = MessageId::String("subscribe".to_owned());
        let request = Message::builder()
            .message_annotations(annotations.build())
            .properties(Properties::builder().correlation_id(id).build())
            .data(Vec::new())
            .build();
        accepted(soon(requests.send(request)).await.unwrap());
        soon(notifications.recv::<Body<fe2o3_amqp::types::primitives::Value>>())
            .await
            .unwrap();
        Self {
            _requests: requests,
            notifications,
        }
    }

    async fn told(&mut self) -> Value {
        type Data = Body<fe2o3_amqp::types::primitives::Value>;
        let delivery = soon(self.notifications.recv::<Data>()).await.unwrap();
        match &delivery.message().body {
            Body::Data(sections) => {
                let bytes: Vec<u8> = sections.iter().flat_map(|part| part.0.to_vec()).collect();
                serde_json::from_slice(&bytes).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_patch_merges_and_counts() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let mut http = service(&hub).await;
    let fresh = http.get("/twins/d").await.json();
    assert_eq!(
        (&fresh["version"], &fresh["etag"]),
        (&json!(2), &json!("AAAAAAAAAAE="))
    );
    assert_eq!(fresh.get("tags"), None);

    let patch = json!({
        "tags": { "site": { "floor": 1, "room": "a" } },
        "properties": { "desired": { "rate": 5, "mode": { "fast": true } } },
    });
    let first = write(&mut http, "PATCH", "/twins/d", None, &patch)
        .await
        .json();
    assert_eq!(first["properties"]["desired"]["$version"], 2);
    let patch = json!({
        "tags": { "site": { "room": null } },
        "properties": { "desired": { "mode": { "fast": null, "slow": [1, { "a": 2 }] } } },
    });
    let second = write(&mut http, "PATCH", "/twins/d", Some("*"), &patch)
        .await
        .json();
    assert_eq!(second["tags"], json!({ "site": { "floor": 1 } }));
    let desired = &second["properties"]["desired"];
    assert_eq!(desired["rate"], 5);
    assert_eq!(desired["mode"], json!({ "slow": [1, { "a": 2 }] }));
    assert_eq!(desired["$version"], 3);
    let metadata = &desired["$metadata"];
    assert_eq!(metadata["rate"]["$lastUpdatedVersion"], 2);
    assert_eq!(metadata["mode"]["$lastUpdatedVersion"], 3);
    assert_eq!(metadata["mode"]["slow"]["$lastUpdatedVersion"], 3);
    assert_eq!(metadata["mode"].get("fast"), None);
    assert_eq!(
        (&second["version"], &second["etag"]),
        (&json!(4), &json!("AAAAAAAAAAM="))
    );
    // Tags alone leave the desired properties as they are.
    let tags = json!({ "tags": { "new": 1 } });
    let third = write(&mut http, "PATCH", "/twins/d", None, &tags)
        .await
        .json();
    assert_eq!(third["properties"]["desired"], *desired);
    assert_eq!(http.get("/twins/d").await.json(), third);
}

#[tokio::test]
async fn a_put_replaces_the_twin_and_takes_no_nulls() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let mut http = service(&hub).await;
    let before = json!({ "tags": { "a": 1 }, "properties": { "desired": { "b": 2 } } });
    write(&mut http, "PATCH", "/twins/d", None, &before).await;
    let twin = json!({ "tags": { "c": 3 }, "properties": { "desired": { "d": { "e": 4 } } } });
    let after = write(&mut http, "PUT", "/twins/d", Some("*"), &twin)
        .await
        .json();
    assert_eq!(after["tags"], json!({ "c": 3 }));
    let desired = &after["properties"]["desired"];
    assert_eq!(
        (desired.get("b"), &desired["d"]),
        (None, &json!({ "e": 4 }))
    );
    assert_eq!(desired["$version"], 3);
    let refused = write(
        &mut http,
        "PUT",
        "/twins/d",
        None,
        &json!({ "tags": { "c": null } }),
    )
    .await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        refused.json()["Message"],
        "ErrorCode:ArgumentInvalid;Value of Property or Tag cannot be null. Error in Property/Tag c"
    );
}

#[tokio::test]
async fn a_stale_etag_changes_nothing() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let mut http = service(&hub).await;
    let tags = |n: u32| json!({ "tags": { "n": n } });
    let etag = Some("\"AAAAAAAAAAE=\"");
    assert_eq!(
        write(&mut http, "PATCH", "/twins/d", etag, &tags(1))
            .await
            .status,
        200
    );
    for method in ["PATCH", "PUT"] {
        let stale = write(&mut http, method, "/twins/d", etag, &tags(2)).await;
        assert_eq!(
            (stale.status, stale.header("iothub-errorcode")),
            (412, "PreconditionFailed")
        );
        assert_eq!(
            stale.json()["Message"],
            "ErrorCode:PreconditionFailed;ETag mismatch for device ID 'd'"
        );
    }
    assert_eq!(http.get("/twins/d").await.json()["tags"], json!({ "n": 1 }));
}

#[tokio::test]
async fn what_a_twin_cannot_hold_is_refused() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let mut http = service(&hub).await;
    let deep = (0..12).fold(json!(1), |inner, _| json!({ "k": inner }));
    let large: Vec<String> = vec!["x".repeat(4000); 9];
    for bad in [
        json!({ "tags": { "a.b": 1 } }),
        json!({ "tags": { "a": large[..3] } }),
        json!({ "properties": { "desired": { "a": large } } }),
        json!({ "properties": { "desired": deep } }),
        json!({ "properties": { "desired": { "n": 4_503_599_627_370_496_i64 } } }),
        json!({ "properties": { "desired": [] } }),
        json!([]),
    ] {
        let reply = write(&mut http, "PATCH", "/twins/d", None, &bad).await;
        assert_eq!(
            (reply.status, reply.header("iothub-errorcode")),
            (400, "ArgumentInvalid")
        );
    }
    assert_eq!(http.get("/twins/d").await.json()["version"], 2);
    let nobody = write(&mut http, "PATCH", "/twins/nobody", None, &json!({})).await;
    assert_eq!(
        (nobody.status, nobody.header("iothub-errorcode")),
        (404, "DeviceNotFound")
    );
}

#[tokio::test]
async fn a_listening_device_is_told_the_patch_or_the_whole_section() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "d").await;
    let mut follower = Follower::open(&mut client, "d").await;
    let mut http = service(&hub).await;
    let patch = json!({ "properties": { "desired": { "a": 1, "b": { "c": 2 }, "gone": null } } });
    write(&mut http, "PATCH", "/twins/d", None, &patch).await;
    let told = json!({ "a": 1, "b": { "c": 2 }, "gone": null, "$version": 2 });
    assert_eq!(follower.told().await, told);
    write(
        &mut http,
        "PATCH",
        "/twins/d",
        None,
        &json!({ "tags": { "quiet": true } }),
    )
    .await;
    let twin = json!({ "properties": { "desired": { "b": { "d": 3 } } } });
    write(&mut http, "PUT", "/twins/d", None, &twin).await;
    assert_eq!(
        follower.told().await,
        json!({ "b": { "d": 3 }, "$version": 3 })
    );
}

#[tokio::test]
async fn a_module_has_a_twin_of_its_own() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let owner = token(&hub.policy_connection_string("iothubowner"));
    let mut http = Http::connect(&hub, &owner).await;
    http.ask("PUT", "/devices/d/modules/m", &[], b"{}").await;
    let patch = json!({ "properties": { "desired": { "a": 1 } } });
    let twin = write(&mut http, "PATCH", "/twins/d/modules/m", None, &patch)
        .await
        .json();
    assert_eq!(
        (&twin["deviceId"], &twin["moduleId"]),
        (&json!("d"), &json!("m"))
    );
    assert_eq!(twin["properties"]["desired"]["a"], 1);
    assert_eq!(twin.get("capabilities"), None);
    assert_eq!(http.get("/twins/d").await.json()["version"], 2);
    let missing = http.get("/twins/d/modules/other").await;
    assert_eq!(missing.header("iothub-errorcode"), "ModuleNotFound");
}

#[tokio::test]
async fn queries_find_twins_page_by_page() {
    let hub = plain_hub().await;
    hub.add_devices((0..5).map(|n| format!("dev-{n}")));
    hub.set_enabled("dev-3", false);
    let owner = token(&hub.policy_connection_string("iothubowner"));
    let mut http = Http::connect(&hub, &owner).await;
    http.ask("PUT", "/devices/dev-1/modules/m", &[], b"{}")
        .await;
    for n in 0..5 {
        let patch = json!({ "tags": { "floor": n % 2 } });
        let path = format!("/twins/dev-{n}");
        write(&mut http, "PATCH", &path, None, &patch).await;
    }
    let query = |text: &str| json!({ "query": text }).to_string();

    let text = query("SELECT * FROM devices WHERE tags.floor = 0");
    let (mut found, mut token) = (Vec::new(), String::new());
    for _ in 0..2 {
        let headers = [
            "x-ms-max-item-count: 2".to_owned(),
            format!("x-ms-continuation: {token}"),
        ];
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let page = http
            .ask("POST", "/devices/query", &headers, text.as_bytes())
            .await;
        assert_eq!((page.status, page.header("x-ms-item-type")), (200, "Twin"));
        let rows = page.json();
        found.push(
            rows.as_array()
                .unwrap()
                .iter()
                .map(|t| t["deviceId"].clone())
                .collect::<Vec<_>>(),
        );
        token = page.header("x-ms-continuation").to_owned();
    }
    assert_eq!(found, [vec!["dev-0", "dev-2"], vec!["dev-4"]]);
    assert_eq!(token, "");

    let mut ask = async |text: &str| {
        let reply = http
            .ask("POST", "/devices/query", &[], query(text).as_bytes())
            .await;
        (
            reply.status,
            reply.header("x-ms-item-type").to_owned(),
            reply.json(),
        )
    };
    let raw = |rows: Value| (200, "Raw".to_owned(), rows);
    assert_eq!(
        ask("SELECT COUNT() AS n FROM devices").await,
        raw(json!([{ "n": 5 }]))
    );
    assert_eq!(
        ask("SELECT TOP 1 deviceId, tags.floor FROM devices WHERE status = 'disabled'").await,
        raw(json!([{ "deviceId": "dev-3", "floor": 1 }]))
    );
    assert_eq!(
        ask("SELECT moduleId, deviceId FROM devices.modules").await,
        raw(json!([{ "moduleId": "m", "deviceId": "dev-1" }]))
    );
    assert_eq!(
        ask("SELECT tags.floor AS floor, COUNT() AS n FROM devices GROUP BY tags.floor").await,
        raw(json!([{ "floor": 0, "n": 3 }, { "floor": 1, "n": 2 }]))
    );
    assert_eq!(
        ask("SELECT deviceId FROM devices WHERE properties.desired.$version > 1").await,
        raw(json!([]))
    );
    let (status, _, body) = ask("SELECT * FROM nowhere").await;
    assert_eq!(status, 400);
    assert_eq!(
        body["Message"],
        "ErrorCode:ArgumentInvalid;The collection 'nowhere', where only 'devices' and \
         'devices.modules' are simulated, at character 15 of the query"
    );
}
