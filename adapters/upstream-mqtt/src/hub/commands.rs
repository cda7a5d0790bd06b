//! Messages and methods on their way to a device.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use gateway_core::{CorrelationId, Disposition, MethodCall, MethodName, MethodReply};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::convert::cloud_message;
use super::device::Device;
use super::env::Env;
use super::error::HubError;
use super::line::Arrived;
use super::topic::{self, Heard};
use crate::client::Publish;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The hub was told that the device has it.
    Taken,
    /// The hub was told the same, having no ear for a refusal.
    Rejected,
    /// The hub was told nothing: it delivers it again on another connection.
    Abandoned,
}

/// Brings a message to the device and acknowledges it by the verdict.
pub(super) async fn message(
    env: Arc<Env>,
    device: Arc<Device>,
    arrived: Arrived,
    _work: TaskTrackerToken,
) -> Verdict {
    let Arrived { at, incoming } = arrived;
    let deadline = at + env.config.commands.lock;
    let Some(Heard::Message { bag }) = topic::read(&incoming.topic) else {
        return Verdict::Abandoned;
    };
    let message = cloud_message(device.id.clone(), bag, &incoming, deadline);
    let id = message.id.clone();
    let callback = device.callback();
    match timeout_at(deadline, callback.on_message(message)).await {
        Ok(Disposition::Complete) => {
            incoming.receipt.acknowledge();
            Verdict::Taken
        }
        Ok(Disposition::Reject) => {
            tracing::warn!(
                device.id = %device.id, message.id = id,
                "Message refused: over MQTT the hub counts it as delivered"
            );
            incoming.receipt.acknowledge();
            Verdict::Rejected
        }
        Ok(Disposition::Abandon) | Err(_) => Verdict::Abandoned,
    }
}

/// Calls a method and publishes the device's answer, unless it comes too late.
pub(super) async fn method(env: Arc<Env>, device: Arc<Device>, arrived: Arrived) {
    let Arrived { at, incoming } = arrived;
    let deadline = at + env.config.commands.method_timeout;
    incoming.receipt.acknowledge();
    if deadline <= Instant::now() {
        // It waited too long: its caller was told that it failed.
        env.counters.late.fetch_add(1, Relaxed);
        return;
    }
    let Some(Heard::Method { name, request }) = topic::read(&incoming.topic) else {
        return;
    };
    let answer = async {
        let reply = match (MethodName::new(&name), CorrelationId::new(request)) {
            (Ok(name), Ok(id)) => {
                let (device_id, payload) = (device.id.clone(), incoming.payload.clone());
                let call = MethodCall::new(device_id, id, name, payload, deadline);
                device.callback().on_method(call).await
            }
            _ => MethodReply::new(400, r#"{"error":"invalid method request"}"#),
        };
        let publish = Publish {
            topic: topic::method_reply(reply.status, request),
            payload: reply.payload,
            retain: false,
            properties: None,
        };
        // On the connection that there is by now: it may be another one.
        let line = device.link.lock().await.line()?.clone();
        line.client.publish(publish).await?;
        Ok::<_, HubError>(())
    };
    let answered = timeout_at(deadline, answer).await;
    let error = match answered {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "not answered in time".to_owned(),
    };
    env.counters.late.fetch_add(1, Relaxed);
    tracing::debug!(device.id = %device.id, error, "Method without an answer");
}
