//! The frames of JSON lines that a device of this fleet speaks and understands.
//!
//! See `gateway_downstream_tcp::proto::json_lines` for the whole protocol.

use std::io::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::verdict::message_id;

/// Is any frame of the gateway.
#[derive(Debug, Deserialize)]
pub(super) struct Frame<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    pub(super) seq: Option<u32>,
    /// Given back as it came.
    #[serde(borrow)]
    pub(super) id: Option<&'a RawValue>,
    pub(super) tag: Option<u64>,
    pub(super) reason: Option<&'a str>,
    pub(super) retry_after_ms: Option<u64>,
}

impl<'a> Frame<'a> {
    pub(super) fn parse(line: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// What it says, for people.
    pub(super) fn words(&self) -> String {
        let reason = self.reason.unwrap_or("no reason given");
        format!("the gateway said {} ({reason})", self.kind)
    }
}

/// Writes a device's frames. Ids and secrets of this fleet need no escapes.
#[derive(Debug)]
pub(super) struct Writer {
    device: String,
}

impl Writer {
    pub(super) fn new(device: String) -> Self {
        Self { device }
    }

    pub(super) fn hello(&self, secret: &str, listens: bool, output: &mut Vec<u8>) {
        let device = &self.device;
        line(
            output,
            format_args!(
                r#"{{"type":"hello","id":"{device}","secret":"{secret}","interest":{{"messages":{listens},"methods":{listens}}}}}"#
            ),
        );
    }

    pub(super) fn telemetry(&self, seq: u32, output: &mut Vec<u8>) {
        let id = message_id(&self.device, seq);
        let temperature = 20 + seq % 10;
        line(
            output,
            format_args!(
                r#"{{"type":"telemetry","id":"{id}","seq":{seq},"body":{{"temperature":{temperature},"count":{seq}}}}}"#
            ),
        );
    }

    pub(super) fn c2d_ack(&self, tag: u64, output: &mut Vec<u8>) {
        line(
            output,
            format_args!(r#"{{"type":"c2d_ack","tag":{tag},"outcome":"complete"}}"#),
        );
    }

    pub(super) fn method_response(&self, id: &RawValue, output: &mut Vec<u8>) {
        let device = &self.device;
        line(
            output,
            format_args!(
                r#"{{"type":"method_response","id":{id},"status":200,"payload":{{"by":"{device}"}}}}"#
            ),
        );
    }
}

fn line(output: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Memory takes everything.
    drop(writeln!(output, "{text}"));
}
