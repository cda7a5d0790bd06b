//! Why the hub refuses, with the numbers that every protocol carries in its own way.
//!
//! Source: Microsoft, "Troubleshoot Azure IoT Hub error codes", and the .NET service SDK's
//! `ErrorCode.cs`.

use super::message::{C2dError, MethodError};
use super::registry::AccessError;
use super::twin::TwinError;

/// A refusal: its number, and a sentence for whoever reads the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct HubError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl HubError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The service side asks for what is not in the registry; the text is its name alone.
    pub(crate) fn unknown(identity: &str) -> Self {
        let code = if identity.contains('/') {
            ErrorCode::ModuleNotFound
        } else {
            ErrorCode::DeviceNotFound
        };
        Self::new(code, identity)
    }

    /// The device, or the module of a device, is not in the registry.
    pub(crate) fn not_registered(identity: &str, hub: &str) -> Self {
        AccessError::NotRegistered {
            identity: identity.to_owned(),
            hub: hub.to_owned(),
        }
        .into()
    }
}

macro_rules! codes {
    ($($name:ident = $number:literal,)*) => {
        /// The hub's error codes; the first three digits are those of an HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum ErrorCode {
            $($name = $number,)*
        }

        impl ErrorCode {
            /// Every code there is.
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name that SDKs read in `iothub-errorcode` and `ErrorCode:`.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

codes! {
    InvalidProtocolVersion = 400_001,
    InvalidOperation = 400_003,
    ArgumentInvalid = 400_004,
    ArgumentNull = 400_005,
    IotHubFormatError = 400_006,
    DeviceDefinedMultipleTimes = 400_011,
    IotHubNotFound = 401_001,
    IotHubUnauthorizedAccess = 401_002,
    IotHubUnauthorized = 401_003,
    IotHubQuotaExceeded = 403_002,
    DeviceMaximumQueueDepthExceeded = 403_004,
    DeviceMaximumInflightMethodExceeded = 403_800,
    DeviceNotFound = 404_001,
    LinkAddressNotFound = 404_006,
    ModuleNotFound = 404_010,
    DeviceNotOnline = 404_103,
    DeviceAlreadyExists = 409_001,
    ModuleAlreadyExistsOnDevice = 409_301,
    PreconditionFailed = 412_001,
    DeviceMessageLockLost = 412_002,
    MessageTooLarge = 413_001,
    TooManyDevices = 413_002,
    TooManyModulesOnDevice = 413_003,
    ThrottlingException = 429_001,
    ThrottleBacklogLimitExceeded = 429_002,
    ServerError = 500_001,
    ReceiveLinkOpensThrottled = 503_008,
    GatewayTimeout = 504_101,
}

impl ErrorCode {
    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    /// The status that HTTP answers with.
    pub(crate) fn http_status(self) -> u16 {
        u16::try_from(self.number() / 1000).unwrap_or(500)
    }
}

impl From<AccessError> for HubError {
    fn from(error: AccessError) -> Self {
        let code = match &error {
            AccessError::NotRegistered { identity, .. } if identity.contains('/') => {
                ErrorCode::ModuleNotFound
            }
            AccessError::NotRegistered { .. } | AccessError::Disabled { .. } => {
                ErrorCode::DeviceNotFound
            }
            AccessError::Away { .. } => ErrorCode::IotHubNotFound,
            AccessError::Scripted { status, .. } => match status {
                404 => ErrorCode::DeviceNotFound,
                429 => ErrorCode::ThrottlingException,
                500.. => ErrorCode::ServerError,
                _ => ErrorCode::IotHubUnauthorized,
            },
            AccessError::Malformed
            | AccessError::Expired
            | AccessError::Signature
            | AccessError::Audience
            | AccessError::Certificate => ErrorCode::IotHubUnauthorized,
        };
        Self::new(code, error.to_string())
    }
}

impl From<C2dError> for HubError {
    fn from(error: C2dError) -> Self {
        let code = match error {
            C2dError::UnknownDevice => ErrorCode::DeviceNotFound,
            C2dError::QueueFull => ErrorCode::DeviceMaximumQueueDepthExceeded,
            C2dError::TooLarge => ErrorCode::MessageTooLarge,
            C2dError::BasicTier => ErrorCode::InvalidOperation,
        };
        Self::new(code, error.to_string())
    }
}

impl From<MethodError> for HubError {
    fn from(error: MethodError) -> Self {
        let (code, message) = match error {
            MethodError::DeviceNotOnline => (
                ErrorCode::DeviceNotOnline,
                "Timed out waiting for device to connect.",
            ),
            MethodError::TimedOut => (
                ErrorCode::GatewayTimeout,
                "Timed out waiting for the response from device.",
            ),
            MethodError::TooMany => (
                ErrorCode::DeviceMaximumInflightMethodExceeded,
                "Too many methods of the device wait for an answer.",
            ),
            MethodError::UnknownDevice => {
                (ErrorCode::DeviceNotFound, "The device is not registered.")
            }
            MethodError::InvalidName => (
                ErrorCode::ArgumentInvalid,
                "The methodName is missing, or has a character that none can have.",
            ),
            MethodError::TooLarge => (
                ErrorCode::MessageTooLarge,
                "The payload of a method may be 128 KB.",
            ),
            MethodError::BasicTier => (
                ErrorCode::InvalidOperation,
                "The hub is of the basic tier, which does not have this feature.",
            ),
        };
        Self::new(code, message)
    }
}

impl From<TwinError> for HubError {
    fn from(error: TwinError) -> Self {
        Self::new(ErrorCode::ArgumentInvalid, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_begins_with_a_status_that_says_no() {
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.http_status()), "{}", code.name());
        }
    }
}
