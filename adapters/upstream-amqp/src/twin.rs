//! A device's twin: requests and answers by correlation id, and changes of desired properties.

use std::collections::HashMap;

use bytes::Bytes;
use fe2o3_amqp_types::messaging::annotations::AnnotationKey;
use fe2o3_amqp_types::messaging::{Data, Message, MessageAnnotations, MessageId, Properties};
use fe2o3_amqp_types::primitives::{Binary, Symbol, Value};
use gateway_core::{TwinReply, TwinRequest};

use crate::client::{Receiver, Sender};
use crate::commands::TwinAnswer;
use crate::convert::{self, body};
use crate::error::AmqpError;

/// Requests without an answer above which those that nobody waits for are swept out.
const SWEEP_ABOVE: usize = 64;
const DESIRED: &str = "/notifications/twin/properties/desired";
const REPORTED: &str = "/properties/reported";

/// A change of the desired properties.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) version: u64,
    pub(crate) patch: Bytes,
}

#[derive(Debug)]
pub(crate) struct Twin {
    sender: Sender,
    receiver: Receiver,
    pending: HashMap<String, Option<TwinAnswer>>,
    serial: u64,
    subscribed: bool,
}

impl Twin {
    pub(crate) fn new(sender: Sender, receiver: Receiver) -> Self {
        Self {
            sender,
            receiver,
            pending: HashMap::new(),
            serial: 0,
            subscribed: false,
        }
    }

    /// Asks for changes of the desired properties, once.
    pub(crate) async fn subscribe(&mut self) -> Result<(), AmqpError> {
        if !self.subscribed {
            self.request("PUT", Some(DESIRED), &[], None).await?;
            self.subscribed = true;
        }
        Ok(())
    }

    pub(crate) fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    pub(crate) async fn ask(
        &mut self,
        request: TwinRequest,
        answer: TwinAnswer,
    ) -> Result<(), AmqpError> {
        match request {
            TwinRequest::Get => self.request("GET", None, &[], Some(answer)).await,
            TwinRequest::PatchReported(patch) => {
                self.request("PATCH", Some(REPORTED), &patch, Some(answer))
                    .await
            }
            other => {
                let error = AmqpError::Unexpected(format!("the request {other:?} is not known"));
                drop(answer.send(Err(error)));
                Ok(())
            }
        }
    }

    async fn request(
        &mut self,
        operation: &str,
        resource: Option<&str>,
        body: &[u8],
        answer: Option<TwinAnswer>,
    ) -> Result<(), AmqpError> {
        self.serial += 1;
        let id = self.serial.to_string();
        let mut annotations =
            MessageAnnotations::builder().insert(Symbol::from("operation"), operation);
        if let Some(resource) = resource {
            annotations = annotations.insert(Symbol::from("resource"), resource);
        }
        let message = Message {
            header: None,
            delivery_annotations: None,
            message_annotations: Some(annotations.build()),
            properties: Some(Properties {
                correlation_id: Some(MessageId::String(id.clone())),
                ..Properties::default()
            }),
            application_properties: None,
            body: Data(Binary::from(body)),
            footer: None,
        };
        if self.pending.len() > SWEEP_ABOVE {
            self.pending
                .retain(|_, answer| answer.as_ref().is_some_and(|a| !a.is_closed()));
        }
        self.pending.insert(id, answer);
        let message = convert::encode(&message)?;
        Ok(self.sender.send_settled(message).await?)
    }

    /// Waits for the hub: an answer is handed to whoever asked, a change is returned.
    ///
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Notice>, AmqpError> {
        let delivery = self.receiver.recv().await?;
        let message = convert::decode(&delivery.payload)?;
        let annotation = |name: &str| {
            let annotations = message.message_annotations.as_ref()?;
            match annotations.get(&Symbol::from(name) as &dyn AnnotationKey)? {
                Value::Int(number) => Some(i64::from(*number)),
                Value::Long(number) => Some(*number),
                _ => None,
            }
        };
        let (status, version) = (annotation("status"), annotation("version"));
        let correlation = message
            .properties
            .and_then(|properties| properties.correlation_id);
        let payload = body(message.body);
        match correlation {
            Some(MessageId::String(id)) => {
                if let Some(Some(answer)) = self.pending.remove(&id) {
                    // Whoever asked may have gone.
                    drop(answer.send(reply(status, version, payload)));
                }
                Ok(None)
            }
            Some(_) => Ok(None),
            None => Ok(Some(Notice {
                version: desired_version(&payload),
                patch: payload,
            })),
        }
    }

    pub(crate) async fn close(self) -> Result<(), AmqpError> {
        self.receiver.close().await?;
        Ok(self.sender.close().await?)
    }
}

fn reply(status: Option<i64>, version: Option<i64>, body: Bytes) -> Result<TwinReply, AmqpError> {
    match status {
        Some(200..=299) => Ok(TwinReply::new(
            body,
            version.and_then(|version| version.try_into().ok()),
        )),
        Some(status) => Err(AmqpError::Token {
            status: i32::try_from(status).unwrap_or(500),
            description: String::from_utf8_lossy(&body).chars().take(200).collect(),
        }),
        None => Err(AmqpError::Unexpected(
            "a twin's answer without status".to_owned(),
        )),
    }
}

/// Reads `$version` from a patch, which the hub always sets; 0 if it is not there.
fn desired_version(patch: &[u8]) -> u64 {
    #[derive(serde::Deserialize)]
    struct Versioned {
        #[serde(rename = "$version")]
        version: u64,
    }
    serde_json::from_slice::<Versioned>(patch).map_or(0, |patch| patch.version)
}
