//! The control endpoint: it makes faults, tells what there is, and no fault meets it.

mod support;
#[path = "support/http.rs"]
mod web;

use std::net::Ipv4Addr;

use hub_simulator::HubSimulator;
use serde_json::{Value, json};
use support::{Client, accepted, message, rejection, soon};
use web::{Http, Reply};

async fn controlled_hub() -> (HubSimulator, Http) {
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_control((Ipv4Addr::LOCALHOST, 0).into())
        .start()
        .await
        .expect("ports are free");
    let http = Http::connect_to(hub.control_addr().expect("asked for"), "localhost").await;
    (hub, http)
}

async fn post(http: &mut Http, path: &str, body: Value) -> Reply {
    let json = ["Content-Type: application/json"];
    http.ask_plainly("POST", path, &json, body.to_string().as_bytes())
        .await
}

async fn get(http: &mut Http, path: &str) -> Value {
    let reply = http.ask_plainly("GET", path, &[], b"").await;
    assert_eq!(reply.status, 200, "{path}");
    reply.json()
}

#[tokio::test]
async fn a_fault_is_made_by_a_request() {
    let (hub, mut http) = controlled_hub().await;
    let mut client = Client::device(&hub, "d").await;
    let mut sender = client.telemetry("d").await;
    let throttle = json!({"fault": "throttle", "device": "d", "count": 1});
    let reply = post(&mut http, "/faults", json!([throttle, {"fault": "thaw"}])).await;
    assert_eq!((reply.status, reply.json()), (200, json!({"made": 2})));
    let outcome = soon(sender.send(message("1", "x"))).await.unwrap();
    rejection(outcome);
    accepted(soon(sender.send(message("2", "x"))).await.unwrap());

    let connection = get(&mut http, "/connections").await[0]["id"].clone();
    let cut = json!({"fault": "cut", "connection": connection});
    assert_eq!(post(&mut http, "/faults", cut.clone()).await.status, 200);
    soon(hub.wait_until(|stats| stats.connections.is_empty())).await;
    assert_eq!(post(&mut http, "/faults", cut).await.status, 404);
    let everything = json!([{"fault": "cut"}, {"fault": "freeze"}, {"fault": "fail_over"}]);
    assert_eq!(post(&mut http, "/faults", everything).await.status, 200);
    assert_eq!(get(&mut http, "/hubs").await, json!(["localhost"]));
}

#[tokio::test]
async fn what_there_is_can_be_asked_for() {
    let (hub, mut http) = controlled_hub().await;
    hub.add_devices(["a", "b", "c"]);
    let mut client = Client::device(&hub, "d").await;
    let mut sender = client.telemetry("d").await;
    for id in ["1", "2", "3"] {
        accepted(soon(sender.send(message(id, "x"))).await.unwrap());
    }
    let stats = get(&mut http, "/stats").await;
    assert_eq!(
        stats,
        json!({
            "connections": 1, "connectionsOpened": 1, "attachedDevices": 1, "messages": 3,
            "throttled": 0,
        })
    );
    let some = get(&mut http, "/devices?after=a&top=2").await;
    assert_eq!((&some[0]["id"], &some[1]["id"]), (&json!("b"), &json!("c")));
    let device = get(&mut http, "/devices/d").await;
    assert_eq!(device["connected"], true);
    assert_eq!(device["accepted"], 3);
    assert_eq!(device["twin"]["desired"]["$version"], 1);
    let latest = get(&mut http, "/telemetry?device=d&top=2").await;
    let ids: Vec<&Value> = (0..2).map(|at| &latest[at]["messageId"]).collect();
    assert_eq!(ids, ["2", "3"]);
    assert_eq!(latest[0]["body"], "x");
    let forgotten = http.ask_plainly("DELETE", "/telemetry", &[], b"").await;
    assert_eq!(forgotten.status, 200);
    assert_eq!(get(&mut http, "/telemetry").await, json!([]));
    for (path, status) in [
        ("/devices/ghost", 404),
        ("/stats?hub=elsewhere", 404),
        ("/stats?colour=red", 400),
        ("/nowhere", 404),
    ] {
        let reply = http.ask_plainly("GET", path, &[], b"").await;
        assert_eq!(reply.status, status, "{path}");
    }
    let help = http.ask_plainly("GET", "/", &[], b"").await;
    assert!(String::from_utf8(help.body).unwrap().contains("/faults"));
}

#[tokio::test]
async fn a_plan_is_followed_and_told_and_stopped() {
    let (hub, mut http) = controlled_hub().await;
    hub.add_device("d");
    let plan = json!({"seed": 7, "steps": [
        {"make": [{"fault": "disable", "device": "d"}]},
        {"after": "1h", "make": [{"fault": "enable", "device": "d"}]},
    ]});
    let reply = post(&mut http, "/plan", plan).await;
    assert_eq!(reply.status, 200);
    let schedule = reply.json();
    assert_eq!(
        schedule[1],
        json!({"at": "1h", "fault": {"fault": "enable", "device": "d"}})
    );
    assert_eq!(get(&mut http, "/plan").await, schedule);
    while get(&mut http, "/devices/d").await["enabled"] == true {}
    http.ask_plainly("DELETE", "/plan", &[], b"").await;
    assert_eq!(get(&mut http, "/plan").await, Value::Null);
    let bad = post(&mut http, "/plan", json!({"steps": 7})).await;
    assert_eq!(bad.status, 400);
    let bad = post(&mut http, "/faults", json!({"fault": "explode"})).await;
    assert_eq!(bad.status, 400);
}
