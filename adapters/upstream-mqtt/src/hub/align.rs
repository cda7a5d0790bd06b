//! What the hub was told that a device wants to hear.

use std::sync::Arc;

use gateway_core::Interest;
use tokio::time::Instant;

use super::device::Device;
use super::env::Env;
use super::line::Line;
use super::topic;
use crate::error::MqttError;

/// How far a connection's subscriptions are as they are wanted.
#[derive(Debug, Default)]
pub(super) struct Alignment {
    /// Whether the hub was told on this connection.
    is_done: bool,
    /// What it was told last, as it remembers itself; none if that was before the device's task.
    told: Option<Interest>,
    /// When it is told again what it did not take, after so many tries.
    again: Option<Instant>,
    failures: u32,
}

impl Alignment {
    /// Begins anew: the connection is another.
    pub(super) fn renew(&mut self, line: &Line) {
        (self.is_done, self.again) = (false, None);
        if !line.client.is_session_present() {
            self.told = Some(Interest::NONE);
        }
    }

    /// When the hub is told again what it did not take.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// Has the hub tell what the device wants to hear, and nothing else.
    pub(super) async fn align(&mut self, env: &Env, device: &Device, line: &Arc<Line>) {
        if self.again.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let wanted = device.interest().or(env.config.commands.always);
        // The hub remembers subscriptions from before, but not all: those that are wanted are said anew.
        let before = self.told.unwrap_or(Interest::ALL);
        let known = match self.is_done {
            true => before,
            false => Interest::NONE,
        };
        if self.is_done && known == wanted {
            return;
        }
        let surplus = topic::filters(&device.id, without(before, wanted));
        let missing = topic::filters(&device.id, without(wanted, known));
        let (client, desired) = (&line.client, &device.desired);
        let is_new = wanted.desired && !known.desired;
        if !wanted.desired {
            desired.unsubscribed();
        }
        let told = async {
            if !surplus.is_empty() {
                client.unsubscribe(&surplus).await?;
            }
            if is_new {
                desired.subscribing();
            }
            if !missing.is_empty() {
                client.subscribe(&missing).await?;
            }
            Ok::<_, MqttError>(())
        };
        if let Err(error) = told.await {
            // A hub that cannot, as one of the basic tier, closes the connection.
            tracing::info!(device.id = %device.id, error = %error, "Not subscribed");
            // Nobody knows how much of it the hub has done.
            (self.told, self.is_done) = (Some(before.or(wanted)), false);
            let wait = env.config.reconnect.backoff.delay(self.failures);
            self.failures = self.failures.saturating_add(1);
            self.again = Some(Instant::now() + wait);
            return;
        }
        if is_new {
            desired.subscribed();
        }
        line.set_subscribed(wanted);
        *self = Self {
            is_done: true,
            told: Some(wanted),
            ..Self::default()
        };
    }
}

/// What is in the first and not in the second.
fn without(first: Interest, second: Interest) -> Interest {
    Interest::NONE
        .with_messages(first.messages && !second.messages)
        .with_methods(first.methods && !second.methods)
        .with_desired(first.desired && !second.desired)
}
