//! What the hub's verdicts and commands are in CoAP.

use std::time::Duration;

use bytes::Bytes;
use gateway_core::{ErrorKind, Settlement};

use super::content::format_of;
use super::routes::{Profile, Resource, Routes};
use crate::proto::message::{Code, Message, option};

/// Tells a device what became of its message: 2.04 only if the hub has accepted it.
#[must_use]
pub fn settled(settlement: Settlement) -> Message {
    match settlement {
        Settlement::Accepted => Message::new(Code::CHANGED),
        Settlement::Rejected(kind) => failed(kind, None),
        Settlement::RetryLater(after) => failed(ErrorKind::Throttled, Some(after)),
        _ => Message::new(Code::INTERNAL_ERROR),
    }
}

/// Tells a device why its request failed, in the code and in words. What may succeed later is 5.03
/// with the wait in Max-Age, at least 1 s.
#[must_use]
pub fn failed(kind: ErrorKind, retry_after: Option<Duration>) -> Message {
    use ErrorKind::{
        Closed, Disconnected, Displaced, Rejected, Throttled, TimedOut, TooLarge, Unauthorized,
        UnknownDevice, Unsupported,
    };
    let code = match kind {
        Rejected => Code::BAD_REQUEST,
        Unauthorized | UnknownDevice | Displaced => Code::FORBIDDEN,
        TooLarge => Code::TOO_LARGE,
        Unsupported => Code::NOT_IMPLEMENTED,
        Closed | Disconnected | Throttled | TimedOut => Code::UNAVAILABLE,
        _ => Code::INTERNAL_ERROR,
    };
    let answer = Message::new(code).with_payload(kind.as_str().as_bytes());
    match code {
        Code::UNAVAILABLE => {
            let after = retry_after.unwrap_or(gateway_core::DEFAULT_RETRY_AFTER);
            let seconds = after.as_secs_f64().ceil().min(f64::from(u32::MAX)) as u32;
            answer.with_uint(option::MAX_AGE, seconds.max(1))
        }
        _ => answer,
    }
}

/// Is a command on its way to a device, in an answer (2.04) or in a notification (2.05).
///
/// Its name is in Location-Query, and Location-Path names where to answer, or the path of commands
/// if no answer is wanted (as Eclipse Hono does it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandAnswer<'a> {
    /// 2.04 in an answer, 2.05 in a notification.
    pub code: Code,
    /// The child that it is for; `None` if it is for the device itself.
    pub device: Option<&'a str>,
    /// The command's name, if it has one.
    pub name: Option<&'a str>,
    /// Names the command in its answer; `None` if no answer is wanted.
    pub request: Option<&'a str>,
    /// Content type and encoding of the body.
    pub content: (Option<&'a str>, Option<&'a str>),
    /// The body.
    pub body: Bytes,
}

impl CommandAnswer<'_> {
    /// Writes it; `None` if the configuration has no path for it.
    #[must_use]
    pub fn message(&self, routes: &Routes) -> Option<Message> {
        let resource = match self.request {
            Some(_) => Resource::CommandResponse,
            None => Resource::Command,
        };
        let path = routes.path(resource, self.device, self.request)?;
        let mut message = Message::new(self.code).with_payload(self.body.clone());
        for segment in path {
            let segment = segment.as_bytes().to_vec();
            message.options.add(option::LOCATION_PATH, segment);
        }
        if let Some(name) = self.name {
            let parameter = match routes.profile() {
                Profile::Native => "command",
                Profile::Hono => "hono-command",
            };
            let query = format!("{parameter}={name}").into_bytes();
            message.options.add(option::LOCATION_QUERY, query);
        }
        let (media_type, encoding) = self.content;
        if let Some(format) = media_type.and_then(|name| format_of(name, encoding)) {
            message
                .options
                .set_uint(option::CONTENT_FORMAT, format.into());
        }
        Some(message)
    }
}
