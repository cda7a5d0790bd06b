//! How a device stands here, for whoever asks why.

use gateway_core::{LinkExplanation, LinkPurpose, TokenExplanation, UpstreamExplanation};
use tokio::time::Instant;

use super::device::Device;
use super::env::Env;

impl Env {
    /// Tells what is known without waiting for anybody.
    pub(super) fn explain(&self, device: &Device) -> UpstreamExplanation {
        let mut explanation = UpstreamExplanation::default();
        explanation.breaker = Some(self.breakers.state(&device.id));
        explanation.in_flight = Some(device.busy());
        explanation.last_error = device.last_error();
        explanation.waits_for = self.door.wait_of(&device.turn);
        if let Some(line) = device.line() {
            let (life, hears) = (line.life, line.subscribed());
            let left = |at: Instant| at.saturating_duration_since(Instant::now());
            explanation.connection = Some(line.number);
            explanation.token = Some(TokenExplanation::new(
                life.begun.elapsed(),
                life.renewal.map(left),
            ));
            let links = [
                (LinkPurpose::Telemetry, true),
                (LinkPurpose::Messages, hears.messages),
                (LinkPurpose::Methods, hears.methods),
                (LinkPurpose::Twin, hears.desired),
            ];
            let open = links.into_iter().filter(|(_, is_open)| *is_open);
            let open = open.map(|(purpose, _)| LinkExplanation::new(purpose, None));
            explanation.links = open.collect();
        }
        explanation
    }
}
