use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::callback::CloudCallback;
use crate::message::{
    CloudMessage, DesiredPatch, Disposition, MethodCall, MethodReply, SessionEnd,
};

/// Is what a [`RecordingCallback`] was given, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallbackRecord {
    /// Methods called.
    pub methods: Vec<MethodCall>,
    /// Messages delivered, each redelivery anew.
    pub messages: Vec<CloudMessage>,
    /// Changes of desired properties.
    pub patches: Vec<DesiredPatch>,
    /// Ends of the session.
    pub ends: Vec<SessionEnd>,
}

#[derive(Debug, Default)]
struct State {
    record: CallbackRecord,
    dispositions: VecDeque<Disposition>,
    change_dispositions: VecDeque<Disposition>,
    reply: Option<MethodReply>,
    is_holding: bool,
}

/// Keeps what the hub sends and answers by script. Cheap to clone: all clones are one.
///
/// Unless told otherwise it completes every message and every change, and answers a method with status 200 and the
/// call's own payload.
#[derive(Debug, Clone)]
pub struct RecordingCallback(Arc<watch::Sender<State>>);

impl Default for RecordingCallback {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }
}

impl RecordingCallback {
    /// Makes a callback with an empty record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This callback as an upstream takes it.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn CloudCallback> {
        Arc::new(self.clone())
    }

    /// Settles the next messages so, one by one; those after them are completed.
    pub fn settle_next(&self, dispositions: impl IntoIterator<Item = Disposition>) {
        self.0
            .send_modify(|state| state.dispositions.extend(dispositions));
    }

    /// Settles the next changes of desired properties so, one by one; those after them are
    /// completed.
    pub fn settle_next_changes(&self, dispositions: impl IntoIterator<Item = Disposition>) {
        self.0
            .send_modify(|state| state.change_dispositions.extend(dispositions));
    }

    /// Answers every method from now on with this.
    pub fn reply_with(&self, reply: MethodReply) {
        self.0.send_modify(|state| state.reply = Some(reply));
    }

    /// Gives no answer until [`release`](Self::release); what comes is recorded all the same.
    pub fn hold(&self) {
        self.0.send_modify(|state| state.is_holding = true);
    }

    /// Gives the answers held back, and answers at once from now on.
    pub fn release(&self) {
        self.0.send_modify(|state| state.is_holding = false);
    }

    /// What was given so far.
    #[must_use]
    pub fn record(&self) -> CallbackRecord {
        self.0.borrow().record.clone()
    }

    /// Waits until the record is as wanted, and gives it.
    pub async fn wait_for(
        &self,
        mut wanted: impl FnMut(&CallbackRecord) -> bool,
    ) -> CallbackRecord {
        let mut changes = self.0.subscribe();
        let state = changes.wait_for(|state| wanted(&state.record)).await;
        state.map(|state| state.record.clone()).unwrap_or_default()
    }

    async fn released(&self) {
        let mut changes = self.0.subscribe();
        drop(changes.wait_for(|state| !state.is_holding).await);
    }
}

#[async_trait]
impl CloudCallback for RecordingCallback {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        let payload = call.payload.clone();
        let mut reply = None;
        self.0.send_modify(|state| {
            state.record.methods.push(call);
            reply = state.reply.clone();
        });
        self.released().await;
        reply.unwrap_or_else(|| MethodReply::new(200, payload))
    }

    async fn on_message(&self, message: CloudMessage) -> Disposition {
        let mut disposition = None;
        self.0.send_modify(|state| {
            state.record.messages.push(message);
            disposition = state.dispositions.pop_front();
        });
        self.released().await;
        disposition.unwrap_or(Disposition::Complete)
    }

    async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
        let mut disposition = None;
        self.0.send_modify(|state| {
            state.record.patches.push(patch);
            disposition = state.change_dispositions.pop_front();
        });
        self.released().await;
        disposition.unwrap_or(Disposition::Complete)
    }

    async fn on_end(&self, end: SessionEnd) {
        self.0.send_modify(|state| state.record.ends.push(end));
        self.released().await;
    }
}
