//! What the query of a request says about its message.

use std::time::Duration;

use gateway_core::{MessageId, Properties, SystemProperties};

use super::routes::Profile;

/// Properties of a message, the hub's own included.
const MAX_PROPERTIES: usize = 64;
/// The longest that a device may wait for a command in an answer.
const MAX_WAIT: u64 = 3600;
/// Begins the parameters that mean something here.
const NATIVE: &str = "$.";
const HONO: &str = "hono-";

/// Is a query, read.
///
/// `name=value` is a property of the message. Natively `$.mid` is the message's id, `$.cid`, `$.uid`,
/// `$.ct` and `$.ce` are correlation id, user id, content type and encoding, as Azure IoT Hub's MQTT
/// topics name them; `$.ttd` is how many seconds the device listens for a command in the answer, and
/// `$.status` how a command went. Hono's are `hono-ttd`, `hono-cmd-status` and `empty`. `$.id` and
/// `$.token`, by which a device proves itself, were taken out before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// The message's id.
    pub id: Option<MessageId>,
    /// Properties with a meaning to the hub.
    pub system: SystemProperties,
    /// Properties with a meaning to the application.
    pub properties: Properties,
    /// How long the device waits for a command in the answer.
    pub wait: Option<Duration>,
    /// How a command went, in the manner of HTTP.
    pub status: Option<i32>,
    /// There is no message: the device only says that it listens.
    pub is_empty: bool,
}

/// Says what is wrong with a query; the device gets it with 4.00.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// There are too many parameters.
    #[error("a query has at most {MAX_PROPERTIES} parameters")]
    TooMany,
    /// A parameter has no name.
    #[error("a query parameter has no name")]
    NoName,
    /// A parameter is not known, though its name begins as if it were.
    #[error("the query parameter {0} is not known")]
    Unknown(String),
    /// A parameter's value makes no sense.
    #[error("the query parameter {0} has a value that makes no sense")]
    Value(String),
}

impl Query {
    /// Reads the parts of a query.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(profile: Profile, parts: &[&str]) -> Result<Self, QueryError> {
        if parts.len() > MAX_PROPERTIES {
            return Err(QueryError::TooMany);
        }
        let mut query = Self::default();
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if name.is_empty() {
                return Err(QueryError::NoName);
            }
            let is_known = match profile {
                Profile::Native if name.starts_with(NATIVE) => query.native(name, value),
                Profile::Hono if name.starts_with(HONO) || name == "empty" => {
                    query.hono(name, value)
                }
                _ => {
                    query.properties.insert(name, value);
                    Some(true)
                }
            };
            match is_known {
                Some(true) => {}
                Some(false) => return Err(QueryError::Unknown(name.to_owned())),
                None => return Err(QueryError::Value(name.to_owned())),
            }
        }
        Ok(query)
    }

    /// Takes a parameter; false if it is not known, `None` if its value makes no sense.
    fn native(&mut self, name: &str, value: &str) -> Option<bool> {
        let text = || (!value.is_empty()).then(|| Some(value.to_owned()));
        match name.strip_prefix(NATIVE)? {
            "mid" => self.id = Some(MessageId::new(value).ok()?),
            "cid" => self.system.correlation_id = text()?,
            "uid" => self.system.user_id = text()?,
            "ct" => self.system.content_type = text()?,
            "ce" => self.system.content_encoding = text()?,
            "ttd" => self.wait = wait(value)?,
            "status" => self.status = Some(value.parse().ok()?),
            _ => return Some(false),
        }
        Some(true)
    }

    fn hono(&mut self, name: &str, value: &str) -> Option<bool> {
        match name {
            "hono-ttd" => self.wait = wait(value)?,
            "hono-cmd-status" => self.status = Some(value.parse().ok()?),
            "empty" => self.is_empty = true,
            _ => return Some(false),
        }
        Some(true)
    }
}

/// The seconds of a wait, of which 0 is none.
fn wait(value: &str) -> Option<Option<Duration>> {
    let seconds: u64 = value.parse().ok()?;
    let duration = Duration::from_secs(seconds.min(MAX_WAIT));
    Some((seconds > 0).then_some(duration))
}
