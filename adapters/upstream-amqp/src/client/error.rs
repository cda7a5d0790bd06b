//! What the engine can meet.

use std::io;

use fe2o3_amqp_types::definitions::{Error as WireError, ErrorCondition};
use serde_amqp::primitives::Symbol;

/// Why a link, session or connection is of no more use. Cheap to clone: one loss fails many.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("the connection to the hub is down")]
    Down,
    #[error("the hub said {condition}: {description}")]
    Refused {
        condition: String,
        description: String,
    },
    #[error("the hub detached the link without a reason")]
    Detached,
    #[error("{0}")]
    Full(&'static str),
    #[error("the peer does not speak AMQP 1.0 as it should: {0}")]
    Malformed(&'static str),
}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> Self {
        Self::Refused {
            condition: condition_text(error.condition),
            description: error.description.unwrap_or_default(),
        }
    }
}

fn condition_text(condition: ErrorCondition) -> String {
    match condition {
        ErrorCondition::AmqpError(error) => Symbol::from(&error).0,
        ErrorCondition::ConnectionError(error) => Symbol::from(&error).0,
        ErrorCondition::SessionError(error) => Symbol::from(&error).0,
        ErrorCondition::LinkError(error) => Symbol::from(&error).0,
        ErrorCondition::Custom(symbol) => symbol.0,
    }
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the connection broke during the greeting")]
    Io(#[from] io::Error),
    #[error("the hub does not let this client in by SASL ANONYMOUS")]
    Sasl,
    #[error(transparent)]
    Client(#[from] ClientError),
}
