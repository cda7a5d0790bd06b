//! The AMQP client alone, over the same coalescing stream, with the same messages in the same
//! layout: what the multiplexer is measured against.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::{Session, SessionHandle};
use fe2o3_amqp::{Connection, Receiver, Sender};
use fe2o3_amqp_types::definitions::SenderSettleMode;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Data, Message, MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{Binary, SimpleValue, Value};
use gateway_core::credential::{SasToken, SharedAccessPolicy};
use gateway_upstream_amqp::internal::Dialer;
use gateway_upstream_amqp::{PoolConfig, WireConfig};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::coalesced::coalesce;
use crate::hub::HubAccess;
use crate::{BODY, HOST, device_name};

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
    pub async fn open(access: &HubAccess, devices: usize) -> Result<Self> {
        let (pool, wire) = (PoolConfig::default(), WireConfig::default());
        let (dialer, policy) = (Dialer::new(&access.amqp())?, access.policy()?);
        let mut raw = Self {
            senders: Vec::new(),
            _sessions: Vec::new(),
            _connections: Vec::new(),
            _pumps: JoinSet::new(),
        };
        let names: Vec<_> = (0..devices).map(device_name).collect();
        for share in names.chunks(pool.devices_per_policy_connection) {
            let (stream, pump) = coalesce(dialer.connect().await?, wire.buffer, wire.heartbeat);
            raw._pumps.spawn(pump.run());
            let mut connection = Connection::builder()
                .container_id("raw")
                .hostname(HOST)
                .scheme("amqp")
                .sasl_profile(SaslProfile::Anonymous)
                .channel_max(8191)
                .open_with_stream(stream)
                .await?;
            let mut sessions = Vec::new();
            for _ in 0..pool.lanes.min(share.len()) {
                sessions.push(Session::begin(&mut connection).await?);
            }
            put_token(&mut sessions[0], &policy).await?;
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

async fn put_token(session: &mut SessionHandle<()>, policy: &SharedAccessPolicy) -> Result<()> {
    let expires = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let token = SasToken::sign_with_policy(HOST, policy.name(), policy.keys().primary(), expires);
    let mut receiver = Receiver::attach(session, "cbs-in", "$cbs").await?;
    let mut sender = Sender::attach(session, "cbs-out", "$cbs").await?;
    let mut application = ApplicationProperties::default();
    for (name, value) in [
        ("operation", "put-token"),
        ("type", "servicebus.windows.net:sastoken"),
        ("name", HOST),
    ] {
        application.insert(name.to_owned(), SimpleValue::String(value.to_owned()));
    }
    let message = Message {
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
    };
    sender.send(message).await?;
    let answer = receiver.recv::<Body<Value>>().await?;
    receiver.accept(&answer).await?;
    let status = answer
        .message()
        .application_properties
        .as_ref()
        .and_then(|properties| properties.get("status-code").cloned());
    sender.close().await?;
    receiver.close().await?;
    match status {
        Some(SimpleValue::Int(200)) => Ok(()),
        status => Err(anyhow!("the hub answered the token with {status:?}")),
    }
}
