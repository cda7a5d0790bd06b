//! Twin-like state: questions about it, and reported properties that go.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gateway_core::{DeviceId, TwinReply, TwinRequest};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::convert::{self, Inward};
use super::device::Device;
use super::pool::Pool;
use super::template::Values;
use crate::error::MqttError;
use crate::lock::lock;

const GET: &str = "twins cannot be read: `topics.twin_get` is not set";
const REPORT: &str = "properties cannot be reported: `topics.reported` is not set";

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

    /// Tells whether a device is attached, and not another attachment of its id.
    pub(super) fn is_attached(&self, device: &Device) -> bool {
        is_among(&lock(&self.devices), device)
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
            if !is_among(&devices, device) {
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
}

fn is_among(devices: &HashMap<DeviceId, Arc<Device>>, device: &Device) -> bool {
    let found = devices.get(&device.id);
    found.is_some_and(|found| std::ptr::eq(&**found, device))
}
