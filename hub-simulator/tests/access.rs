//! Who gets in: SASL, tokens on `$cbs`, their limits and their end.

mod support;

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use fe2o3_amqp::connection::{Connection, OpenError};
use fe2o3_amqp::link::Sender;
use fe2o3_amqp::sasl_profile::SaslProfile;
use hub_simulator::{C2d, Checks, ConnectionString, HubSimulator, Limits, WhichKey, sign};
use support::{Client, DataBody, accepted, expiry, message, plain_hub, soon, tls_stream, token};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_bad_token_is_told_why() {
    let hub = plain_hub().await;
    let key = ConnectionString::parse(&hub.device_connection_string("dev1"))
        .unwrap()
        .key;
    let mut client = Client::connect(&hub).await;
    let good = expiry(HOUR);
    let mut refused = async |token: String| client.cbs.put("name", &token).await;
    let wrong = sign("localhost/devices/dev1", b"wrong", good, None);
    assert_eq!(
        refused(wrong).await,
        (401, "The specified SAS token has an invalid signature. It does not match either the primary or secondary key.".to_owned())
    );
    assert_eq!(
        refused(sign("localhost/devices/ghost", &key, good, None)).await,
        (
            404,
            "Device ghost at IotHub localhost not registered.".to_owned()
        )
    );
    assert_eq!(
        refused(sign("localhost/devices/dev1", &key, 1, None))
            .await
            .0,
        401
    );
    assert_eq!(
        refused(sign("elsewhere/devices/dev1", &key, good, None))
            .await
            .0,
        401
    );
    assert_eq!(refused("nonsense".to_owned()).await.0, 401);
    hub.set_enabled("dev1", false);
    assert_eq!(
        refused(sign("localhost/devices/dev1", &key, good, None))
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn one_key_of_two_is_made_anew_and_the_other_stays_good() {
    let hub = plain_hub().await;
    let mut client = Client::connect(&hub).await;
    let mut status = async |resource: &str, key: &str, policy: Option<&str>| {
        let key = BASE64.decode(key).unwrap();
        let token = sign(resource, &key, expiry(HOUR), policy);
        client.cbs.put("name", &token).await.0
    };
    let device = "localhost/devices/dev1";
    let old = hub.add_device("dev1");
    for which in [WhichKey::Primary, WhichKey::Secondary] {
        let new = hub.regenerate_key("dev1", which).unwrap();
        let (gone, stays) = match which {
            WhichKey::Primary => (&old.primary, &old.secondary),
            WhichKey::Secondary => (&old.secondary, &new.primary),
        };
        assert_eq!(status(device, gone, None).await, 401);
        assert_eq!(status(device, stays, None).await, 200);
    }
    let old = hub.policy_keys("device").unwrap();
    let new = hub
        .regenerate_policy_key("device", WhichKey::Secondary)
        .unwrap();
    let policy = Some("device");
    assert_eq!(status("localhost", &old.secondary, policy).await, 401);
    assert_eq!(status("localhost", &new.primary, policy).await, 200);
    assert!(hub.regenerate_key("ghost", WhichKey::Primary).is_none());
}

#[tokio::test]
async fn a_request_that_is_no_put_token_is_a_bad_request() {
    let hub = plain_hub().await;
    let mut client = Client::connect(&hub).await;
    let sas = ("type", "servicebus.windows.net:sastoken");
    for request in [
        vec![("operation", "steal-token"), sas, ("name", "x")],
        vec![("operation", "put-token"), ("type", "jwt"), ("name", "x")],
        vec![("operation", "put-token"), sas],
    ] {
        assert_eq!(
            client.cbs.ask(&request, "token").await.0,
            400,
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn the_token_after_the_last_allowed_is_refused_and_a_renewal_is_not() {
    let limits = Limits::default().with_tokens_per_connection(2);
    let hub = HubSimulator::builder()
        .with_tls(false)
        .with_limits(limits)
        .start()
        .await
        .unwrap();
    let mut client = Client::connect(&hub).await;
    for id in ["a", "b"] {
        client
            .authorize(&hub.device_connection_string(id), id)
            .await;
    }
    let third = client
        .cbs
        .put("c", &token(&hub.device_connection_string("c")))
        .await;
    let text = "The maximum number of tokens per connection (2) has been reached.";
    assert_eq!(third, (500, text.to_owned()));
    client
        .authorize(&hub.device_connection_string("a"), "a")
        .await;
    assert_eq!(hub.connections()[0].tokens, 2);
}

#[tokio::test]
async fn an_expired_token_detaches_only_its_own_links() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "stays").await;
    let mut stays = client.telemetry("stays").await;
    let string = ConnectionString::parse(&hub.device_connection_string("goes")).unwrap();
    let token = string.sign(expiry(Duration::from_secs(2)));
    assert_eq!(client.cbs.put("goes", &token).await.0, 200);
    let mut goes = client.telemetry("goes").await;

    let error = format!("{:?}", soon(goes.on_detach()).await);
    assert!(
        error.contains("UnauthorizedAccess") && error.contains("Token Invalid."),
        "{error}"
    );
    accepted(soon(stays.send(message("1", "x"))).await.unwrap());
    assert_eq!(hub.connections()[0].tokens, 1);
}

#[tokio::test]
async fn links_end_with_their_device_though_one_of_the_same_name_is_there() {
    const C2D: &str = "/devices/dev1/messages/devicebound";
    let hub = plain_hub().await;
    hub.add_devices(["dev1", "stays"]);
    let mut client = Client::connect(&hub).await;
    let policy = hub.policy_connection_string("device");
    client.authorize(&policy, "device").await;
    let mut stays = client.telemetry("stays").await;
    let mut telemetry = client.telemetry("dev1").await;
    let mut messages = client.receiver(C2D).await;
    // The connection hears of it when the second one is there already.
    hub.remove_device("dev1");
    hub.add_device("dev1");
    let sends = format!("{:?}", soon(telemetry.on_detach()).await);
    let receives = format!("{:?}", soon(messages.recv::<DataBody>()).await);
    for error in [sends, receives] {
        assert!(
            error.contains("NotFound") && error.contains("not registered"),
            "{error}"
        );
    }
    accepted(soon(stays.send(message("1", "x"))).await.unwrap());
    let mut messages = client.receiver(C2D).await;
    hub.send_c2d("dev1", C2d::new("x")).unwrap();
    soon(messages.recv::<DataBody>()).await.unwrap();
}

#[tokio::test]
async fn a_removed_devices_token_is_none_of_its_successors() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let mut telemetry = client.telemetry("dev1").await;
    hub.remove_device("dev1");
    hub.add_device("dev1");
    soon(telemetry.on_detach()).await;
    let address = "/devices/dev1/messages/events";
    let again = Sender::attach(&mut client.session, "again", address);
    let refused = format!("{:?}", soon(again).await.unwrap_err());
    assert!(refused.contains("Unauthorized"), "{refused}");
    let string = hub.device_connection_string("dev1");
    client.authorize(&string, "dev1").await;
    let mut telemetry = client.telemetry("dev1").await;
    accepted(soon(telemetry.send(message("1", "x"))).await.unwrap());
}

#[tokio::test]
async fn a_renewed_token_keeps_its_links() {
    let hub = plain_hub().await;
    let mut client = Client::connect(&hub).await;
    let string = ConnectionString::parse(&hub.device_connection_string("dev1")).unwrap();
    assert_eq!(
        client
            .cbs
            .put("dev1", &string.sign(expiry(Duration::from_secs(2))))
            .await
            .0,
        200
    );
    let mut sender = client.telemetry("dev1").await;
    assert_eq!(
        client.cbs.put("dev1", &string.sign(expiry(HOUR))).await.0,
        200
    );
    assert!(
        tokio::time::timeout(Duration::from_secs(3), sender.on_detach())
            .await
            .is_err()
    );
    accepted(soon(sender.send(message("1", "x"))).await.unwrap());
}

#[tokio::test]
async fn a_plain_login_is_one_identity_for_the_connection() {
    let hub = HubSimulator::builder()
        .with_host("my.hub.test")
        .start()
        .await
        .unwrap();
    let password = token(&hub.device_connection_string("dev1"));
    let profile = SaslProfile::Plain {
        username: "dev1@sas.my".to_owned(),
        password,
    };
    let mut client = Client::connect_tls(&hub, profile).await;
    let mut sender = client.telemetry("dev1").await;
    accepted(soon(sender.send(message("1", "x"))).await.unwrap());
}

#[tokio::test]
async fn a_plain_login_with_the_wrong_name_fails() {
    let hub = HubSimulator::builder()
        .with_host("my.hub.test")
        .start()
        .await
        .unwrap();
    let password = token(&hub.device_connection_string("dev1"));
    for (username, code) in [
        ("dev2@sas.my", "Auth"),
        ("dev1@sas.root.my", "Auth"),
        ("dev1@sas.my.hub.test", "Sys"),
    ] {
        let profile = SaslProfile::Plain {
            username: username.to_owned(),
            password: password.clone(),
        };
        let stream = tls_stream(&hub).await;
        let builder = Connection::builder()
            .container_id("test")
            .sasl_profile(profile);
        let OpenError::SaslError { code: got, .. } =
            soon(builder.open_with_stream(stream)).await.unwrap_err()
        else {
            panic!("the login is refused by its outcome")
        };
        assert_eq!(format!("{got:?}"), code, "{username}");
    }
}

#[tokio::test]
async fn a_device_token_does_not_open_the_service_side() {
    let hub = plain_hub().await;
    let mut client = Client::device(&hub, "dev1").await;
    let attach = fe2o3_amqp::Sender::attach(&mut client.session, "s", "/messages/devicebound");
    let error = format!("{:?}", soon(attach).await.unwrap_err());
    assert!(error.contains("UnauthorizedAccess"), "{error}");
}

#[allow(clippy::unwrap_used, reason = "a helper of tests")]
async fn lenient_hub(relax: impl FnOnce(&mut Checks)) -> HubSimulator {
    let mut checks = Checks::default();
    relax(&mut checks);
    HubSimulator::builder()
        .with_tls(false)
        .with_limits(Limits::default().with_checks(checks))
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn each_rule_about_tokens_has_a_switch() {
    type Relax = fn(&mut Checks);
    type Token = fn(&[u8]) -> String;
    let relaxed: [(Relax, Token); 3] = [
        (
            |checks| checks.signature = false,
            |_| sign("localhost/devices/dev1", b"wrong", expiry(HOUR), None),
        ),
        (
            |checks| checks.expiry = false,
            |key| sign("localhost/devices/dev1", key, 1, None),
        ),
        (
            |checks| checks.scope = false,
            |key| sign("elsewhere/devices/dev1", key, expiry(HOUR), None),
        ),
    ];
    for (relax, token) in relaxed {
        let hub = lenient_hub(relax).await;
        let key = ConnectionString::parse(&hub.device_connection_string("dev1"))
            .unwrap()
            .key;
        let mut client = Client::connect(&hub).await;
        assert_eq!(client.cbs.put("name", &token(&key)).await.0, 200);
        let mut sender = client.telemetry("dev1").await;
        accepted(soon(sender.send(message("m", "x"))).await.unwrap());
    }
}

#[tokio::test]
async fn disabled_devices_and_second_receivers_are_let_be_where_that_is_asked_for() {
    let hub = lenient_hub(|checks| {
        checks.disabled = false;
        checks.link_steal = false;
    })
    .await;
    hub.add_device("dev1");
    hub.set_enabled("dev1", false);
    let address = "/devices/dev1/messages/devicebound";
    let mut first = Client::device(&hub, "dev1").await;
    let former = first.receiver(address).await;
    let mut second = Client::device(&hub, "dev1").await;
    let mut newer = second.receiver(address).await;
    hub.send_c2d("dev1", C2d::new("one")).unwrap();
    let delivery = soon(newer.recv::<DataBody>()).await.unwrap();
    soon(newer.accept(&delivery)).await.unwrap();
    // The former one is attached still.
    soon(former.close()).await.unwrap();
}
