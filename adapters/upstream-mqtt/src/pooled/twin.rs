//! Twin-like state: desired properties that come, reported ones that go, and questions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gateway_core::{DesiredPatch, DeviceId, TwinProperties, TwinReply, TwinRequest};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::convert::{self, Inward};
use super::device::Device;
use super::inbound::Command;
use super::pool::Pool;
use super::queues::{Admission, Order};
use super::template::Values;
use crate::error::MqttError;
use crate::lock::lock;

const GET: &str = "twins cannot be read: `topics.twin_get` is not set";
const REPORT: &str = "properties cannot be reported: `topics.reported` is not set";
/// The wait for room where many devices' twins are read again.
const ROOM: Duration = Duration::from_millis(100);

/// The questions that wait for their answers, by request id.
#[derive(Debug)]
pub(super) struct Asked {
    waiting: Mutex<HashMap<String, oneshot::Sender<Inward>>>,
    most: usize,
    serial: AtomicU64,
    /// Another gateway, or this one before its restart, asks under other ids.
    seed: u32,
}

/// Forgets a question that nobody waits for any more.
struct Question<'a> {
    asked: &'a Asked,
    id: String,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        lock(&self.asked.waiting).remove(&self.id);
    }
}

impl Asked {
    pub(super) fn new(most: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            most,
            serial: AtomicU64::new(1),
            seed: getrandom::u32().unwrap_or_default(),
        }
    }

    fn ask(&self) -> Result<(Question<'_>, oneshot::Receiver<Inward>), MqttError> {
        let (answer, answered) = oneshot::channel();
        let id = format!("{:08x}-{:x}", self.seed, self.serial.fetch_add(1, Relaxed));
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= self.most {
            return Err(MqttError::Crowded);
        }
        waiting.insert(id.clone(), answer);
        Ok((Question { asked: self, id }, answered))
    }

    /// Gives an answer to whoever asked; one that nobody waits for is dropped.
    pub(super) fn answer(&self, inward: Inward) {
        let id = inward.request.as_deref().unwrap_or_default();
        let answer = lock(&self.waiting).remove(id);
        if let Some(answer) = answer {
            // Whoever asked may have gone.
            drop(answer.send(inward));
        }
    }
}

impl Pool {
    /// Asks for a device's twin, or changes it.
    pub(super) async fn ask_twin(
        &self,
        device: &Device,
        request: TwinRequest,
    ) -> Result<TwinReply, MqttError> {
        let (template, body, retain) = match &request {
            TwinRequest::Get => {
                let template = self.topics.twin_get.as_ref();
                (
                    template.ok_or(MqttError::Unsupported(GET))?,
                    Bytes::new(),
                    false,
                )
            }
            TwinRequest::PatchReported(patch) => {
                let template = self.topics.reported.as_ref();
                let template = template.ok_or(MqttError::Unsupported(REPORT))?;
                (
                    template,
                    patch.clone(),
                    self.config.topics.reported_is_retained,
                )
            }
            _ => return Err(MqttError::Unsupported("this request about a twin")),
        };
        let limit = self.config.wire.max_message;
        if body.len() > limit {
            let size = body.len();
            return Err(MqttError::TooLarge { size, limit });
        }
        let exchange = async {
            let (question, answered) = self.asked.ask()?;
            let (id, encoding) = (question.id.as_str(), self.encoding);
            let response = self.topics.twin_response.as_ref();
            let values = Values {
                device: Some(&device.id),
                request: Some(id),
                ..Values::default()
            };
            let topic = match (response, encoding) {
                (Some(response), super::MqttEncoding::Properties) => Some(response.write(&values)?),
                _ => None,
            };
            if response.is_some() {
                self.hear_twin(device).await?;
            }
            let mut publish =
                convert::twin_request(template, encoding, &device.id, id, topic, &body)?;
            publish.retain = retain;
            let client = self.lines[device.line].client()?;
            client.publish(publish).await?;
            if response.is_none() {
                return Ok(TwinReply::new("", None));
            }
            let inward = tokio::select! {
                biased;
                answer = answered => answer.map_err(|_| MqttError::Down)?,
                () = client.down().cancelled() => return Err(MqttError::Down),
            };
            let what = "a twin request";
            match inward.status.unwrap_or(200) {
                200..300 => {}
                status => return Err(MqttError::Answered { what, status }),
            }
            Ok(match request {
                TwinRequest::Get => TwinReply::new(inward.body, None),
                _ => TwinReply::new("", inward.version),
            })
        };
        let answered = timeout(self.config.wire.answer_timeout, exchange).await;
        answered.unwrap_or(Err(MqttError::Unanswered("a twin request")))
    }

    /// Sees to it that answers about a device's twin are heard.
    async fn hear_twin(&self, device: &Device) -> Result<(), MqttError> {
        let Some((place, filter)) = self.twin_filter(device) else {
            return Ok(());
        };
        let line = &self.lines[place];
        {
            // A device that was detached meanwhile took nothing of it with it.
            let devices = lock(&self.devices);
            let is_attached = devices
                .get(&device.id)
                .is_some_and(|d| std::ptr::eq(&**d, device));
            if !is_attached {
                return Err(MqttError::NotAttached);
            }
            if !device.hears_twin.swap(true, Relaxed) {
                line.filters.want(filter.clone());
            }
        }
        line.filters
            .granted(&filter)
            .await
            .map_err(MqttError::Invalid)
    }

    /// Reads the twins of those devices of a connection that follow their desired properties: the
    /// broker has kept nothing for us, so that changes may be missed.
    pub(super) async fn read_twins_again(self: Arc<Self>, number: usize) {
        if self.topics.twin_get.is_none() || self.topics.desired.is_none() {
            return;
        }
        let devices: Vec<_> = {
            let devices = lock(&self.devices);
            let here = devices.values().filter(|device| device.line + 1 == number);
            here.filter(|device| device.interest().desired)
                .cloned()
                .collect()
        };
        for device in devices {
            // Leaves room for what comes by itself.
            while self.queues.pending() > self.config.commands.pending / 2 {
                sleep(ROOM).await;
            }
            let (pool, id) = (self.clone(), device.id.clone());
            let job = move |admission| match admission {
                Admission::Admitted => {
                    let work: BoxFuture<'static, ()> = Box::pin(give_whole(pool, device));
                    Some(work)
                }
                Admission::Refused => {
                    // Whatever fills its queue now ends with a change, or has it read again.
                    device.missed.store(true, Relaxed);
                    None
                }
            };
            self.enqueue(&id, Order::InTurn, Box::new(job));
        }
    }
}

/// Gives a device all its desired properties, as they are now.
async fn give_whole(pool: Arc<Pool>, device: Arc<Device>) {
    let reply = match pool.ask_twin(&device, TwinRequest::Get).await {
        Ok(reply) => reply,
        Err(error) => {
            tracing::warn!(device.id = %device.id, error = %error, count = 1, "Twin not read again");
            return;
        }
    };
    #[derive(Deserialize)]
    struct Sections<'a> {
        #[serde(borrow)]
        desired: &'a RawValue,
    }
    let Ok(Sections { desired }) = serde_json::from_slice(&reply.body) else {
        tracing::warn!(device.id = %device.id, count = 1, "What was answered is no twin");
        return;
    };
    let desired = Bytes::copy_from_slice(desired.get().as_bytes());
    give(&pool, &device.id, desired, None, true).await;
}

pub(super) fn take(pool: &Arc<Pool>, command: Command) {
    let id = command.device.clone();
    let pool_too = pool.clone();
    let job = move |admission| match admission {
        Admission::Admitted => {
            let work: BoxFuture<'static, ()> = Box::pin(async move {
                let lost = command.lost.clone();
                tokio::select! {
                    biased;
                    () = lost.cancelled() => {}
                    () = change(pool_too, command) => {}
                }
            });
            Some(work)
        }
        Admission::Refused => {
            let id = &command.device;
            tracing::warn!(device.id = %id, count = 1, "A change of desired properties did not fit");
            if let Some(device) = pool_too.find(id) {
                device.missed.store(true, Relaxed);
            }
            command.receipt.acknowledge();
            None
        }
    };
    pool.enqueue(&id, Order::InTurn, Box::new(job));
}

async fn change(pool: Arc<Pool>, command: Command) {
    let is_whole = command.retain || pool.config.commands.desired_is_whole;
    let version = command.inward.version;
    give(
        &pool,
        &command.device,
        command.inward.body,
        version,
        is_whole,
    )
    .await;
    command.receipt.acknowledge();
    let missed = |device: &Arc<Device>| device.missed.swap(false, Relaxed);
    if let Some(device) = pool.find(&command.device).filter(missed)
        && pool.topics.twin_get.is_some()
    {
        give_whole(pool, device).await;
    }
}

/// Gives a device that follows its desired properties a change of them, unless it has it.
async fn give(pool: &Pool, id: &DeviceId, body: Bytes, version: Option<u64>, is_whole: bool) {
    let Some(device) = pool.find(id) else { return };
    let Some(callback) = pool.listener(id, |interest| interest.desired) else {
        return;
    };
    let version = match (version, TwinProperties::parse(&body)) {
        (Some(version), Ok(_)) => version,
        (None, Ok(properties)) => properties.version(),
        (_, Err(error)) => {
            pool.counters.unreadable.fetch_add(1, Relaxed);
            tracing::warn!(device.id = %id, error = %error, count = 1, "Unreadable change dropped");
            return;
        }
    };
    let last = device.desired.load(Relaxed);
    if version > 0 && (version == last || (version < last && !is_whole)) {
        return;
    }
    let mut patch = DesiredPatch::new(id.clone(), version, body);
    patch.is_whole = is_whole;
    let limit = pool.config.commands.verdict_timeout;
    if timeout(limit, callback.on_desired(patch)).await.is_err() {
        pool.counters.lapsed.fetch_add(1, Relaxed);
    }
    device.desired.store(version, Relaxed);
}
