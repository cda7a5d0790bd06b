//! The log as a person reads it: when, who, what, and what else there is to say.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Room for a device's name before the text begins.
const WHO: usize = 20;

/// Sends the log to standard error; `RUST_LOG` chooses what of it, and everything is the default.
pub(crate) fn start() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("hub_simulator=trace"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .event_format(Lines)
        .init();
}

/// `07:31:05.120  device-1              Device settled a message (verdict=Complete)`
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let millis = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let (seconds, millis) = (millis / 1000 % 86_400, millis % 1000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(writer, "{hour:02}:{minute:02}:{second:02}.{millis:03}  ")?;
        write!(writer, "{:WHO$}  ", parts.device.as_deref().unwrap_or("-"))?;
        match *event.metadata().level() {
            Level::ERROR => write!(writer, "ERROR: ")?,
            Level::WARN => write!(writer, "warning: ")?,
            _ => {}
        }
        write!(writer, "{}", parts.message)?;
        if !parts.others.is_empty() {
            write!(writer, " ({})", parts.others)?;
        }
        writeln!(writer)
    }
}

#[derive(Default)]
struct Parts {
    device: Option<String>,
    message: String,
    others: String,
}

impl Parts {
    fn put(&mut self, field: &Field, value: &dyn fmt::Display) {
        match field.name() {
            "message" => self.message = value.to_string(),
            "device.id" => self.device = Some(value.to_string()),
            name => {
                let comma = if self.others.is_empty() { "" } else { ", " };
                self.others.push_str(&format!("{comma}{name}={value}"));
            }
        }
    }
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format_args!("{value:?}"));
    }
}
