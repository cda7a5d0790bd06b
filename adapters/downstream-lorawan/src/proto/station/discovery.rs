//! Where a station asks which endpoint it shall speak to (`/router-info`).

use serde::{Deserialize, Deserializer, Serialize};

use super::MessageError;
use crate::proto::Eui64;

/// Is a station's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Question {
    /// The station that asks.
    #[serde(deserialize_with = "router")]
    pub router: Eui64,
}

/// Older stations write a number.
fn router<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Eui64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Router {
        Number(u64),
        Text(Eui64),
    }
    Ok(match Router::deserialize(deserializer)? {
        Router::Number(number) => Eui64::new(number),
        Router::Text(eui) => eui,
    })
}

impl Question {
    /// Reads a question.
    ///
    /// # Errors
    /// [`MessageError`] if it names no station.
    pub fn decode(json: &str) -> Result<Self, MessageError> {
        Ok(serde_json::from_str(json)?)
    }
}

/// Is the answer, after which both close the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    router: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    muxs: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Answer {
    /// Sends the station to an endpoint, such as `wss://host:3001/gateway/1`.
    #[must_use]
    pub fn endpoint(station: Eui64, uri: impl Into<String>) -> Self {
        Self {
            router: station.dashed(),
            muxs: Some(Eui64::new(0).dashed()),
            uri: Some(uri.into()),
            error: None,
        }
    }

    /// Refuses the station; it asks again later.
    #[must_use]
    pub fn refusal(station: Eui64, reason: impl Into<String>) -> Self {
        Self {
            router: station.dashed(),
            muxs: None,
            uri: None,
            error: Some(reason.into()),
        }
    }

    /// Writes the answer.
    #[must_use]
    pub fn encode(&self) -> String {
        // Texts alone: there is nothing that JSON cannot hold.
        serde_json::to_string(self).unwrap_or_default()
    }
}
