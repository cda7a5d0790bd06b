//! Twin requests and what the hub answers, as messages.

use bytes::Bytes;
use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
use fe2o3_amqp_types::messaging::{Data, Message, MessageAnnotations, MessageId, Properties};
use fe2o3_amqp_types::primitives::{Binary, Symbol, Value};
use gateway_core::version_of;
use serde::Deserialize;

use crate::convert::{self, body};
use crate::error::AmqpError;

/// What is kept of the hub's words about an error, in characters.
const LONGEST_TEXT: usize = 200;

/// What the hub is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Get,
    Patch,
    Subscribe,
    Unsubscribe,
}

impl Operation {
    /// Its name, and what it is about.
    fn annotations(self) -> (&'static str, Option<&'static str>) {
        const DESIRED: &str = "/notifications/twin/properties/desired";
        match self {
            Self::Get => ("GET", None),
            Self::Patch => ("PATCH", Some("/properties/reported")),
            Self::Subscribe => ("PUT", Some(DESIRED)),
            Self::Unsubscribe => ("DELETE", Some(DESIRED)),
        }
    }
}

/// Encodes a request.
pub(super) fn request(id: u64, operation: Operation, body: &[u8]) -> Result<Bytes, AmqpError> {
    let (operation, resource) = operation.annotations();
    let mut annotations =
        MessageAnnotations::builder().insert(Symbol::from("operation"), operation);
    if let Some(resource) = resource {
        annotations = annotations.insert(Symbol::from("resource"), resource);
    }
    convert::encode(&Message {
        header: None,
        delivery_annotations: None,
        message_annotations: Some(annotations.build()),
        properties: Some(Properties {
            correlation_id: Some(MessageId::String(id.to_string())),
            ..Properties::default()
        }),
        application_properties: None,
        body: Data(Binary::from(body)),
        footer: None,
    })
}

/// What the hub says.
#[derive(Debug)]
pub(crate) enum Heard {
    /// To the request of this number; none if it is no number of ours.
    Answer(Option<u64>, Result<Answer, AmqpError>),
    /// A change of the desired properties, 0 if its version is not said.
    Change { version: u64, body: Bytes },
}

/// A good answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Of the reported properties, after a patch.
    pub(crate) version: Option<u64>,
    pub(crate) body: Bytes,
}

/// Decodes what came on the twin's link.
pub(crate) fn read(payload: &[u8]) -> Result<Heard, AmqpError> {
    let message = convert::decode(payload)?;
    let annotation = |name: &str| {
        let annotations = message.message_annotations.as_ref()?;
        match annotations.get(&Symbol::from(name) as &dyn AnnotationKey)? {
            Value::Int(number) => Some(i64::from(*number)),
            Value::Long(number) => Some(*number),
            _ => None,
        }
    };
    let (status, version) = (annotation("status"), annotation("version"));
    let correlation = message.properties.and_then(|p| p.correlation_id);
    let body = body(message.body);
    // No correlation tells a change from an answer.
    let Some(correlation) = correlation else {
        let version = version_of(&body).unwrap_or(0);
        return Ok(Heard::Change { version, body });
    };
    let id = match correlation {
        MessageId::String(id) => id.parse().ok(),
        _ => None,
    };
    let answer = match status {
        Some(200..=299) => Ok(Answer {
            version: version.and_then(|version| version.try_into().ok()),
            body,
        }),
        Some(status) => Err(AmqpError::Twin {
            status: i32::try_from(status).unwrap_or(500),
            text: error_text(&body),
        }),
        None => Err(AmqpError::Unexpected(
            "a twin's answer without status".to_owned(),
        )),
    };
    Ok(Heard::Answer(id, answer))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_text_is_the_hubs_own_and_short() {
        assert_eq!(
            error_text(br#"{"errorCode":400000,"message":"Too deep."}"#),
            "Too deep."
        );
        assert_eq!(error_text(br#"{"Message":"Too deep."}"#), "Too deep.");
        assert_eq!(error_text(b"busy"), "busy");
        assert_eq!(error_text(&[b'x'; 5000]).len(), LONGEST_TEXT);
    }

    #[test]
    fn a_request_that_is_read_as_an_answer_has_its_number_and_no_status() {
        let request = request(17, Operation::Patch, b"{}").unwrap();
        let heard = read(&request).unwrap();
        assert!(
            matches!(heard, Heard::Answer(Some(17), Err(_))),
            "{heard:?}"
        );
    }
}
