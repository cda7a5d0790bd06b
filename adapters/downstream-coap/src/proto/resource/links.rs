//! Which resources there are, as `.well-known/core` tells it (RFC 6690).

use std::fmt::Write;

use super::routes::{Resource, Routes};
use crate::proto::message::{Code, Message, option};

/// The content format of links.
const LINK_FORMAT: u32 = 40;

impl Routes {
    /// Answers a request for `.well-known/core`: the paths without a place to be filled, of which a
    /// query `href=..` or `rt=..` chooses, with `*` at its end for any rest.
    #[must_use]
    pub fn links(&self, query: &[&str]) -> Message {
        let mut text = String::new();
        for (resource, template) in self.table.iter().filter(|(_, path)| path.is_plain()) {
            let Some(kind) = resource.kind() else {
                continue;
            };
            let path = template.to_string();
            let is_chosen = query.iter().all(|part| match part.split_once('=') {
                Some(("href", wanted)) => fits(wanted, &path),
                Some(("rt", wanted)) => fits(wanted, kind),
                _ => false,
            });
            if !is_chosen {
                continue;
            }
            let comma = if text.is_empty() { "" } else { "," };
            let observable = if resource.is_observable() { ";obs" } else { "" };
            // Writing to a text cannot fail.
            write!(text, "{comma}<{path}>;rt=\"{kind}\"{observable}").unwrap_or_default();
        }
        Message::new(Code::CONTENT)
            .with_uint(option::CONTENT_FORMAT, LINK_FORMAT)
            .with_payload(text)
    }
}

impl Resource {
    /// Its type in links.
    const fn kind(self) -> Option<&'static str> {
        match self {
            Self::Telemetry => Some("telemetry"),
            Self::Event => Some("event"),
            Self::Command => Some("command"),
            Self::Twin => Some("twin"),
            Self::Reported => Some("twin.reported"),
            Self::Desired => Some("twin.desired"),
            Self::CommandResponse | Self::WellKnown => None,
        }
    }
}

fn fits(wanted: &str, found: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => found.starts_with(start),
        None => found == wanted,
    }
}
