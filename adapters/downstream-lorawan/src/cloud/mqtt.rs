//! A connection to a network server's MQTT broker.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{Stream, StreamExt as _, unfold};
use gateway_core::{Backoff, ConfigError, MessageId, Settlement};
use gateway_net::tls::client;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, Publish, QoS,
    StateError, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport, mqttbytes,
};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::config::{MAX_SKIPPED, MqttConfig};
use super::dialect::{Dialect, Publication};
use super::intake::{Intake, Retry, Routes};
use crate::embed::NetworkServer;
use crate::event::{DevEui, Downlink, DownlinkId, FailureReason};

/// Downlinks and acknowledgements on their way to the broker, besides those in flight.
const SPARE_REQUESTS: usize = 256;

/// What is in a packet besides the message, at most, in bytes: a topic and a few more.
const MAX_TOPIC: usize = 65_536 + 16;

/// How long the last acknowledgements may take on their way when the gateway ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends downlinks by way of the broker.
#[derive(Debug)]
pub(super) struct MqttNetwork {
    client: AsyncClient,
    dialect: Arc<dyn Dialect>,
    routes: Arc<Routes>,
    is_connected: Arc<AtomicBool>,
}

impl MqttNetwork {
    fn publish(&self, Publication { topic, body }: Publication) -> Result<(), FailureReason> {
        if !self.is_connected.load(Ordering::Relaxed) {
            return Err(FailureReason::Busy);
        }
        let sent = self
            .client
            .try_publish(topic, QoS::AtLeastOnce, false, body);
        sent.map_err(|_| FailureReason::Busy)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl NetworkServer for MqttNetwork {
    async fn send(&self, downlink: Downlink) -> Result<(), FailureReason> {
        let route = self.routes.find(downlink.dev_eui);
        let route = route.ok_or(FailureReason::UnknownDevice)?;
        self.publish(self.dialect.send(&downlink, &route))
    }

    async fn withdraw(&self, dev_eui: DevEui, downlink: &DownlinkId) {
        let route = self.routes.find(dev_eui);
        let Some(publication) = route.and_then(|route| self.dialect.withdraw(&route)) else {
            return;
        };
        if self.publish(publication).is_err() {
            tracing::debug!(device.id = %dev_eui, %downlink, "Downlink could not be withdrawn");
        }
    }
}

/// Reads what the network server publishes.
#[derive(Debug)]
pub(super) struct Link {
    client: AsyncClient,
    dialect: Arc<dyn Dialect>,
    is_connected: Arc<AtomicBool>,
    max_in_flight: usize,
    max_message: usize,
}

/// Makes the two halves of a connection; it is opened when the link runs.
pub(super) fn connect(
    config: &MqttConfig,
    dialect: Arc<dyn Dialect>,
    routes: Arc<Routes>,
) -> Result<(MqttNetwork, Link, EventLoop), ConfigError> {
    config.validate()?;
    let capacity = config.max_in_flight + SPARE_REQUESTS;
    let (client, eventloop) = AsyncClient::new(options(config)?, capacity);
    let is_connected = Arc::new(AtomicBool::new(false));
    let network = MqttNetwork {
        client: client.clone(),
        dialect: dialect.clone(),
        routes,
        is_connected: is_connected.clone(),
    };
    let link = Link {
        client,
        dialect,
        is_connected,
        max_in_flight: config.max_in_flight,
        max_message: config.max_message,
    };
    Ok((network, link, eventloop))
}

fn options(config: &MqttConfig) -> Result<MqttOptions, ConfigError> {
    let default_port = if config.tls { 8883 } else { 1883 };
    let client_id = config.client_id.clone().unwrap_or_else(|| {
        // A broker takes 23 characters at least (MQTT 3.1.1, 3.1.3.1).
        format!("gw{}", &MessageId::random().as_str()[..20])
    });
    let port = config.port.unwrap_or(default_port);
    let max_packet = config.max_message + MAX_TOPIC;
    let mut options = MqttOptions::new(client_id, &config.host, port);
    options
        .set_clean_session(config.client_id.is_none())
        .set_keep_alive(config.keep_alive)
        .set_manual_acks(true)
        .set_max_packet_size(max_packet, max_packet);
    if let Some(username) = &config.username {
        let password = config
            .password
            .as_ref()
            .map_or("", |secret| secret.reveal());
        options.set_credentials(username, password);
    }
    if config.tls {
        let tls = TlsConfiguration::Rustls(client::config(config.ca_file.as_deref(), None)?);
        options.set_transport(Transport::tls_with_config(tls));
    }
    Ok(options)
}

/// What happens on the connection; after each failure in a row it is longer until the next try.
fn happenings(eventloop: EventLoop) -> impl Stream<Item = Result<Event, ConnectionError>> {
    unfold((eventloop, 0), async |(mut eventloop, mut failures)| {
        if failures > 0 {
            // What came before the loss must not seem to come on the next connection.
            if let Some(event) = eventloop.state.events.pop_front() {
                return Some((Ok(event), (eventloop, failures)));
            }
            sleep(Backoff::default().delay(failures - 1)).await;
        }
        let happened = eventloop.poll().await;
        failures = match &happened {
            Ok(_) => 0,
            Err(error) => {
                make_room(&mut eventloop.mqtt_options, error);
                failures.saturating_add(1)
            }
        };
        Some((happened, (eventloop, failures)))
    })
}

/// Takes a message that was too long when the broker sends it again, so that it can be dropped.
fn make_room(options: &mut MqttOptions, error: &ConnectionError) {
    let ConnectionError::MqttState(StateError::Deserialization(
        mqttbytes::Error::PayloadSizeLimitExceeded(length),
    )) = error
    else {
        return;
    };
    if *length > MAX_SKIPPED {
        tracing::error!(
            length,
            "A message is too long to be dropped; let the broker drop it"
        );
        return;
    }
    options.set_max_packet_size(*length, *length);
}

/// A message that was handed in.
type Handled = (u64, Publish, Settlement);

/// What goes on while a link runs.
#[derive(Debug)]
struct Running<'a> {
    link: &'a Link,
    intake: &'a Arc<Intake>,
    tasks: JoinSet<Handled>,
    /// Acknowledgements that found no room, or no connection; the broker bounds how many messages it
    /// sends without.
    unsent: VecDeque<Publish>,
    /// Counts connections: a message of an earlier one comes again, perhaps under another number.
    connection: u64,
}

impl Link {
    /// Reads until shutdown, and acknowledges what was settled.
    pub(super) async fn run(
        self,
        eventloop: EventLoop,
        intake: Arc<Intake>,
        shutdown: CancellationToken,
    ) {
        let mut happenings = pin!(happenings(eventloop));
        let mut running = Running {
            link: &self,
            intake: &intake,
            tasks: JoinSet::new(),
            unsent: VecDeque::new(),
            connection: 0,
        };
        loop {
            let has_room = running.tasks.len() < self.max_in_flight;
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(happened) = happenings.next(), if has_room => {
                    if let Some(publish) = running.note(happened) {
                        running.begin(publish);
                    }
                }
                Some(ended) = running.tasks.join_next() => running.end(ended),
            }
        }
        // What comes now comes again: it is not acknowledged.
        while !running.tasks.is_empty() {
            tokio::select! {
                Some(happened) = happenings.next() => drop(running.note(happened)),
                Some(ended) = running.tasks.join_next() => running.end(ended),
            }
        }
        self.is_connected.store(false, Ordering::Relaxed);
        if self.client.try_disconnect().is_ok() {
            let gone = happenings.any(async |happened| {
                matches!(happened, Err(_) | Ok(Event::Outgoing(Outgoing::Disconnect)))
            });
            drop(timeout(CLOSE_TIMEOUT, gone).await);
        }
    }
}

impl Running<'_> {
    /// Notes what happened, and gives a message if one came.
    fn note(&mut self, happened: Result<Event, ConnectionError>) -> Option<Publish> {
        match happened {
            Ok(Event::Incoming(Packet::Publish(publish))) => return Some(publish),
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                tracing::info!("Connected with the network server's broker");
                self.connection += 1;
                self.unsent.clear();
                let filters = self.link.dialect.filters().into_iter();
                let filters = filters.map(|path| SubscribeFilter::new(path, QoS::AtLeastOnce));
                if let Err(error) = self.link.client.try_subscribe_many(filters) {
                    tracing::warn!(error = %error, "Nothing could be subscribed to");
                }
                self.link.is_connected.store(true, Ordering::Relaxed);
            }
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                    tracing::error!("The broker refuses a subscription; look at its access rules");
                }
            }
            // An acknowledgement that went has left room for another.
            Ok(_) => self.flush(),
            Err(error) => {
                self.link.is_connected.store(false, Ordering::Relaxed);
                tracing::warn!(error = %error, "No connection with the network server's broker");
            }
        }
        None
    }

    /// Hands a message in.
    fn begin(&mut self, publish: Publish) {
        let length = publish.payload.len();
        if length > self.link.max_message {
            let topic = publish.topic.as_str();
            tracing::warn!(
                topic,
                length,
                lost = 1,
                "Message was longer than max_message"
            );
            return self.acknowledge(publish);
        }
        let told = match self.link.dialect.read(&publish.topic, &publish.payload) {
            Ok(told) => told,
            Err(error) => {
                let topic = publish.topic.as_str();
                tracing::warn!(topic, error = %error, lost = 1, "Message was not understood");
                return self.acknowledge(publish);
            }
        };
        let (turn, connection) = (self.intake.queue(&told), self.connection);
        let intake = self.intake.clone();
        self.tasks.spawn(async move {
            let settlement = intake.take(turn, told, Retry::Here).await;
            (connection, publish, settlement)
        });
    }

    fn end(&mut self, ended: Result<Handled, JoinError>) {
        match ended {
            Ok((_, _, Settlement::RetryLater(_))) => {}
            Ok((connection, publish, _)) if connection == self.connection => {
                self.acknowledge(publish);
            }
            // It comes again, and is known then.
            Ok(_) => {}
            Err(error) => {
                tracing::error!(error = %error, "A task panicked; please report this");
            }
        }
    }

    fn acknowledge(&mut self, publish: Publish) {
        self.unsent.push_back(publish);
        self.flush();
    }

    fn flush(&mut self) {
        // What is given to the client after a loss would go out on the next connection.
        while self.link.is_connected.load(Ordering::Relaxed)
            && let Some(publish) = self.unsent.front()
            && self.link.client.try_ack(publish).is_ok()
        {
            self.unsent.pop_front();
        }
    }
}
