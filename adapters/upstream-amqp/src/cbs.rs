//! Tokens, put over the `$cbs` node of a connection.
//!
//! Requests are pipelined: answers find theirs by correlation id, so that 995 devices behind a
//! 50 ms line take one round trip, not 995. (OASIS AMQP Claims-based Security 1.0.)

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fe2o3_amqp_types::definitions::Fields;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};
use gateway_core::credential::SasToken;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::{ClientError, LinkSpec, Receiver, Sender, Session, SessionEvent, Verdict};
use crate::convert;
use crate::env::{Env, lock};
use crate::error::AmqpError;

const NODE: &str = "$cbs";
const TOKEN_TYPE: &str = "servicebus.windows.net:sastoken";
/// Requests that wait for their turn; the hub gives a credit of 100 besides.
const QUEUE: usize = 100;
/// Answers that the hub may have with us at a time.
const CREDIT: u32 = 100;
/// Devices whose tokens stay unanswered while no other's is answered: with so many it is the node that
/// is dumb, not they that are strange.
const DUMB: usize = 4;
/// Unanswered requests above which those nobody waits for are swept out.
const SWEEP_ABOVE: usize = 4096;

type Reply = oneshot::Sender<Result<(), AmqpError>>;

struct PutToken {
    audience: String,
    token: SasToken,
    reply: Reply,
}

/// What the token node has not answered.
#[derive(Default)]
struct Pending {
    replies: HashMap<String, Reply>,
    /// Since its last answer: the first audiences that it was asked about, and when.
    since: HashMap<String, Instant>,
}

impl Pending {
    fn add(&mut self, id: String, audience: &str, reply: Reply) {
        if self.replies.len() > SWEEP_ABOVE {
            self.replies.retain(|_, reply| !reply.is_closed());
        }
        self.replies.insert(id, reply);
        if self.since.len() < DUMB {
            let since = self.since.entry(audience.to_owned());
            since.or_insert_with(Instant::now);
        }
    }

    fn take(&mut self, id: &str) -> Option<Reply> {
        self.since.clear();
        self.replies.remove(id)
    }

    fn is_in_vain(&self, patience: Duration) -> bool {
        let is_late = |since: &Instant| since.elapsed() > patience;
        self.since.len() == DUMB && self.since.values().all(is_late)
    }
}

/// Puts tokens on one connection.
#[derive(Debug)]
pub(crate) struct Cbs {
    requests: mpsc::Sender<PutToken>,
    env: Arc<Env>,
}

impl Cbs {
    /// Opens the link pair on a session of its own and serves it until `down`.
    pub(crate) async fn open(
        env: &Arc<Env>,
        session: Session,
        down: CancellationToken,
    ) -> Result<Self, ClientError> {
        let spec = |purpose| LinkSpec {
            name: env.name("cbs", purpose),
            address: NODE.to_owned(),
            settled: false,
            properties: Fields::new(),
        };
        let (sender, receiver) = tokio::try_join!(
            session.attach_sender(spec("sender")),
            session.attach_receiver(spec("receiver"), CREDIT),
        )?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let patience = env.config.wire.answer_timeout;
        env.tasks.spawn(async move {
            let pending = Mutex::default();
            let served = tokio::select! {
                () = down.cancelled() => Ok(()),
                ended = send(sender, queue, &pending) => ended,
                ended = receive(receiver, &pending) => ended,
                ended = ended(&session) => Err(ended),
                () = in_vain(&pending, patience) => Err(AmqpError::Unanswered("a token")),
            };
            if let Err(error) = served {
                tracing::warn!(error = %error, "Token link lost");
            }
            // Without it no device can be brought up: the connection is of no more use.
            down.cancel();
        });
        Ok(Self {
            requests,
            env: env.clone(),
        })
    }

    /// Puts a token and waits for the hub's word.
    ///
    /// Cancel safe: an answer that nobody waits for is dropped.
    pub(crate) async fn put(&self, audience: String, token: SasToken) -> Result<(), AmqpError> {
        let (reply, answer) = oneshot::channel();
        let request = PutToken {
            audience,
            token,
            reply,
        };
        let exchange = async {
            self.requests
                .send(request)
                .await
                .map_err(|_| AmqpError::Down)?;
            answer.await.map_err(|_| AmqpError::Down)?
        };
        match timeout(self.env.config.wire.answer_timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(AmqpError::Unanswered("a token")),
        }
    }
}

/// Waits for the end of the token node's session; what is detached on it, its users see.
async fn ended(session: &Session) -> AmqpError {
    loop {
        if let SessionEvent::Ended(error) = session.event().await {
            return error.into();
        }
    }
}

/// Waits until the node is asked in vain. It may owe credit as well as answers, so that no request
/// finds out.
async fn in_vain(pending: &Mutex<Pending>, patience: Duration) {
    loop {
        sleep(patience).await;
        if lock(pending).is_in_vain(patience) {
            return;
        }
    }
}

async fn send(
    mut sender: Sender,
    mut queue: mpsc::Receiver<PutToken>,
    pending: &Mutex<Pending>,
) -> Result<(), AmqpError> {
    let mut serial = 0_u64;
    while let Some(PutToken {
        audience,
        token,
        reply,
    }) = queue.recv().await
    {
        if reply.is_closed() {
            continue;
        }
        serial += 1;
        let id = serial.to_string();
        lock(pending).add(id.clone(), &audience, reply);
        // Settlement says nothing that the answer does not say.
        let request = convert::encode(&request(id, audience, &token))?;
        drop(sender.send(request, 0).await?);
    }
    Ok(())
}

fn request(id: String, audience: String, token: &SasToken) -> Message<AmqpValue<String>> {
    let properties = Properties {
        message_id: Some(MessageId::String(id)),
        to: Some(NODE.to_owned()),
        reply_to: Some("cbs".to_owned()),
        ..Properties::default()
    };
    let mut application = ApplicationProperties::default();
    for (name, value) in [
        ("operation", "put-token"),
        ("type", TOKEN_TYPE),
        ("name", &audience),
    ] {
        application.insert(name.to_owned(), SimpleValue::String(value.to_owned()));
    }
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(properties),
        application_properties: Some(application),
        body: AmqpValue(token.secret_text().to_owned()),
        footer: None,
    }
}

async fn receive(mut receiver: Receiver, pending: &Mutex<Pending>) -> Result<(), AmqpError> {
    loop {
        let delivery = receiver.recv_and_hold().await?;
        receiver.settle(delivery.id, Verdict::Accept)?;
        let message = convert::decode(&delivery.payload)?;
        let correlation = message
            .properties
            .as_ref()
            .and_then(|p| p.correlation_id.as_ref());
        let Some(MessageId::String(id)) = correlation else {
            continue;
        };
        let Some(reply) = lock(pending).take(id) else {
            continue;
        };
        // Whoever asked may have gone; then the answer is nobody's.
        drop(reply.send(verdict(&message)));
    }
}

fn verdict(message: &Message<Body<Value>>) -> Result<(), AmqpError> {
    let application = message.application_properties.as_ref();
    let get = |name: &str| application.and_then(|map| map.get(name));
    let status = match get("status-code") {
        Some(SimpleValue::Int(status)) => *status,
        _ => {
            return Err(AmqpError::Unexpected(
                "a token's answer without status".to_owned(),
            ));
        }
    };
    match status {
        200 | 202 => Ok(()),
        status => {
            let description = match get("status-description") {
                Some(SimpleValue::String(text)) => text.clone(),
                _ => String::new(),
            };
            Err(AmqpError::Token {
                status,
                description,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_answers_any_device_is_not_asked_in_vain() {
        let patience = Duration::from_secs(20);
        let mut pending = Pending::default();
        let ask = |pending: &mut Pending, id: u32, device: u32| {
            pending.add(id.to_string(), &device.to_string(), oneshot::channel().0);
        };
        (0..10).for_each(|id| ask(&mut pending, id, id % 3));
        tokio::time::advance(patience * 2).await;
        assert!(!pending.is_in_vain(patience), "three devices are strange");
        ask(&mut pending, 10, 10);
        assert!(!pending.is_in_vain(patience), "the fourth has time yet");
        tokio::time::advance(patience * 2).await;
        assert!(pending.is_in_vain(patience));
        assert!(pending.take("4").is_some());
        assert!(!pending.is_in_vain(patience));
    }
}
