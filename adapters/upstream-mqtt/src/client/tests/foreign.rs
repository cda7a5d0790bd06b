//! The client with those who know nothing of it: the hub simulator, Mosquitto, `rumqttc`.

#[path = "../../../tests/common/broker.rs"]
mod broker;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use broker::Mosquitto;
use futures_util::future::join_all;
use gateway_core::credential::{SasToken, SymmetricKey, sas_resource};
use gateway_core::{DeviceId, ErrorKind};
use gateway_net::tls::client;
use hub_simulator::{C2d, C2dOutcome, HubSimulator};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio_util::task::TaskTracker;

use super::{BOTH, Kept, local, message, soon};
use crate::client::{Client, Options, Properties5, Publish, Transport, Version};
use crate::error::MqttError;

const DEVICE: &str = "dev-1";

struct Connected {
    client: Client,
    kept: Arc<Kept>,
    _tasks: TaskTracker,
}

async fn connect(options: &Options) -> Result<Connected, MqttError> {
    let (kept, tasks) = (Arc::new(Kept::default()), TaskTracker::new());
    let client = soon(Client::connect(options, kept.clone(), &tasks)).await?;
    Ok(Connected {
        client,
        kept,
        _tasks: tasks,
    })
}

async fn connected(options: &Options) -> Connected {
    connect(options).await.expect("the broker lets it in")
}

/// A device of the hub, by TLS.
fn device(hub: &HubSimulator) -> Options {
    let keys = hub.add_device(DEVICE);
    let key = SymmetricKey::from_base64(&keys.primary).expect("a key");
    let id = DeviceId::new(DEVICE).expect("a device id");
    let expires = SystemTime::now() + Duration::from_secs(3600);
    let token = SasToken::sign(&sas_resource(hub.host(), &id), &key, expires);
    let mut options = local(hub.mqtts_addr().port(), Version::V4);
    options.client_id = DEVICE.to_owned();
    options.user_name = Some(format!("{}/{DEVICE}/?api-version=2021-04-12", hub.host()));
    options.password = Some(token.secret_text().to_owned());
    options.clean_start = false;
    options.transport = Transport::Tls(client::config(None, hub.ca_pem()).expect("a CA"));
    options
}

async fn hub() -> HubSimulator {
    let started = HubSimulator::builder().with_host("localhost").start().await;
    started.expect("the simulator starts")
}

#[tokio::test]
async fn a_device_speaks_with_the_hub_over_tls_and_over_a_websocket() {
    let hub = hub().await;
    let over_tls = device(&hub);
    let Transport::Tls(tls) = over_tls.transport.clone() else {
        panic!("TLS")
    };
    let mut over_websocket = over_tls.clone();
    over_websocket.port = hub.https_addr().port();
    over_websocket.transport = Transport::WebSocket {
        tls: Some(tls),
        path: "/$iothub/websocket".to_owned(),
    };
    for options in [over_tls, over_websocket] {
        let Connected { client, kept, .. } = connected(&options).await;
        let filter = format!("devices/{DEVICE}/messages/devicebound/#");
        soon(client.subscribe(std::slice::from_ref(&filter)))
            .await
            .expect("granted");
        let large = "x".repeat(200_000);
        for body in ["one", "two", &large] {
            let publish = Publish {
                topic: format!("devices/{DEVICE}/messages/events/"),
                payload: body.to_owned().into(),
                ..Publish::default()
            };
            soon(client.publish(publish)).await.expect("accepted");
        }
        let bodies: Vec<_> = hub
            .record()
            .take()
            .into_iter()
            .map(|one| one.body)
            .collect();
        assert_eq!(bodies, [b"one", b"two", large.as_bytes()]);

        let ticket = hub.send_c2d(DEVICE, C2d::new("wake up")).expect("queued");
        let incoming = kept.wait_for(1).await.remove(0);
        assert_eq!(&incoming.payload[..], b"wake up");
        assert_eq!(ticket.outcome_now(), None, "nobody has acknowledged it");
        incoming.receipt.acknowledge();
        assert_eq!(soon(ticket.outcome()).await, C2dOutcome::Completed);
        soon(client.unsubscribe(&[filter])).await.expect("ended");
        soon(client.disconnect(super::SOON)).await;
    }
}

#[tokio::test]
async fn a_hub_that_does_not_know_the_key_says_so() {
    let hub = hub().await;
    let mut options = device(&hub);
    options.password = Some("SharedAccessSignature sr=x&sig=y&se=1".to_owned());
    let refused = connect(&options).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unauthorized);
    options.transport = Transport::Tls(client::config(None, None).expect("the system's"));
    let distrusted = connect(&options).await.map(|_| ()).unwrap_err();
    assert!(matches!(distrusted, MqttError::Connect(_)));
}

#[tokio::test]
async fn a_secret_does_not_show() {
    let hub = hub().await;
    let options = device(&hub);
    let shown = format!("{options:?}");
    assert!(!shown.contains("SharedAccessSignature"), "{shown}");
    let Connected { client, .. } = connected(&options).await;
    assert!(!format!("{client:?}").contains("SharedAccessSignature"));
}

#[tokio::test]
async fn mosquitto_takes_and_gives_messages_in_order() {
    // By default it drops messages that it has acknowledged once 1,000 wait for a subscriber.
    let lines = "allow_anonymous true\nmax_queued_messages 0\n";
    let Some(broker) = Mosquitto::start_with(lines).await else {
        return;
    };
    for version in BOTH {
        let options = local(broker.port(), version);
        let Connected { client, kept, .. } = connected(&options).await;
        soon(client.subscribe(&["a/#".to_owned()]))
            .await
            .expect("granted");
        let publishing = join_all((0..2000).map(|number| client.publish(message(number))));
        let (told, incoming) = tokio::join!(soon(publishing), async {
            let mut all = Vec::new();
            while all.len() < 2000 {
                for incoming in kept.wait_for(1).await {
                    all.push(incoming.payload);
                    incoming.receipt.acknowledge();
                }
            }
            all
        });
        assert!(told.iter().all(Result::is_ok));
        let expected: Vec<_> = (0..2000).map(|number| number.to_string()).collect();
        assert_eq!(incoming, expected);
        soon(client.disconnect(super::SOON)).await;
    }
}

#[tokio::test]
async fn mosquitto_refuses_a_stranger() {
    let Some(broker) = Mosquitto::start_with("allow_anonymous false\n").await else {
        return;
    };
    for version in BOTH {
        let refused = connect(&local(broker.port(), version)).await;
        let refused = refused.map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unauthorized, "{refused}");
    }
}

#[tokio::test]
async fn mosquitto_lets_one_identifier_have_one_connection() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let options = local(broker.port(), Version::V5);
    let first = connected(&options).await;
    let second = connected(&options).await;
    soon(first.client.down().cancelled()).await;
    // Whether it says why depends on its version.
    let kind = first.client.reason().expect("it is down").kind();
    assert!(matches!(
        kind,
        ErrorKind::Displaced | ErrorKind::Disconnected
    ));
    assert!(!second.client.down().is_cancelled());
}

#[tokio::test]
async fn mosquitto_sends_again_what_was_let_go() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    for version in BOTH {
        let mut options = local(broker.port(), version);
        options.client_id = format!("lasting-{version:?}");
        options.clean_start = false;
        options.session_expiry = Some(Duration::from_secs(3600));
        let Connected { client, kept, .. } = connected(&options).await;
        assert!(!client.is_session_present());
        soon(client.subscribe(&["a/#".to_owned()]))
            .await
            .expect("granted");
        soon(client.publish(message(1))).await.expect("accepted");
        soon(client.publish(message(2))).await.expect("accepted");
        let mut incoming = kept.wait_for(2).await.into_iter();
        drop(incoming.next());
        incoming.next().expect("two").receipt.acknowledge();
        soon(client.disconnect(super::SOON)).await;

        let Connected { client, kept, .. } = connected(&options).await;
        assert!(client.is_session_present());
        let again = kept.wait_for(1).await.remove(0);
        assert_eq!((&again.payload[..], again.duplicate), (&b"1"[..], true));
        again.receipt.acknowledge();
        soon(client.disconnect(super::SOON)).await;
    }
}

#[tokio::test]
async fn what_a_killed_mosquitto_has_not_acknowledged_fails_at_once() {
    let Some(mut broker) = Mosquitto::start().await else {
        return;
    };
    let options = local(broker.port(), Version::V4);
    let Connected { client, .. } = connected(&options).await;
    broker.freeze();
    let publishing = join_all((0..10).map(|number| client.publish(message(number))));
    let (told, ()) = tokio::join!(soon(publishing), async {
        while client.in_flight() < 10 {
            tokio::task::yield_now().await;
        }
        broker.kill();
    });
    let down = |told: &Result<(), MqttError>| matches!(told, Err(MqttError::Down));
    assert!(told.iter().all(down));
    let refused = connect(&options).await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, MqttError::Connect(_)));
    broker.restart().await;
    let Connected { client, .. } = connected(&options).await;
    soon(client.publish(message(1))).await.expect("accepted");
}

#[tokio::test]
async fn rumqttc_hears_what_this_client_says_with_all_its_properties() {
    let Some(broker) = Mosquitto::start().await else {
        return;
    };
    let mut listening = MqttOptions::new("listener", "127.0.0.1", broker.port());
    listening.set_clean_start(true);
    let (listener, mut events) = AsyncClient::new(listening, 10);
    let subscribed = listener.subscribe("a/#", QoS::AtLeastOnce).await;
    subscribed.expect("a filter");
    while !matches!(
        soon(events.poll()).await.expect("a broker"),
        Event::Incoming(Packet::SubAck(_))
    ) {}
    let Connected { client, .. } = connected(&local(broker.port(), Version::V5)).await;
    let properties = Properties5 {
        user: vec![("name".to_owned(), "vålue".to_owned())],
        response_topic: Some("answers/1".to_owned()),
        correlation_data: Some(vec![0, 1, 2].into()),
        content_type: Some("text/plain".to_owned()),
        message_expiry: Some(100),
    };
    let publish = Publish {
        properties: Some(properties.clone()),
        ..message(1)
    };
    let hearing = async {
        loop {
            let event = soon(events.poll()).await.expect("a broker");
            if let Event::Incoming(Packet::Publish(publish)) = event {
                return publish;
            }
        }
    };
    let (told, heard) = tokio::join!(soon(client.publish(publish)), hearing);
    told.expect("accepted");
    assert_eq!(&heard.payload[..], b"1");
    let heard = heard.properties.expect("properties");
    assert_eq!(heard.user_properties, properties.user);
    assert_eq!(heard.response_topic, properties.response_topic);
    assert_eq!(heard.correlation_data, properties.correlation_data);
    assert_eq!(heard.content_type, properties.content_type);
    assert!(
        heard
            .message_expiry_interval
            .is_some_and(|left| left <= 100)
    );
}
