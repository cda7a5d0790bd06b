//! What was measured of a contender, beside the first one.

use benches::process::Usage;
use benches::report::Fields;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::contender::Contender;

/// One round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) accepted: u64,
    pub(crate) usage: Usage,
}

impl Round {
    fn cpu_us(&self) -> f64 {
        self.usage.cpu_us_each(self.accepted)
    }

    fn rate(&self) -> f64 {
        self.accepted as f64 / self.usage.wall.as_secs_f64()
    }
}

/// What a contender needs to have its devices attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened {
    pub(crate) connections: u64,
    pub(crate) seconds: f64,
    /// Resident memory a device, in KiB, after one message of each.
    pub(crate) kib_a_device: f64,
}

/// A line of the result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) contender: Contender,
    pub(crate) devices: usize,
    pub(crate) in_flight: usize,
    /// CPU a message to the gateway's in the same round; the median.
    pub(crate) cpu_to_gateway: Option<f64>,
    /// Messages a second to the gateway's in the same round; the median.
    pub(crate) rate_to_gateway: Option<f64>,
    pub(crate) cpu_us_per_message: f64,
    pub(crate) messages_per_second: f64,
    pub(crate) kib_a_device: f64,
    pub(crate) connections: u64,
    pub(crate) seconds_to_open: f64,
}

impl Row {
    pub(crate) fn new(
        contender: Contender,
        (devices, in_flight): (usize, usize),
        opened: Opened,
        rounds: &[Round],
        gateway: Option<&[Round]>,
    ) -> Self {
        let to_gateway = |of: fn(&Round) -> f64| {
            let pairs = rounds.iter().zip(gateway?);
            Some(median(
                pairs.map(|(own, other)| of(own) / of(other)).collect(),
            ))
        };
        Self {
            contender,
            devices,
            in_flight,
            cpu_to_gateway: to_gateway(Round::cpu_us),
            rate_to_gateway: to_gateway(Round::rate),
            cpu_us_per_message: median(rounds.iter().map(Round::cpu_us).collect()),
            messages_per_second: median(rounds.iter().map(Round::rate).collect()),
            kib_a_device: opened.kib_a_device,
            connections: opened.connections,
            seconds_to_open: opened.seconds,
        }
    }

    pub(crate) fn fields(&self) -> Fields {
        Fields::new()
            .with("contender", self.contender.name())
            .with("devices", self.devices)
            .with("in_flight", self.in_flight)
            .with("cpu_to_gateway", self.cpu_to_gateway)
            .with("rate_to_gateway", self.rate_to_gateway)
            .with("cpu_us_per_message", self.cpu_us_per_message)
            .with("messages_per_second", self.messages_per_second)
            .with("kib_a_device", self.kib_a_device)
            .with("connections", self.connections)
            .with("seconds_to_open", self.seconds_to_open)
    }
}

/// The rows of a report that was printed as JSON.
pub(crate) fn rows_of(report: &str) -> anyhow::Result<Vec<Row>> {
    let report: Value = serde_json::from_str(report)?;
    Ok(serde_json::from_value(report["results"]["rows"].clone())?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
