//! How a device stands here, for whoever asks why.

use gateway_core::{LaneExplanation, LinkExplanation, LinkPurpose, UpstreamExplanation};

use crate::device::{Device, Link};
use crate::env::Env;

impl Env {
    /// Tells what is known without waiting for anybody: a device that is being brought up shows no
    /// links.
    pub(crate) fn explain(&self, device: &Device) -> UpstreamExplanation {
        let mut explanation = UpstreamExplanation::default();
        explanation.breaker = Some(self.breakers.state(&device.id));
        if let Ok(link) = device.link.try_lock()
            && let Link::Up(attached) = &*link
        {
            let lane = &attached.lane;
            explanation.lane = Some(LaneExplanation::new(lane.serial, lane.is_own));
            let telemetry = Some(attached.sender.credit());
            explanation.links = vec![LinkExplanation::new(LinkPurpose::Telemetry, telemetry)];
            let commands = attached.commands.open().into_iter();
            let commands = commands.map(|purpose| LinkExplanation::new(purpose, None));
            explanation.links.extend(commands);
        }
        explanation
    }
}
