//! A device's twin: its questions and their answers, and changes of the desired properties.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gateway_core::governor::{Class, Operation, Turn};
use gateway_core::{DesiredChange, DesiredChanges, TwinReply, TwinRequest, desired_of, version_of};
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::device::Device;
use super::env::Env;
use super::error::HubError;
use super::topic;
use crate::client::Publish;
use crate::lock::lock;

/// What is kept of the hub's words about an error, in characters.
const LONGEST_TEXT: usize = 200;

type Answer = Result<TwinReply, HubError>;

/// Holds the twin requests of one device that have no answer.
#[derive(Debug, Default)]
pub(super) struct Asks {
    /// The number of the last request; an answer names it. It grows over all connections, so that a
    /// late answer is nobody's.
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

/// Is a request that waits; dropped, it does not.
struct Asked<'a> {
    asks: &'a Asks,
    number: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        lock(&self.asks.waiting).remove(&self.number);
    }
}

impl Asked<'_> {
    async fn answer(&mut self) -> Answer {
        (&mut self.answer).await.unwrap_or(Err(HubError::Down))
    }
}

impl Asks {
    fn begin(&self, most: usize) -> Result<Asked<'_>, HubError> {
        let number = self.last.fetch_add(1, Relaxed) + 1;
        let (answered, answer) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= most {
            return Err(HubError::Crowded);
        }
        waiting.insert(number, answered);
        Ok(Asked {
            asks: self,
            number,
            answer,
        })
    }

    /// Hands an answer to whoever asked; one that comes too late is nobody's.
    pub(super) fn answered(
        &self,
        number: Option<u64>,
        status: u16,
        version: Option<u64>,
        body: Bytes,
    ) {
        let asker = number.and_then(|number| lock(&self.waiting).remove(&number));
        let Some(asker) = asker else { return };
        let answer = match status {
            200..=299 => Ok(TwinReply::new(body, version)),
            _ => Err(HubError::Twin {
                status,
                text: error_text(&body),
            }),
        };
        // Whoever asked may have gone.
        drop(asker.send(answer));
    }
}

/// What an error's JSON has to say, or the whole text.
fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Error {
        #[serde(alias = "Message")]
        message: String,
    }
    let text = match serde_json::from_slice::<Error>(body) {
        Ok(error) => error.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars().take(LONGEST_TEXT).collect()
}

/// Asks for a device's twin, whoever wants to know.
///
/// Cancel safe; a patch may or may not have been applied.
pub(super) async fn ask(env: &Env, device: &Device, request: &TwinRequest) -> Answer {
    let link = device.link.lock().await;
    let line = link.line()?.clone();
    let _work = line.work.token();
    drop(link);
    let exchange = async {
        line.hear_answers().await?;
        let mut asked = device.asks.begin(env.config.commands.twin_requests)?;
        let (topic, payload) = match request {
            TwinRequest::Get => (topic::twin_get(asked.number), Bytes::new()),
            TwinRequest::PatchReported(patch) => (topic::twin_patch(asked.number), patch.clone()),
            _ => return Err(HubError::Unknown("this twin request")),
        };
        let publish = Publish {
            topic,
            payload,
            retain: false,
            properties: None,
        };
        let mut answer = pin!(asked.answer());
        // The answer says more than the acknowledgement, and may come before it.
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            sent = line.client.publish(publish) => sent?,
        }
        tokio::select! {
            biased;
            answer = answer => answer,
            // It comes on this connection or not at all.
            () = line.client.down().cancelled() => Err(HubError::Down),
        }
    };
    let answer = timeout(env.config.wire.answer_timeout, exchange).await;
    let answer = answer.unwrap_or(Err(HubError::Unanswered("a twin request")));
    answer.inspect_err(|error| {
        if error.is_throttle() {
            env.door.throttled(Operation::Twin);
        }
    })
}

/// Is what a device is told of its desired properties, over all its connections.
#[derive(Debug)]
pub(super) struct Desired(Mutex<State>);

#[derive(Debug)]
struct State {
    changes: DesiredChanges,
    /// Whether the device wants to hear of changes, and the hub was told so.
    is_subscribed: bool,
    /// Counts subscriptions, when they are asked for and when they are there: what was fetched before
    /// may lack what was missed.
    subscriptions: u64,
}

impl Desired {
    pub(super) fn new(room: usize) -> Self {
        Self(Mutex::new(State {
            changes: DesiredChanges::new(0, room),
            is_subscribed: false,
            subscriptions: 0,
        }))
    }

    /// Takes note that the hub is about to be asked to tell of changes: it may tell of one before it
    /// has answered.
    pub(super) fn subscribing(&self) {
        let mut state = lock(&self.0);
        state.is_subscribed = true;
        state.subscriptions += 1;
        state.changes.subscribed();
    }

    /// Takes note that the hub tells of changes by now: what is fetched from now on lacks none.
    pub(super) fn subscribed(&self) {
        lock(&self.0).subscriptions += 1;
    }

    /// Takes note that the hub tells of nothing any more.
    pub(super) fn unsubscribed(&self) {
        let mut state = lock(&self.0);
        state.is_subscribed = false;
        state.changes.unsubscribed();
    }

    /// Takes a change of which the hub tells.
    pub(super) fn told(&self, version: Option<u64>, body: Bytes) {
        let mut state = lock(&self.0);
        if state.is_subscribed {
            let version = version.or_else(|| version_of(&body)).unwrap_or(0);
            state.changes.take(version, body);
        }
    }

    /// Takes note that the device may lack the change taken out last.
    pub(super) fn missed(&self) {
        let mut state = lock(&self.0);
        state.changes.missed();
        if !state.is_subscribed {
            state.changes.unsubscribed();
        }
    }

    /// Takes note that the device has read its twin itself.
    pub(super) fn read(&self, version: u64) {
        lock(&self.0).changes.read(version);
    }

    /// Tells whether all desired properties are to be fetched.
    pub(super) fn is_behind(&self) -> bool {
        lock(&self.0).changes.is_behind()
    }

    /// Takes out the next change to pass on.
    pub(super) fn pop(&self) -> Option<DesiredChange> {
        lock(&self.0).changes.pop()
    }

    fn subscriptions(&self) -> u64 {
        lock(&self.0).subscriptions
    }

    /// Takes what was fetched, unless the connection is another by now.
    fn fetched(&self, since: u64, version: u64, body: Bytes) {
        let mut state = lock(&self.0);
        if state.subscriptions == since && state.changes.is_behind() {
            state.changes.fetched(version, body);
        }
    }
}

/// Fetches all desired properties, until nothing is missing; after a wait if the device missed so many
/// changes one after the other.
pub(super) async fn fetch(env: Arc<Env>, device: Arc<Device>, missed: u32) {
    let refetch = env.config.commands.refetch;
    if let Some(before) = missed.checked_sub(1) {
        sleep(refetch.delay(before)).await;
    }
    for failures in 0.. {
        // Behind those that somebody waits for.
        let priority = device.rank(Class::Quiet);
        let turn = Turn::default();
        if env.pass(Operation::Twin, priority, &turn).await.is_err() {
            return;
        }
        let since = device.desired.subscriptions();
        match ask(&env, &device, &TwinRequest::Get).await {
            Ok(reply) => match desired_of(&reply.body) {
                Some((version, body)) => device.desired.fetched(since, version, body),
                None => tracing::warn!(device.id = %device.id, "The twin cannot be read"),
            },
            Err(error) => {
                tracing::debug!(device.id = %device.id, error = %error, "Twin not fetched yet");
            }
        }
        if !device.desired.is_behind() {
            return;
        }
        sleep(refetch.delay(failures)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_text_is_the_hubs_own_and_short() {
        let text = |body: &[u8]| error_text(body);
        assert_eq!(
            text(br#"{"errorCode":400000,"message":"Too deep."}"#),
            "Too deep."
        );
        assert_eq!(text(br#"{"Message":"Too deep."}"#), "Too deep.");
        assert_eq!(text(b"busy"), "busy");
        assert_eq!(text(&[b'x'; 5000]).len(), LONGEST_TEXT);
    }

    #[tokio::test]
    async fn answers_find_their_questions_in_any_order_and_late_ones_nobody() {
        let asks = Asks::default();
        let mut first = asks.begin(2).unwrap();
        let mut second = asks.begin(2).unwrap();
        assert!(matches!(asks.begin(2), Err(HubError::Crowded)));
        asks.answered(Some(second.number), 204, Some(9), Bytes::new());
        asks.answered(Some(first.number), 429, None, Bytes::from_static(b"slow"));
        asks.answered(Some(99), 200, None, Bytes::new());
        asks.answered(None, 200, None, Bytes::new());
        assert_eq!(second.answer().await.unwrap().version, Some(9));
        let refused = first.answer().await.unwrap_err();
        assert!(matches!(refused, HubError::Twin { status: 429, .. }));
        let given_up = asks.begin(1).unwrap();
        drop(given_up);
        assert!(asks.begin(1).is_ok(), "who gives up leaves room");
    }

    #[test]
    fn what_was_fetched_before_a_new_subscription_is_not_believed() {
        let desired = Desired::new(4);
        desired.told(Some(1), Bytes::new());
        assert!(desired.pop().is_none(), "nobody wants to hear");
        let from_before = desired.subscriptions();
        desired.subscribing();
        desired.fetched(from_before, 4, Bytes::new());
        assert!(desired.is_behind());
        let since = desired.subscriptions();
        desired.subscribed();
        desired.fetched(since, 5, Bytes::new());
        assert!(desired.is_behind());
        desired.fetched(desired.subscriptions(), 6, Bytes::new());
        assert!(!desired.is_behind());
        desired.told(None, Bytes::from_static(br#"{"a":1,"$version":7}"#));
        assert_eq!(desired.pop().map(|change| change.version), Some(7));
        desired.told(None, Bytes::from_static(b"{}"));
        assert!(desired.is_behind(), "what has no version is fetched");
    }
}
