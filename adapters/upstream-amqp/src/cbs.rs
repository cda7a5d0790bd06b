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
/// Unanswered requests above which those nobody waits for are swept out.
const SWEEP_ABOVE: usize = 4096;

type Reply = oneshot::Sender<Result<(), AmqpError>>;

struct PutToken {
    audience: String,
    token: SasToken,
    reply: Reply,
}

/// A token that the node took, and for whom.
#[derive(Clone)]
struct Taken {
    audience: String,
    token: SasToken,
}

/// What the token node has answered, and what it has not.
#[derive(Default)]
struct Pending {
    asked: HashMap<String, PutToken>,
    /// When it was first asked for something since its last answer.
    since: Option<Instant>,
    /// What it took last, and would take again, of two devices: one of them may be strange to it now.
    taken: [Option<Taken>; 2],
}

impl Pending {
    fn add(&mut self, id: String, request: PutToken) {
        if self.asked.len() > SWEEP_ABOVE {
            self.asked.retain(|_, request| !request.reply.is_closed());
        }
        self.asked.insert(id, request);
        self.since.get_or_insert_with(Instant::now);
    }

    fn answer(&mut self, id: &str, verdict: Result<(), AmqpError>) {
        self.since = None;
        let Some(request) = self.asked.remove(id) else {
            return;
        };
        let PutToken {
            audience,
            token,
            reply,
        } = request;
        if verdict.is_ok() {
            self.note_taken(Taken { audience, token });
        }
        // Whoever asked may have gone; then the answer is nobody's.
        drop(reply.send(verdict));
    }

    fn note_taken(&mut self, taken: Taken) {
        let [last, before] = &mut self.taken;
        match last {
            Some(last) if last.audience == taken.audience => {}
            _ => *before = last.take(),
        }
        *last = Some(taken);
    }

    /// A token that it took and would take again, of a device that it owes no answer if there is one.
    fn known(&self) -> Option<Taken> {
        let is_owed = |taken: &Taken| {
            let mut asked = self.asked.values();
            asked.any(|request| request.audience == taken.audience)
        };
        let mut taken = self.taken.iter().flatten();
        let known = taken.find(|taken| !is_owed(taken));
        known.or(self.taken[0].as_ref()).cloned()
    }

    fn is_late(&self, patience: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() > patience)
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
        let (patience, asker) = (env.config.wire.answer_timeout, requests.downgrade());
        env.tasks.spawn(async move {
            let pending = Mutex::default();
            let served = tokio::select! {
                () = down.cancelled() => Ok(()),
                ended = send(sender, queue, &pending) => ended,
                ended = receive(receiver, &pending) => ended,
                ended = ended(&session) => Err(ended),
                () = dumb(&asker, &pending, patience) => Err(AmqpError::Unanswered("a token")),
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

/// Waits until the node is dumb: it leaves a token unanswered, and then also one that it took before.
/// It may owe credit as well as answers, so that no request finds out.
async fn dumb(requests: &mpsc::WeakSender<PutToken>, pending: &Mutex<Pending>, patience: Duration) {
    loop {
        sleep(patience).await;
        let taken = {
            let pending = lock(pending);
            if !pending.is_late(patience) {
                continue;
            }
            pending.known()
        };
        let (Some(taken), Some(requests)) = (taken, requests.upgrade()) else {
            return;
        };
        let Taken { audience, token } = taken;
        let (reply, answer) = oneshot::channel();
        let request = PutToken {
            audience,
            token,
            reply,
        };
        let exchange = async {
            drop(requests.send(request).await);
            answer.await
        };
        let answered = timeout(patience, exchange).await;
        if answered.is_err() && lock(pending).is_late(patience) {
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
    while let Some(request) = queue.recv().await {
        if request.reply.is_closed() {
            continue;
        }
        serial += 1;
        let id = serial.to_string();
        let message = convert::encode(&message(&id, &request))?;
        lock(pending).add(id, request);
        // Settlement says nothing that the answer does not say.
        drop(sender.send(message, 0).await?);
    }
    Ok(())
}

fn message(id: &str, request: &PutToken) -> Message<AmqpValue<String>> {
    let properties = Properties {
        message_id: Some(MessageId::String(id.to_owned())),
        to: Some(NODE.to_owned()),
        reply_to: Some("cbs".to_owned()),
        ..Properties::default()
    };
    let mut application = ApplicationProperties::default();
    for (name, value) in [
        ("operation", "put-token"),
        ("type", TOKEN_TYPE),
        ("name", &request.audience),
    ] {
        application.insert(name.to_owned(), SimpleValue::String(value.to_owned()));
    }
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(properties),
        application_properties: Some(application),
        body: AmqpValue(request.token.secret_text().to_owned()),
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
        lock(pending).answer(id, verdict(&message));
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
