//! The AMQP client alone, with the same messages in the same layout: what the multiplexer is
//! measured against.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::{Session, SessionHandle};
use fe2o3_amqp::{Connection, Receiver, Sender};
use fe2o3_amqp_types::definitions::SenderSettleMode;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Data, Message, MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Value};
use gateway_core::DeviceId;
use gateway_core::credential::{SasToken, sas_resource};
use gateway_upstream_amqp::internal::{Dialer, Stream};
use gateway_upstream_amqp::{PoolConfig, WireConfig};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::coalesced::coalesce;
use crate::embedded::Keys;
use crate::hub::HubAccess;
use crate::{BODY, BoxFuture, HOST, device_name};

/// How long a token is good for: longer than anything here is measured.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How frames get to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// As many at a time as have gathered.
    Coalesced,
    /// Each by itself, as the client does it on any other stream.
    EachFrame,
}

/// Connections, sessions and one sender a device.
#[derive(Debug)]
pub struct Raw {
    senders: Vec<Arc<Mutex<Sender>>>,
    _sessions: Vec<SessionHandle<()>>,
    _connections: Vec<ConnectionHandle<()>>,
    _pumps: JoinSet<std::io::Result<()>>,
}

impl Raw {
    /// Opens everything: as many devices a connection, and sessions, as the multiplexer by
    /// default.
    ///
    /// # Errors
    /// The hub refuses something.
    pub fn open(
        access: &HubAccess,
        devices: Range<usize>,
        keys: Keys,
        writes: Writes,
    ) -> BoxFuture<'_, Result<Self>> {
        Box::pin(Self::open_all(access, devices, keys, writes))
    }

    async fn open_all(
        access: &HubAccess,
        devices: Range<usize>,
        keys: Keys,
        writes: Writes,
    ) -> Result<Self> {
        let pool = PoolConfig::default();
        let dialer = Dialer::new(&access.amqp())?;
        let share = match keys {
            Keys::Device => pool.devices_per_connection,
            Keys::Policy => pool.devices_per_policy_connection,
        };
        let mut raw = Self {
            senders: Vec::new(),
            _sessions: Vec::new(),
            _connections: Vec::new(),
            _pumps: JoinSet::new(),
        };
        let names: Vec<_> = devices.map(device_name).collect();
        for share in names.chunks(share) {
            let mut connection = raw.connect(dialer.connect().await?, writes).await?;
            let mut sessions = Vec::new();
            for _ in 0..pool.lanes.min(share.len()) {
                sessions.push(Session::begin(&mut connection).await?);
            }
            put_tokens(&mut sessions[0], tokens(access, keys, share)?).await?;
            for (n, name) in share.iter().enumerate() {
                let lane = n % sessions.len();
                let sender = Sender::builder()
                    .name(format!("raw-{name}"))
                    .target(format!("/devices/{name}/messages/events"))
                    .sender_settle_mode(SenderSettleMode::Unsettled)
                    .attach(&mut sessions[lane])
                    .await?;
                raw.senders.push(Arc::new(Mutex::new(sender)));
            }
            raw._sessions.append(&mut sessions);
            raw._connections.push(connection);
        }
        Ok(raw)
    }

    async fn connect(&mut self, stream: Stream, writes: Writes) -> Result<ConnectionHandle<()>> {
        let builder = Connection::builder()
            .container_id("raw")
            .hostname(HOST)
            .scheme("amqp")
            .sasl_profile(SaslProfile::Anonymous)
            .channel_max(8191);
        Ok(match writes {
            Writes::Coalesced => {
                let wire = WireConfig::default();
                let (stream, pump) = coalesce(stream, wire.buffer, wire.heartbeat);
                self._pumps.spawn(pump.run());
                builder.open_with_stream(stream).await?
            }
            Writes::EachFrame => builder.open_with_stream(stream).await?,
        })
    }

    /// Sends from every device, one message in flight each, and counts what the hub accepted.
    ///
    /// # Errors
    /// A message failed, or a task panicked.
    pub async fn send(&self, messages: usize, round: &str) -> Result<u64> {
        let mut tasks = JoinSet::new();
        for sender in &self.senders {
            let (sender, round) = (sender.clone(), round.to_owned());
            tasks.spawn(async move {
                let mut sender = sender.lock_owned().await;
                let mut accepted = 0_u64;
                for message in 0..messages {
                    let sent = sender.send_batchable(telemetry(format!("{round}-{message}")));
                    accepted += u64::from(sent.await?.await?.is_accepted());
                }
                Ok::<_, fe2o3_amqp::link::SendError>(accepted)
            });
        }
        let mut accepted = 0;
        while let Some(device) = tasks.join_next().await {
            accepted += device??;
        }
        Ok(accepted)
    }

    /// Sends one message of a device and says whether the hub accepted it.
    ///
    /// # Errors
    /// The link is lost.
    pub async fn send_one(&self, device: usize, id: String) -> Result<bool> {
        let mut sender = self.senders[device].lock().await;
        let sent = sender.send_batchable(telemetry(id)).await?;
        drop(sender);
        Ok(sent.await?.is_accepted())
    }

    /// Sends from every device, so many messages in flight each, until it is over, and counts what
    /// the hub accepted.
    ///
    /// # Errors
    /// A message failed, or a task panicked.
    pub async fn send_until(
        &self,
        is_over: &Arc<AtomicBool>,
        in_flight: usize,
        round: &str,
    ) -> Result<u64> {
        let mut tasks = JoinSet::new();
        for sender in &self.senders {
            let (sender, round) = (sender.clone(), round.to_owned());
            let is_over = is_over.clone();
            tasks.spawn(async move {
                let mut sender = sender.lock_owned().await;
                let (mut sent, mut accepted) = (0_u64, 0_u64);
                let mut unsettled = VecDeque::with_capacity(in_flight);
                loop {
                    while unsettled.len() < in_flight && !is_over.load(Relaxed) {
                        let message = telemetry(format!("{round}-{sent}"));
                        unsettled.push_back(sender.send_batchable(message).await?);
                        sent += 1;
                    }
                    let Some(oldest) = unsettled.pop_front() else {
                        return Ok::<_, fe2o3_amqp::link::SendError>(accepted);
                    };
                    accepted += u64::from(oldest.await?.is_accepted());
                }
            });
        }
        let mut accepted = 0;
        while let Some(device) = tasks.join_next().await {
            accepted += device??;
        }
        Ok(accepted)
    }
}

fn telemetry(id: String) -> Message<Data> {
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(Properties {
            message_id: Some(MessageId::String(id)),
            ..Properties::default()
        }),
        application_properties: None,
        body: Data(Binary::from(&BODY[..])),
        footer: None,
    }
}

/// The tokens of a connection: one for the whole hub, or one for each device.
fn tokens(access: &HubAccess, keys: Keys, devices: &[String]) -> Result<Vec<SasToken>> {
    let expires = SystemTime::now() + TOKEN_LIFE;
    if keys == Keys::Policy {
        let policy = access.policy()?;
        let key = policy.keys().primary();
        let token = SasToken::sign_with_policy(HOST, policy.name(), key, expires);
        return Ok(vec![token]);
    }
    let group = access.group_key()?;
    let sign = |name: &String| {
        let device = DeviceId::new(name.as_str())?;
        let resource = sas_resource(HOST, &device);
        Ok(SasToken::sign(&resource, &group.derive(&device), expires))
    };
    devices.iter().map(sign).collect()
}

async fn put_tokens(session: &mut SessionHandle<()>, tokens: Vec<SasToken>) -> Result<()> {
    let mut receiver = Receiver::attach(session, "cbs-in", "$cbs").await?;
    let mut sender = Sender::attach(session, "cbs-out", "$cbs").await?;
    for token in &tokens {
        sender.send(put_token(token)).await?;
        let answer = receiver.recv::<Body<Value>>().await?;
        receiver.accept(&answer).await?;
        let properties = answer.message().application_properties.as_ref();
        let status = properties.and_then(|properties| properties.get("status-code").cloned());
        if status != Some(SimpleValue::Int(200)) {
            bail!("the hub answered the token with {status:?}");
        }
    }
    sender.close().await?;
    receiver.close().await?;
    Ok(())
}

fn put_token(token: &SasToken) -> Message<AmqpValue<String>> {
    let mut application = ApplicationProperties::default();
    for (name, value) in [
        ("operation", "put-token"),
        ("type", "servicebus.windows.net:sastoken"),
        ("name", token.resource()),
    ] {
        application.insert(name.to_owned(), SimpleValue::String(value.to_owned()));
    }
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(Properties {
            message_id: Some(MessageId::String("1".to_owned())),
            reply_to: Some("cbs".to_owned()),
            ..Properties::default()
        }),
        application_properties: Some(application),
        body: AmqpValue(token.secret_text().to_owned()),
        footer: None,
    }
}
