//! Feedback on its way to an application.

use bytes::Bytes;

use crate::amqp::codec::message::{MessageWriter, OutProperties};
use crate::amqp::codec::write;
use crate::clock::unix_millis;
use crate::hub::feedback::{CONTENT_TYPE, FeedbackDelivery};

/// Encodes a batch with everything that the .NET SDK's `AmqpFeedbackReceiver` reads.
pub(crate) fn encode(hub: &str, delivery: &FeedbackDelivery) -> Bytes {
    MessageWriter::default()
        .annotations(1, |out| {
            write::symbol(out, "iothub-enqueuedtime");
            write::timestamp(out, unix_millis(delivery.enqueued));
        })
        .properties(&OutProperties {
            user_id: Some(hub.as_bytes()),
            content_type: Some(CONTENT_TYPE),
            ..OutProperties::default()
        })
        .data(&delivery.body)
        .finish()
}
