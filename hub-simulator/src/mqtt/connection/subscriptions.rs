//! What a device listens to.

use std::sync::Arc;

use super::device::Device;
use super::{Core, End};
use crate::hub::device::Feed;
use crate::hub::peer::{Route, Subscriber};
use crate::mqtt::codec::{
    Packet, QoS, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, Unsubscribe,
};
use crate::mqtt::session::{Session, Subscription};
use crate::mqtt::topic::{self, Channel};

impl Device {
    pub(super) fn subscribe(&mut self, core: &mut Core, subscribe: Subscribe) -> Result<(), End> {
        core.hub.demand_standard_tier()?;
        let mut granted = Vec::with_capacity(subscribe.filters.len());
        let mut channels = Vec::new();
        for filter in subscribe.filters {
            let channel = topic::parse_filter(&filter.path, self.identity())
                .map_err(|error| End::Refused(format!("{error}: {}", filter.path)))?;
            let qos = match filter.qos {
                QoS::AtMostOnce => QoS::AtMostOnce,
                QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
            };
            granted.push(SubscribeReasonCode::Success(qos));
            channels.push((
                channel,
                Subscription {
                    filter: filter.path.into(),
                    qos,
                },
            ));
        }
        core.send(&Packet::SubAck(SubAck::new(subscribe.pkid, granted)));
        for (channel, subscription) in channels {
            self.with_session(core, |session| session.subscribe(channel, subscription));
            self.listen(core, channel);
        }
        self.pump(core);
        Ok(())
    }

    pub(super) fn unsubscribe(
        &mut self,
        core: &mut Core,
        unsubscribe: &Unsubscribe,
    ) -> Result<(), End> {
        for filter in &unsubscribe.topics {
            let channel = topic::parse_filter(filter, self.identity())
                .map_err(|error| End::Refused(format!("{error}: {filter}")))?;
            let still_listens = self.with_session(core, |session| {
                session.unsubscribe(channel);
                channel.takes_messages() && session.messages().is_some()
            });
            if still_listens == Some(false) {
                self.stop_listening(core, channel);
            }
        }
        core.send(&Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)));
        Ok(())
    }

    pub(super) fn listen(&self, core: &Core, channel: Channel) {
        if let Some(feed) = feed(channel) {
            let mut state = core.hub.state();
            state.subscribe(self.identity(), feed, subscriber(core));
            drop(state);
            core.hub.stir();
        }
    }

    fn stop_listening(&self, core: &Core, channel: Channel) {
        if let Some(feed) = feed(channel) {
            let mut state = core.hub.state();
            state.unsubscribe(self.identity(), feed, &subscriber(core));
            drop(state);
            core.hub.stir();
        }
    }

    /// Whether the device is subscribed to a channel.
    pub(super) fn is_subscribed(&self, core: &Core, channel: Channel) -> bool {
        self.look_at_session(core, |session| session.subscription(channel).is_some())
            .unwrap_or_default()
    }

    /// Looks at the session, unless another connection has it.
    pub(super) fn look_at_session<T>(
        &self,
        core: &Core,
        look: impl FnOnce(&Session) -> T,
    ) -> Option<T> {
        let state = core.hub.state();
        let session = state.registry.get(self.identity())?.mqtt.as_ref()?;
        (session.owner() == core.peer.id).then(|| look(session))
    }

    /// Acts on the session, unless another connection has it.
    pub(super) fn with_session<T>(
        &self,
        core: &Core,
        act: impl FnOnce(&mut Session) -> T,
    ) -> Option<T> {
        let mut state = core.hub.state();
        let session = state.registry.get_mut(self.identity())?.mqtt.as_mut()?;
        (session.owner() == core.peer.id).then(|| act(session))
    }
}

/// Where the hub's news for the device go; a connection has one device, so that one route will do.
pub(super) fn subscriber(core: &Core) -> Subscriber {
    Subscriber {
        peer: Arc::clone(&core.peer),
        route: Route(0),
    }
}

/// What the hub hands out on a channel; answers about the twin come from the connection itself.
fn feed(channel: Channel) -> Option<Feed> {
    match channel {
        Channel::Messages | Channel::Own => Some(Feed::Messages),
        Channel::Methods => Some(Feed::Methods),
        Channel::Desired => Some(Feed::Desired),
        Channel::Inputs | Channel::TwinReplies => None,
    }
}
