//! Why the provisioning service refuses, with its own numbers.
//!
//! The numbers 400207, 401002, 404201, 404202, 409201, 409202 and 409203 and their texts were seen
//! of the real service (recordings in `azure-sdk-for-python`, issues of Microsoft's SDKs); the others
//! follow the table of HTTP statuses in Microsoft's "Troubleshooting with Azure IoT Hub Device
//! Provisioning Service" with a number of our choice.

use std::borrow::Cow;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::clock::Ticks;
use crate::guid::Guid;

/// The service's error codes; the first three digits are those of an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// The request cannot be read, or asks for what cannot be.
    InvalidArgument = 400_004,
    /// An enrolment leads to no hub that the service is linked to.
    IotHubNotLinked = 400_208,
    Unauthorized = 401_002,
    /// The service holds as many enrolments or registrations as it may.
    QuotaExceeded = 403_002,
    ServiceNotFound = 404_001,
    EnrollmentNotFound = 404_201,
    GroupNotFound = 404_202,
    OperationNotFound = 404_203,
    RegistrationNotFound = 404_204,
    EnrollmentExists = 409_201,
    GroupExists = 409_202,
    PreconditionFailed = 412_203,
    Throttled = 429_001,
}

impl Code {
    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    fn text(self) -> &'static str {
        match self {
            Self::InvalidArgument => "Invalid argument.",
            Self::IotHubNotLinked => "No linked IoT hub can take the device.",
            Self::Unauthorized => "Unauthorized",
            Self::QuotaExceeded => "Quota exceeded.",
            Self::ServiceNotFound => "Device Provisioning Service not found.",
            Self::EnrollmentNotFound => "Enrollment not found.",
            Self::GroupNotFound => "EnrollmentGroup not found.",
            Self::OperationNotFound => "Operation not found.",
            Self::RegistrationNotFound => "DeviceRegistration not found.",
            Self::EnrollmentExists => "Enrollment already exists.",
            Self::GroupExists => "EnrollmentGroup already exists.",
            Self::PreconditionFailed => "Precondition failed.",
            Self::Throttled => "Too many requests.",
        }
    }
}

/// A refusal of the provisioning service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct DpsError {
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
    /// Seconds after which the client may try again; throttled requests only.
    pub(crate) retry_after: Option<u64>,
}

impl DpsError {
    /// A certificate that no enrolment knows.
    pub(crate) fn invalid_certificate() -> Self {
        Self {
            message: "Invalid certificate.".into(),
            ..Code::Unauthorized.into()
        }
    }

    pub(crate) fn unauthorized() -> Self {
        Code::Unauthorized.into()
    }

    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
            ..Code::InvalidArgument.into()
        }
    }

    /// The status that HTTP and MQTT answer with.
    pub(crate) fn status(&self) -> u16 {
        u16::try_from(self.code.number() / 1000).unwrap_or(500)
    }

    /// The body of an answer over HTTP and MQTT, and the description of a rejection over AMQP.
    pub(crate) fn body(&self, now: SystemTime) -> Value {
        json!({
            "errorCode": self.code.number(),
            "trackingId": Guid::random().to_string(),
            "message": self.message,
            "timestampUtc": Ticks::from(now).to_string(),
        })
    }
}

impl From<Code> for DpsError {
    fn from(code: Code) -> Self {
        Self {
            code,
            message: code.text().into(),
            retry_after: None,
        }
    }
}
