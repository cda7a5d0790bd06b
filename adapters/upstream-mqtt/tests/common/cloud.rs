//! What stands behind the broker: a foreign client that hears devices and commands them.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// A message, whichever the version.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) retain: bool,
    pub(crate) user: Vec<(String, String)>,
    pub(crate) content_type: Option<String>,
    pub(crate) correlation: Option<Bytes>,
    pub(crate) response_topic: Option<String>,
}

impl Message {
    pub(crate) fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            ..Self::default()
        }
    }

    pub(crate) fn user(&self, name: &str) -> Option<&str> {
        let mut user = self.user.iter();
        user.find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

type Answer = Box<dyn FnMut(&Message) -> Vec<Message> + Send>;

#[derive(Debug)]
enum Client {
    Old(rumqttc::AsyncClient),
    New(rumqttc::v5::AsyncClient),
}

impl Client {
    async fn subscribe(&self, filter: &str) {
        let subscribed = match self {
            Self::Old(client) => {
                let subscribed = client.subscribe(filter, rumqttc::QoS::AtLeastOnce).await;
                subscribed.is_ok()
            }
            Self::New(client) => {
                let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
                client.subscribe(filter, qos).await.is_ok()
            }
        };
        assert!(subscribed, "the cloud's own task is gone");
    }

    async fn publish(&self, message: Message) {
        let Message {
            topic,
            payload,
            retain,
            ..
        } = message;
        let published = match self {
            Self::Old(client) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                let published = client.publish_bytes(topic, qos, retain, payload).await;
                published.is_ok()
            }
            Self::New(client) => {
                let properties = PublishProperties {
                    user_properties: message.user,
                    content_type: message.content_type,
                    correlation_data: message.correlation,
                    response_topic: message.response_topic,
                    ..PublishProperties::default()
                };
                let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
                client
                    .publish_bytes_with_properties(topic, qos, retain, payload, properties)
                    .await
                    .is_ok()
            }
        };
        assert!(published, "the cloud's own task is gone");
    }
}

#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) messages: Vec<Message>,
    /// Subscriptions that the broker has granted.
    granted: usize,
}

/// A client that comes back by itself, in a session that lasts.
#[derive(Debug)]
pub(crate) struct Cloud {
    client: Arc<Client>,
    heard: Arc<watch::Sender<Heard>>,
    _task: JoinSet<()>,
}

/// The wait before the foreign client, which has none, tries again.
const AGAIN: Duration = Duration::from_millis(20);
/// The longest that anything takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);
const MOST: usize = 4 << 20;

impl Cloud {
    /// Connects and subscribes. `answer` may answer what comes.
    pub(crate) async fn start(
        name: &str,
        port: u16,
        is_new: bool,
        login: Option<(&str, &str)>,
        filters: &[&str],
        answer: impl FnMut(&Message) -> Vec<Message> + Send + 'static,
    ) -> Self {
        let heard = Arc::new(watch::Sender::new(Heard::default()));
        let mut task = JoinSet::new();
        let answer: Answer = Box::new(answer);
        let client = match is_new {
            true => {
                let mut options = rumqttc::v5::MqttOptions::new(name, "127.0.0.1", port);
                options.set_clean_start(false);
                options.set_session_expiry_interval(Some(3600));
                options.set_max_packet_size(Some(MOST as u32));
                options.set_connection_timeout(30);
                if let Some((user, password)) = login {
                    options.set_credentials(user, password);
                }
                let (client, events) = rumqttc::v5::AsyncClient::new(options, 1000);
                let client = Arc::new(Client::New(client));
                task.spawn(hear_new(events, client.clone(), heard.clone(), answer));
                client
            }
            false => {
                let mut options = rumqttc::MqttOptions::new(name, "127.0.0.1", port);
                options.set_clean_session(false);
                options.set_max_packet_size(MOST, MOST);
                options.set_inflight(1000);
                if let Some((user, password)) = login {
                    options.set_credentials(user, password);
                }
                let (client, events) = rumqttc::AsyncClient::new(options, 1000);
                let client = Arc::new(Client::Old(client));
                task.spawn(hear_old(events, client.clone(), heard.clone(), answer));
                client
            }
        };
        for filter in filters {
            client.subscribe(filter).await;
        }
        let cloud = Self {
            client,
            heard,
            _task: task,
        };
        cloud.wait(|heard| heard.granted >= filters.len()).await;
        cloud
    }

    pub(crate) async fn publish(&self, message: Message) {
        self.client.publish(message).await;
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.heard.borrow())
    }

    /// Waits for what is to be heard; what never comes fails the test.
    pub(crate) async fn wait(&self, wanted: impl FnMut(&Heard) -> bool) {
        let mut changes = self.heard.subscribe();
        let came = timeout(PATIENCE, changes.wait_for(wanted)).await.is_ok();
        let heard = self.look(|heard| heard.messages.len());
        assert!(came, "after {PATIENCE:?}: {heard} messages were heard");
    }

    /// Waits for a message, among those that came before as well.
    pub(crate) async fn find(&self, wanted: impl Fn(&Message) -> bool) -> Message {
        let mut changes = self.heard.subscribe();
        let heard = changes.wait_for(|heard| heard.messages.iter().any(&wanted));
        let heard = timeout(PATIENCE, heard).await.expect("it comes in time");
        let heard = heard.expect("the cloud hears");
        let mut messages = heard.messages.iter();
        messages
            .find(|message| wanted(message))
            .cloned()
            .expect("it was there")
    }
}

async fn take(
    client: &Arc<Client>,
    heard: &watch::Sender<Heard>,
    answer: &mut Answer,
    answers: &mut JoinSet<()>,
    message: Message,
) {
    let out = answer(&message);
    heard.send_modify(|heard| heard.messages.push(message));
    // Beside the loop, which must go on for anything to be sent.
    let client = client.clone();
    if !out.is_empty() {
        answers.spawn(async move {
            for message in out {
                client.publish(message).await;
            }
        });
    }
    while answers.try_join_next().is_some() {}
}

async fn hear_new(
    mut events: rumqttc::v5::EventLoop,
    client: Arc<Client>,
    heard: Arc<watch::Sender<Heard>>,
    mut answer: Answer,
) {
    use rumqttc::v5::mqttbytes::v5::Packet;
    let mut answers = JoinSet::new();
    loop {
        match events.poll().await {
            Ok(rumqttc::v5::Event::Incoming(Packet::Publish(publish))) => {
                let properties = publish.properties.unwrap_or_default();
                let message = Message {
                    topic: String::from_utf8(publish.topic.to_vec()).expect("UTF-8"),
                    payload: publish.payload,
                    retain: publish.retain,
                    user: properties.user_properties,
                    content_type: properties.content_type,
                    correlation: properties.correlation_data,
                    response_topic: properties.response_topic,
                };
                take(&client, &heard, &mut answer, &mut answers, message).await;
            }
            Ok(rumqttc::v5::Event::Incoming(Packet::SubAck(_))) => {
                heard.send_modify(|heard| heard.granted += 1);
            }
            Ok(_) => {}
            Err(_) => sleep(AGAIN).await,
        }
    }
}

async fn hear_old(
    mut events: rumqttc::EventLoop,
    client: Arc<Client>,
    heard: Arc<watch::Sender<Heard>>,
    mut answer: Answer,
) {
    use rumqttc::Packet;
    let mut answers = JoinSet::new();
    loop {
        match events.poll().await {
            Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) => {
                let message = Message {
                    topic: publish.topic,
                    payload: publish.payload,
                    retain: publish.retain,
                    ..Message::default()
                };
                take(&client, &heard, &mut answer, &mut answers, message).await;
            }
            Ok(rumqttc::Event::Incoming(Packet::SubAck(_))) => {
                heard.send_modify(|heard| heard.granted += 1);
            }
            Ok(_) => {}
            Err(_) => sleep(AGAIN).await,
        }
    }
}

/// A twin service: answers `…/twin/get` and `…/twin/reported` as the adapter's documentation says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Twins(Arc<Mutex<HashMap<String, Twin>>>);

#[derive(Debug, Clone, Default)]
struct Twin {
    desired: serde_json::Map<String, serde_json::Value>,
    reported: serde_json::Map<String, serde_json::Value>,
    desired_version: u64,
    reported_version: u64,
}

impl Twins {
    /// Changes desired properties; gives the change as it is to be published.
    pub(crate) fn patch_desired(&self, device: &str, patch: &str) -> serde_json::Value {
        let mut patch: serde_json::Value = serde_json::from_str(patch).expect("JSON");
        let mut twins = self.0.lock().expect("no panic");
        let twin = twins.entry(device.to_owned()).or_default();
        merge(&mut twin.desired, patch.as_object().expect("an object"));
        twin.desired_version += 1;
        patch["$version"] = twin.desired_version.into();
        patch
    }

    /// Answers a request, if it is one.
    pub(crate) fn answer(&self, request: &Message) -> Vec<Message> {
        let levels: Vec<_> = request.topic.split('/').collect();
        let ["devices", device, "twin", what @ ("get" | "reported")] = levels[..] else {
            return Vec::new();
        };
        let is_new = request.response_topic.is_some();
        let (id, patch) = match is_new {
            true => (String::new(), request.payload.to_vec()),
            false => {
                let envelope: serde_json::Value =
                    serde_json::from_slice(&request.payload).expect("an envelope");
                let id = envelope["request_id"]
                    .as_str()
                    .expect("a request id")
                    .to_owned();
                (id, envelope["json"].to_string().into_bytes())
            }
        };
        let mut twins = self.0.lock().expect("no panic");
        let twin = twins.entry(device.to_owned()).or_default();
        let (body, version) = match what {
            "get" => {
                let mut desired = serde_json::Value::Object(twin.desired.clone());
                desired["$version"] = twin.desired_version.into();
                let reported = serde_json::Value::Object(twin.reported.clone());
                let body = serde_json::json!({"desired": desired, "reported": reported});
                (body, None)
            }
            _ => {
                let patch: serde_json::Value = serde_json::from_slice(&patch).expect("JSON");
                merge(&mut twin.reported, patch.as_object().expect("an object"));
                twin.reported_version += 1;
                (serde_json::Value::Null, Some(twin.reported_version))
            }
        };
        vec![match is_new {
            true => Message {
                topic: request.response_topic.clone().unwrap_or_default(),
                payload: Bytes::from(body.to_string()),
                correlation: request.correlation.clone(),
                user: [("$status".to_owned(), "200".to_owned())]
                    .into_iter()
                    .chain(version.map(|v| ("$version".to_owned(), v.to_string())))
                    .collect(),
                ..Message::default()
            },
            false => {
                let envelope = serde_json::json!({"request_id": id, "status": 200,
                    "version": version, "json": body});
                Message::new(
                    format!("devices/{device}/twin/answers"),
                    envelope.to_string(),
                )
            }
        }]
    }
}

/// RFC 7396.
fn merge(
    target: &mut serde_json::Map<String, serde_json::Value>,
    patch: &serde_json::Map<String, serde_json::Value>,
) {
    for (name, value) in patch {
        match value {
            serde_json::Value::Null => drop(target.remove(name)),
            serde_json::Value::Object(patch) => {
                let slot = target.entry(name).or_insert_with(|| serde_json::json!({}));
                if !slot.is_object() {
                    *slot = serde_json::json!({});
                }
                if let Some(target) = slot.as_object_mut() {
                    merge(target, patch);
                }
            }
            value => drop(target.insert(name.clone(), value.clone())),
        }
    }
}
