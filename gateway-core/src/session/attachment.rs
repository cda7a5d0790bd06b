use std::fmt;
use std::sync::{Arc, Weak};

use async_trait::async_trait;

use super::SessionTable;
use crate::callback::CloudCallback;
use crate::message::{
    CloudMessage, DesiredPatch, Disposition, MethodCall, MethodReply, SessionEnd,
};

/// What an upstream is given to call for one attach. It knows which one it was, so that the end of
/// a session that arrives late does not end the one after it.
pub(super) struct Attachment {
    pub(super) table: Weak<SessionTable>,
    pub(super) number: u64,
    pub(super) next: Arc<dyn CloudCallback>,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl CloudCallback for Attachment {
    async fn on_method(&self, call: MethodCall) -> MethodReply {
        self.next.on_method(call).await
    }

    async fn on_message(&self, message: CloudMessage) -> Disposition {
        self.next.on_message(message).await
    }

    async fn on_desired(&self, patch: DesiredPatch) -> Disposition {
        self.next.on_desired(patch).await
    }

    async fn on_end(&self, end: SessionEnd) {
        let Some(table) = self.table.upgrade() else {
            return;
        };
        if table.ended(&end.device, self.number, end.reason).await {
            self.next.on_end(end).await;
        }
    }
}
