//! The AMQP side: an engine without IO or clock, and a thin task around it for every connection.

mod address;
mod attach;
pub(crate) mod codec;
pub(crate) mod connection;
pub(crate) mod core;
mod endpoint;
pub(crate) mod events;
pub(crate) mod link;
mod session;
pub(crate) mod shell;
mod tokens;

use std::borrow::Cow;

/// An error as AMQP carries it (AMQP 1.0 section 2.8.14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmqpError {
    pub(crate) condition: Cow<'static, str>,
    pub(crate) description: String,
    /// What else there is to know, under symbols.
    pub(crate) info: Vec<(&'static str, Info)>,
}

/// Longest name of a link or token and longest correlation id, in bytes: thousands of them stay as
/// long as their connection. Microsoft's SDKs name links by ids and UUIDs and tokens by resources.
pub(crate) const MAX_NAME: usize = 1024;

/// A value of an error's info map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Info {
    Text(String),
    Int(i32),
    Bool(bool),
}

impl AmqpError {
    pub(crate) fn new(
        condition: impl Into<Cow<'static, str>>,
        description: impl Into<String>,
    ) -> Self {
        Self {
            condition: condition.into(),
            description: description.into(),
            info: Vec::new(),
        }
    }

    /// Adds a value to the info map.
    pub(crate) fn with(mut self, name: &'static str, value: Info) -> Self {
        self.info.push((name, value));
        self
    }
}

/// Error conditions (AMQP 1.0 sections 2.8.15 to 2.8.18, and the hub's own).
pub(crate) mod condition {
    use crate::hub::error::ErrorCode;

    pub(crate) const ARGUMENT: &str = "com.microsoft:argument-error";
    pub(crate) const ARGUMENT_RANGE: &str = "com.microsoft:argument-out-of-range";
    pub(crate) const CONNECTION_FORCED: &str = "amqp:connection:forced";
    pub(crate) const DECODE: &str = "amqp:decode-error";
    pub(crate) const DETACH_FORCED: &str = "amqp:link:detach-forced";
    pub(crate) const FRAMING: &str = "amqp:connection:framing-error";
    pub(crate) const HANDLE_IN_USE: &str = "amqp:session:handle-in-use";
    pub(crate) const HUB_NOT_FOUND: &str = "com.microsoft:iot-hub-not-found-error";
    pub(crate) const ILLEGAL_STATE: &str = "amqp:illegal-state";
    pub(crate) const INTERNAL: &str = "amqp:internal-error";
    pub(crate) const INVALID_FIELD: &str = "amqp:invalid-field";
    pub(crate) const LOCK_LOST: &str = "com.microsoft:message-lock-lost";
    pub(crate) const NOT_ALLOWED: &str = "amqp:not-allowed";
    pub(crate) const NOT_FOUND: &str = "amqp:not-found";
    pub(crate) const NOT_IMPLEMENTED: &str = "amqp:not-implemented";
    pub(crate) const REDIRECT: &str = "amqp:link:redirect";
    pub(crate) const RESOURCE_LIMIT: &str = "amqp:resource-limit-exceeded";
    pub(crate) const RESOURCE_LOCKED: &str = "amqp:resource-locked";
    pub(crate) const SIZE_EXCEEDED: &str = "amqp:link:message-size-exceeded";
    pub(crate) const STOLEN: &str = "amqp:link:stolen";
    pub(crate) const TRANSFER_LIMIT: &str = "amqp:link:transfer-limit-exceeded";
    pub(crate) const UNATTACHED_HANDLE: &str = "amqp:session:unattached-handle";
    pub(crate) const UNAUTHORIZED: &str = "amqp:unauthorized-access";
    pub(crate) const WINDOW_VIOLATION: &str = "amqp:session:window-violation";

    /// The condition that a refusal of the hub goes by (edgeHub's `AmqpErrorMapper`).
    pub(crate) fn of(code: ErrorCode) -> &'static str {
        match code {
            ErrorCode::DeviceNotFound
            | ErrorCode::ModuleNotFound
            | ErrorCode::LinkAddressNotFound
            | ErrorCode::DeviceNotOnline => NOT_FOUND,
            ErrorCode::IotHubNotFound => HUB_NOT_FOUND,
            ErrorCode::IotHubUnauthorizedAccess | ErrorCode::IotHubUnauthorized => UNAUTHORIZED,
            ErrorCode::IotHubQuotaExceeded | ErrorCode::DeviceMaximumQueueDepthExceeded => {
                RESOURCE_LIMIT
            }
            ErrorCode::DeviceAlreadyExists | ErrorCode::ModuleAlreadyExistsOnDevice => {
                "com.microsoft:device-already-exists"
            }
            ErrorCode::PreconditionFailed => "com.microsoft:precondition-failed",
            ErrorCode::DeviceMessageLockLost => LOCK_LOST,
            ErrorCode::MessageTooLarge => SIZE_EXCEEDED,
            ErrorCode::ThrottlingException
            | ErrorCode::ThrottleBacklogLimitExceeded
            | ErrorCode::DeviceMaximumInflightMethodExceeded
            | ErrorCode::ReceiveLinkOpensThrottled => "com.microsoft:device-container-throttled",
            ErrorCode::GatewayTimeout => "com.microsoft:timeout",
            ErrorCode::ServerError => INTERNAL,
            ErrorCode::InvalidProtocolVersion
            | ErrorCode::InvalidOperation
            | ErrorCode::ArgumentInvalid
            | ErrorCode::ArgumentNull
            | ErrorCode::IotHubFormatError
            | ErrorCode::DeviceDefinedMultipleTimes
            | ErrorCode::TooManyDevices
            | ErrorCode::TooManyModulesOnDevice => ARGUMENT,
        }
    }
}
