//! Requests over HTTP: who may ask, how a refusal reads, and what a bad client cannot do to others.

mod support;
#[path = "support/http.rs"]
mod web;

use support::{plain_hub, token};
use web::Http;

#[tokio::test]
async fn a_policy_with_the_right_is_answered() {
    let hub = plain_hub().await;
    let token = token(&hub.policy_connection_string("service"));
    let mut http = Http::connect(&hub, &token).await;
    let reply = http.get("/statistics/service").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["connectedDeviceCount"], 0);
}

#[tokio::test]
async fn whoever_has_no_right_is_refused_in_the_hubs_words() {
    let hub = plain_hub().await;
    hub.add_device("d");
    let device = token(&hub.device_connection_string("d"));
    let policy = token(&hub.policy_connection_string("device"));
    for token in ["", "nonsense", &device, &policy] {
        let mut http = Http::connect(&hub, token).await;
        let reply = http.get("/statistics/service").await;
        assert_eq!(reply.status, 401, "{token}");
        assert_eq!(reply.header("iothub-errorcode"), "IotHubUnauthorizedAccess");
        let body = reply.json();
        assert_eq!(
            body["Message"],
            "ErrorCode:IotHubUnauthorizedAccess;Unauthorized"
        );
        let exception = body["ExceptionMessage"].as_str().unwrap();
        assert!(exception.starts_with("Tracking ID:"));
    }
}
