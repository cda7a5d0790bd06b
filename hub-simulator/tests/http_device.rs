//! A device over HTTP: it sends, and asks for its messages.

mod support;
#[path = "support/http.rs"]
mod web;

use std::time::Duration;

use hub_simulator::{Ack, C2d, C2dOutcome, HubSimulator, Limits, Size, Tier};
use serde_json::json;
use support::{plain_hub, soon, token};
use web::Http;

const EVENTS: &str = "/devices/d/messages/events";
const MESSAGES: &str = "/devices/d/messages/devicebound";

#[tokio::test]
async fn a_message_arrives_with_its_properties() {
    let hub = plain_hub().await;
    let mut http = Http::device(&hub, "d").await;
    let headers = [
        "iothub-app-TempAlert: yes",
        "IoTHub-MessageId: m-1",
        "iothub-correlationid: c-1",
        "iothub-contenttype: application/json",
        "iothub-contentencoding: utf-8",
        "iothub-userid: u",
    ];
    let reply = http.ask("POST", EVENTS, &headers, b"{}").await;
    assert_eq!((reply.status, reply.body.len()), (204, 0));
    let accepted = hub.record().accepted();
    let message = &accepted[0];
    assert_eq!((&*message.device_id, &message.body[..]), ("d", &b"{}"[..]));
    assert_eq!(message.properties["TempAlert"], "yes");
    assert_eq!(message.message_id.as_deref(), Some("m-1"));
    assert_eq!(message.correlation_id.as_deref(), Some("c-1"));
    assert_eq!(message.content_type.as_deref(), Some("application/json"));
    assert_eq!(message.content_encoding.as_deref(), Some("utf-8"));
    assert_eq!(message.user_id.as_deref(), Some("u"));
}

#[tokio::test]
async fn a_batch_is_many_messages() {
    let hub = plain_hub().await;
    let mut http = Http::device(&hub, "d").await;
    let kind = ["Content-Type: application/vnd.microsoft.iothub.json"];
    let batch = json!([
        {"body": "aGk=", "properties": {"iothub-app-Kind": "a"}},
        {"body": "hi", "base64Encoded": false},
        {"body": ""},
    ]);
    let reply = http
        .ask("POST", EVENTS, &kind, batch.to_string().as_bytes())
        .await;
    assert_eq!(reply.status, 204);
    let accepted = hub.record().accepted();
    let bodies: Vec<_> = accepted.iter().map(|message| &message.body[..]).collect();
    assert_eq!(bodies, [&b"hi"[..], b"hi", b""]);
    assert_eq!(accepted[0].properties["Kind"], "a");
    for bad in [
        json!([]),
        json!({}),
        json!([{"body": "!"}]),
        json!([{"no": 1}]),
    ] {
        let reply = http
            .ask("POST", EVENTS, &kind, bad.to_string().as_bytes())
            .await;
        assert_eq!(reply.status, 400, "{bad}");
    }
    assert_eq!(hub.record().count(), 3);
}

#[tokio::test]
async fn a_batch_is_taken_whole_or_not_at_all() {
    let size = Size::new(Tier::S1, 1)
        .with_burst(Duration::from_millis(100))
        .with_queue(Duration::ZERO);
    let limits = Limits::default().with_size(Some(size));
    let hub = HubSimulator::builder().with_tls(false).with_limits(limits);
    let hub = hub.start().await.unwrap();
    let mut http = Http::device(&hub, "d").await;
    let kind = ["Content-Type: application/vnd.microsoft.iothub.json"];
    let batch = json!(vec![json!({"body": ""}); 500]).to_string();
    // The rate is 100 a second: a burst of ten passes, or one request, however much it asks for.
    for status in [204, 429] {
        let reply = http.ask("POST", EVENTS, &kind, batch.as_bytes()).await;
        assert_eq!(reply.status, status);
        assert_eq!(hub.record().count(), 500);
    }
}

#[tokio::test]
async fn whoever_is_not_the_device_cannot_send_for_it() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let mut other = Http::device(&hub, "other").await;
    assert_eq!(other.ask("POST", EVENTS, &[], b"").await.status, 401);
    let mut service = Http::policy(&hub, "service").await;
    assert_eq!(service.ask("POST", EVENTS, &[], b"").await.status, 401);
    let mut policy = Http::policy(&hub, "device").await;
    assert_eq!(policy.ask("POST", EVENTS, &[], b"").await.status, 204);
    let nobody = policy.ask("POST", "/devices/ghost/messages/events", &[], b"");
    let nobody = nobody.await;
    assert_eq!(nobody.status, 404);
    assert_eq!(nobody.header("iothub-errorcode"), "DeviceNotFound");

    let mut device = Http::device(&hub, "d").await;
    assert_eq!(device.ask("POST", EVENTS, &[], b"").await.status, 204);
    hub.set_enabled("d", false);
    assert_eq!(device.ask("POST", EVENTS, &[], b"").await.status, 404);
    hub.set_enabled("d", true);
    hub.rotate_keys("d").unwrap();
    assert_eq!(device.ask("POST", EVENTS, &[], b"").await.status, 401);
}

#[tokio::test]
async fn a_message_over_256_kb_is_too_large() {
    let hub = plain_hub().await;
    let mut http = Http::device(&hub, "d").await;
    let largest = vec![b'x'; 256 * 1024];
    assert_eq!(http.ask("POST", EVENTS, &[], &largest).await.status, 204);
    let reply = http
        .ask("POST", EVENTS, &[], &vec![b'x'; 256 * 1024 + 1])
        .await;
    assert_eq!(reply.status, 413);
    assert_eq!(reply.header("iothub-errorcode"), "MessageTooLarge");
    assert_eq!(hub.record().count(), 1);
}

#[tokio::test]
async fn a_message_has_as_many_properties_as_over_other_protocols() {
    let hub = plain_hub().await;
    let mut http = Http::device(&hub, "d").await;
    let lines: Vec<String> = (0..900)
        .map(|number| format!("iothub-app-P{number}: {number}"))
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(http.ask("POST", EVENTS, &lines, b"").await.status, 204);
    let accepted = hub.record().accepted();
    assert_eq!(accepted[0].properties.len(), 900);
    assert_eq!(accepted[0].properties["P899"], "899");
}

#[tokio::test]
async fn a_message_is_locked_until_it_is_completed_rejected_or_given_back() {
    // As SDKs spell it; that for C# has the capital.
    for messages in [MESSAGES, "/devices/d/messages/deviceBound"] {
        let hub = plain_hub().await;
        let mut http = Http::device(&hub, "d").await;
        assert_eq!(http.get(messages).await.status, 204);
        let message = C2d::new("open")
            .with_message_id("m-1")
            .with_property("valve", "3");
        let first = hub.send_c2d("d", message).unwrap();
        let reply = http.get(messages).await;
        assert_eq!((reply.status, &reply.body[..]), (200, &b"open"[..]));
        assert_eq!(reply.header("iothub-messageid"), "m-1");
        assert_eq!(reply.header("iothub-app-valve"), "3");
        assert_eq!(reply.header("iothub-to"), "/devices/d/messages/deviceBound");
        assert_eq!(reply.header("iothub-sequencenumber"), "1");
        assert_eq!(reply.header("iothub-deliverycount"), "0");
        let lock = reply.header("etag").trim_matches('"').to_owned();
        assert_ne!(reply.header("etag"), lock);
        assert_eq!(http.get(messages).await.status, 204);

        let given_back = format!("{messages}/{lock}/abandon");
        assert_eq!(http.ask("POST", &given_back, &[], b"").await.status, 204);
        let lost = http
            .ask("DELETE", &format!("{messages}/{lock}"), &[], b"")
            .await;
        assert_eq!(lost.status, 412);
        assert_eq!(lost.header("iothub-errorcode"), "DeviceMessageLockLost");

        let again = http.get(messages).await;
        assert_eq!(again.header("iothub-deliverycount"), "1");
        let lock = again.header("etag").trim_matches('"');
        let done = http
            .ask("DELETE", &format!("{messages}/{lock}"), &[], b"")
            .await;
        assert_eq!(done.status, 204);
        assert_eq!(soon(first.outcome()).await, C2dOutcome::Completed);

        let second = hub.send_c2d("d", C2d::new("")).unwrap();
        let reply = http.get(messages).await;
        let lock = reply.header("etag").trim_matches('"');
        let path = format!("{messages}/{lock}?api-version=2021-04-12&reject");
        assert_eq!(http.ask("DELETE", &path, &[], b"").await.status, 204);
        assert_eq!(soon(second.outcome()).await, C2dOutcome::Rejected);
        let nonsense = format!("{messages}/nonsense");
        assert_eq!(http.ask("DELETE", &nonsense, &[], b"").await.status, 412);
    }
}

#[tokio::test]
async fn a_purge_tells_how_many_messages_it_took() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let tickets: Vec<_> = (0..3)
        .map(|_| hub.send_c2d("d", C2d::new("x")).unwrap())
        .collect();
    let mut http = Http::policy(&hub, "service").await;
    let reply = http.ask("DELETE", "/devices/d/commands", &[], b"").await;
    assert_eq!(
        reply.json(),
        json!({"totalMessagesPurged": 3, "deviceId": "d", "moduleId": null})
    );
    for ticket in tickets {
        assert_eq!(ticket.outcome_now(), Some(C2dOutcome::Purged));
    }
    let ghost = http
        .ask("DELETE", "/devices/ghost/commands", &[], b"")
        .await;
    assert_eq!(ghost.status, 404);
}

#[tokio::test]
async fn a_service_is_told_over_http_what_became_of_its_message() {
    const FEEDBACK: &str = "/messages/serviceBound/feedback";
    let limits = Limits::default().with_feedback_wait(Duration::ZERO);
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(limits)
        .start()
        .await
        .unwrap();
    let mut service = Http::policy(&hub, "service").await;
    let mut device = Http::device(&hub, "d").await;
    assert_eq!(service.get(FEEDBACK).await.status, 204);
    let message = C2d::new("x").with_message_id("m-1").with_ack(Ack::Full);
    hub.send_c2d("d", message).unwrap();
    let reply = device.get(MESSAGES).await;
    let lock = reply.header("etag").trim_matches('"');
    let path = format!("{MESSAGES}/{lock}");
    assert_eq!(device.ask("DELETE", &path, &[], b"").await.status, 204);

    for last in [false, true] {
        let mut reply = service.get(FEEDBACK).await;
        while reply.status == 204 {
            reply = service.get(FEEDBACK).await;
        }
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("content-type"),
            "application/vnd.microsoft.iothub.feedback.json"
        );
        let record = &reply.json()[0];
        assert_eq!(record["originalMessageId"], "m-1");
        assert_eq!(record["statusCode"], "Success");
        let lock = reply.header("etag").trim_matches('"').to_owned();
        let path = format!("{FEEDBACK}/{lock}");
        let reply = if last {
            service.ask("DELETE", &path, &[], b"").await
        } else {
            service
                .ask("POST", &format!("{path}/abandon"), &[], b"")
                .await
        };
        assert_eq!(reply.status, 204);
        let lost = service.ask("DELETE", &path, &[], b"").await;
        assert_eq!(lost.status, 412);
    }
    assert_eq!(service.get(FEEDBACK).await.status, 204);
    assert_eq!(device.get(FEEDBACK).await.status, 401);
}

#[tokio::test]
async fn a_held_settlement_holds_the_answer_and_a_rejection_is_a_throttle() {
    let hub = plain_hub().await;
    let mut http = Http::device(&hub, "d").await;
    let held = hub.faults().hold_settlements();
    let (reply, ()) = tokio::join!(http.ask("POST", EVENTS, &[], b""), async {
        soon(hub.record().wait_for(1)).await;
        held.release();
    });
    assert_eq!(reply.status, 204);
    hub.faults().throttle(Some("d"), 1);
    assert_eq!(http.ask("POST", EVENTS, &[], b"").await.status, 429);
    assert_eq!(http.ask("POST", EVENTS, &[], b"").await.status, 204);
}

#[tokio::test]
async fn a_script_refuses_by_the_status_that_its_condition_stands_for() {
    let hub = plain_hub().await;
    let faults = hub.faults();
    let mut http = Http::device(&hub, "d").await;
    for (condition, status, code) in [
        ("amqp:resource-limit-exceeded", 403, "IotHubQuotaExceeded"),
        ("com.microsoft:argument-error", 400, "ArgumentInvalid"),
        ("amqp:unauthorized-access", 401, "IotHubUnauthorized"),
        ("amqp:not-found", 404, "DeviceNotFound"),
        ("amqp:link:message-size-exceeded", 413, "MessageTooLarge"),
        ("com.microsoft:timeout", 504, "GatewayTimeout"),
        ("amqp:internal-error", 500, "ServerError"),
    ] {
        faults.reject_next(Some("d"), 1, condition);
        let reply = http.ask("POST", EVENTS, &[], b"").await;
        assert_eq!(reply.status, status, "{condition}");
        assert_eq!(reply.header("iothub-errorcode"), code);
    }
    assert_eq!(http.ask("POST", EVENTS, &[], b"").await.status, 204);
}

#[tokio::test]
async fn a_script_refuses_a_good_token() {
    let hub = plain_hub().await;
    let mut http = Http::device(&hub, "d").await;
    hub.faults().refuse_token("d", 401, "no");
    assert_eq!(http.ask("POST", EVENTS, &[], b"").await.status, 401);
    assert_eq!(http.get(MESSAGES).await.status, 401);
    hub.faults().refuse_token("d", 429, "later");
    assert_eq!(http.ask("POST", EVENTS, &[], b"").await.status, 429);
    hub.faults().allow_token("d");
    assert_eq!(http.ask("POST", EVENTS, &[], b"").await.status, 204);
}

#[tokio::test]
async fn the_host_header_leads_to_the_hub_of_that_name() {
    let first = HubSimulator::builder()
        .with_tls(false)
        .start()
        .await
        .unwrap();
    let second = HubSimulator::builder()
        .with_host("second.test")
        .with_limits(Limits::default())
        .beside(&first)
        .start()
        .await
        .unwrap();
    let token = token(&second.device_connection_string("d"));
    let mut http = Http::connect(&second, &token).await;
    assert_eq!(http.ask("POST", EVENTS, &[], b"").await.status, 204);
    assert_eq!((first.record().count(), second.record().count()), (0, 1));
    assert_eq!(
        (first.connections().len(), second.connections().len()),
        (0, 1)
    );
    second.faults().cut_all();
    http.ended().await;
}
