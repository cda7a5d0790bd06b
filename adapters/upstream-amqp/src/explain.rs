//! How a device stands here, for whoever asks why.

use gateway_core::{
    LaneExplanation, LinkExplanation, LinkPurpose, TokenExplanation, UpstreamExplanation,
};

use crate::device::{Device, Link};
use crate::env::Env;

impl Env {
    /// Tells what is known without waiting for anybody: a device that is being brought up shows no
    /// links.
    pub(crate) fn explain(&self, device: &Device) -> UpstreamExplanation {
        let mut explanation = UpstreamExplanation::default();
        explanation.breaker = Some(self.breakers.state(&device.id));
        explanation.in_flight = Some(device.busy());
        explanation.last_error = device.last_error();
        explanation.waits_for = self.door.wait_of(&device.turn);
        explanation.token =
            device.token(|token| TokenExplanation::new(token.age(), token.renewal_in()));
        if let Ok(link) = device.link.try_lock()
            && let Link::Up(attached) = &*link
        {
            let lane = &attached.lane;
            explanation.connection = Some(lane.connection);
            explanation.lane = Some(LaneExplanation::new(lane.number, lane.is_own));
            let telemetry = (LinkPurpose::Telemetry, attached.sender.id());
            let links = std::iter::once(telemetry).chain(attached.commands.open());
            let links =
                links.map(|(purpose, link)| LinkExplanation::new(purpose, Some(lane.credit(link))));
            explanation.links = links.collect();
        }
        explanation
    }
}
