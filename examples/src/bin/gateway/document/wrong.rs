//! What serde and validations say, with the key it is about.

use gateway_core::ConfigError;
use toml::de::DeTable;

use super::tree::{Span, walk};

/// Is what serde or a validation says, with the key it is about, relative to its section.
pub(super) struct Wrong {
    pub(super) key: String,
    pub(super) problem: String,
    pub(super) is_missing: bool,
}

impl Wrong {
    pub(super) fn of_type(table: &DeTable<'_>, error: &toml::de::Error) -> Self {
        let mut key = String::new();
        if let Some(span) = error.span() {
            // The deepest that contains it, children after their parents.
            walk(table, "", &mut |at, name, value| {
                if contains(&name, &span) || contains(&value, &span) {
                    key = at.to_owned();
                }
            });
        }
        let message = error.message();
        // The one place where serde tells the key in words only.
        match message
            .strip_prefix("missing field `")
            .and_then(|rest| rest.strip_suffix('`'))
        {
            None => Self {
                key,
                problem: worded(message),
                is_missing: false,
            },
            Some(name) => {
                let key = if key.is_empty() {
                    name.to_owned()
                } else {
                    format!("{key}.{name}")
                };
                Self {
                    key,
                    problem: "is missing".to_owned(),
                    is_missing: true,
                }
            }
        }
    }

    pub(super) fn of_value(error: &ConfigError) -> Self {
        let text = error.to_string();
        let problem = text
            .strip_prefix(&format!("`{}` ", error.key()))
            .unwrap_or(&text);
        // Some keys name their unit as well.
        let key = error.key().split(' ').next().unwrap_or_default();
        Self {
            key: key.to_owned(),
            problem: problem.to_owned(),
            is_missing: false,
        }
    }
}

/// Makes serde's words go on from the key.
pub(super) fn worded(message: &str) -> String {
    match message.split_once(", expected ") {
        Some((problem, expected)) if problem.starts_with("unknown field") => {
            format!(
                "is not known; allowed: {}",
                expected.trim_start_matches("one of ")
            )
        }
        Some((problem, expected)) => format!("has an {problem}; allowed: {expected}"),
        None if message == "invalid socket address syntax" => {
            "is no address; allowed: an address and a port such as 127.0.0.1:7007".to_owned()
        }
        None => format!("is wrong: {message}"),
    }
}

fn contains(outer: &Span, inner: &Span) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && !outer.is_empty()
}
