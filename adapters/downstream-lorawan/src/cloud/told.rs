//! What one message of a network server tells.

use crate::event::{DevEui, Event};

/// Names where the downlinks of a device go. Both names are of letters, digits, `-` and `_`, so that
/// they are safe in topics and in addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Route {
    /// The device's application at the network server.
    pub application: String,
    /// The device's name there.
    pub device: String,
}

impl Route {
    /// The longest name, in bytes: a UUID has 36, as has the longest name of The Things Stack.
    const MAX_LENGTH: usize = 64;

    /// Checks the names.
    ///
    /// # Errors
    /// One is empty, too long, or has a character that is not allowed.
    pub fn new(
        application: impl Into<String>,
        device: impl Into<String>,
    ) -> Result<Self, DecodeError> {
        let (application, device) = (application.into(), device.into());
        match is_name(&application) && is_name(&device) {
            true => Ok(Self {
                application,
                device,
            }),
            false => Err(DecodeError::Name),
        }
    }
}

pub(super) fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=Route::MAX_LENGTH).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Is what one message of a network server tells.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Told {
    /// The device.
    pub dev_eui: DevEui,
    /// Where its downlinks go.
    pub route: Route,
    /// Names the message, the same however often it comes; none where it has no name.
    pub id: Option<String>,
    /// What happened, in its order; nothing where the message is of no use to a gateway.
    pub events: Vec<Event>,
}

impl Told {
    pub(crate) fn new(dev_eui: DevEui, route: Route, events: impl Into<Vec<Event>>) -> Self {
        Self {
            dev_eui,
            route,
            id: None,
            events: events.into(),
        }
    }

    /// Names the message; an empty name is none.
    pub(crate) fn with_id(mut self, kind: &str, id: &str) -> Self {
        self.id = (!id.is_empty()).then(|| format!("{kind}-{id}"));
        self
    }
}

/// Tells why a message of a network server was not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It is not the JSON that was expected.
    #[error("it is not the JSON that was expected: {0}")]
    Json(#[from] serde_json::Error),
    /// It is not the protobuf that was expected.
    #[cfg(feature = "protobuf")]
    #[error("it is not the protobuf that was expected: {0}")]
    Protobuf(String),
    /// It names no device by its DevEUI; the network server has to know it.
    #[error("it names no device by its DevEUI; set that at the network server")]
    NoDevEui,
    /// The application or the device has a name that is none.
    #[error("the application or the device has a name with other than letters, digits, - and _")]
    Name,
    /// It lacks a part.
    #[error("it lacks {0}")]
    Lacks(&'static str),
    /// It is of a kind that nobody knows.
    #[error("the event {0:?} is not known")]
    Kind(String),
    /// The payload is encrypted end to end, and the key for it is not here.
    #[error("its payload is encrypted; let the network server decrypt it")]
    Encrypted,
}
