//! What a run found, for machines and for people.

use std::fmt;

use serde::Serialize;

/// Is the result of a run. Where a figure cannot be had it is absent: `null` in JSON.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) devices: u32,
    /// Connections to the hub at the end.
    pub(crate) connections: usize,
    pub(crate) sent: u64,
    /// Acknowledged to devices and recorded by the hub.
    pub(crate) accepted: u64,
    /// Acknowledged and not recorded.
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) out_of_order: u64,
    pub(crate) c2d_sent: u64,
    pub(crate) c2d_completed: u64,
    pub(crate) methods_called: u64,
    pub(crate) methods_answered: u64,
    /// From the first message to the last acknowledgement.
    pub(crate) seconds: f64,
    pub(crate) gateway_cpu_us_per_message: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// The gateway's resident memory at the end.
    pub(crate) rss_mib: Option<f64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.accepted as f64 / self.seconds.max(f64::EPSILON);
        let connections = match self.connections {
            1 => "1 connection".to_owned(),
            count => format!("{count} connections"),
        };
        writeln!(f, "{} devices over {connections} to the hub", self.devices)?;
        writeln!(f)?;
        writeln!(
            f,
            "  messages   {} sent, {} accepted in {:.1} s: {rate:.0} a second",
            self.sent, self.accepted, self.seconds
        )?;
        writeln!(
            f,
            "             {} lost, {} duplicated, {} out of order",
            self.lost, self.duplicated, self.out_of_order
        )?;
        writeln!(
            f,
            "  commands   {} of {} messages completed, {} of {} methods answered",
            self.c2d_completed, self.c2d_sent, self.methods_answered, self.methods_called
        )?;
        writeln!(
            f,
            "  latency    {} half of the messages, {} at most for 99 %",
            Figure(self.p50_ms, "ms"),
            Figure(self.p99_ms, "ms")
        )?;
        write!(
            f,
            "  gateway    {} of processor time a message, {} of memory",
            Figure(self.gateway_cpu_us_per_message, "us"),
            Figure(self.rss_mib, "MiB")
        )
    }
}

struct Figure(Option<f64>, &'static str);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{value:.1} {}", self.1),
            None => f.write_str("(not known here)"),
        }
    }
}

/// Rounds to thousandths, which is more than any figure here is good for.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
