//! A device at the provisioning service: it registers, asks how far that is, and leaves.
//!
//! Source: Microsoft, "Communicate with your DPS using the MQTT protocol": no session outlives its
//! connection, and answers come at most at QoS 1.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Core, End};
use crate::guid::Guid;
use crate::mqtt::bag::{self, Request};
use crate::mqtt::codec::{
    Packet, PubAck, Publish, QoS, SubAck, Subscribe, SubscribeReasonCode, UnsubAck, Unsubscribe,
};
use crate::mqtt::session::InFlight;
use crate::provisioning::{DpsError, Login, Reply};

/// The one filter that the service knows.
const ANSWERS: &str = "$dps/registrations/res/#";
/// Answers that a device may leave unacknowledged.
const MAX_IN_FLIGHT: usize = 16;

/// A device that has proved to be enrolled.
#[derive(Debug)]
pub(super) struct Registrant {
    login: Login,
    pub(super) max_silence: Duration,
    pub(super) expires: Option<Instant>,
    /// The quality of service that answers come at, once they are subscribed to.
    answers: Option<QoS>,
    in_flight: InFlight,
    /// Numbers the answers.
    sequence: u64,
}

/// What a device asks of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ask<'a> {
    Register(Request<'a>),
    Status(Request<'a>),
}

impl<'a> Ask<'a> {
    fn parse(topic: &'a str) -> Option<Self> {
        let (operation, query) = topic
            .strip_prefix("$dps/registrations/")?
            .rsplit_once('/')?;
        let request = Request::parse(query).ok()?;
        match operation {
            "PUT/iotdps-register" => Some(Self::Register(request)),
            "GET/iotdps-get-operationstatus" => Some(Self::Status(request)),
            _ => None,
        }
    }

    fn request(&self) -> &Request<'a> {
        match self {
            Self::Register(request) | Self::Status(request) => request,
        }
    }
}

impl Registrant {
    pub(super) fn new(login: Login, max_silence: Duration, expires: Option<Instant>) -> Self {
        Self {
            login,
            max_silence,
            expires,
            answers: None,
            in_flight: InFlight::default(),
            sequence: 0,
        }
    }

    pub(super) fn on_time(&self, core: &Core) -> Result<(), End> {
        match self.expires {
            Some(expires) if expires <= core.now.instant => Err(End::refused("Token Invalid.")),
            _ => Ok(()),
        }
    }

    pub(super) fn packet(&mut self, core: &mut Core, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.published(core, &publish),
            Packet::PubAck(PubAck { pkid }) => {
                self.in_flight.acknowledge(pkid);
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.subscribe(core, &subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(core, &unsubscribe),
            Packet::PingReq => {
                core.send(&Packet::PingResp);
                Ok(())
            }
            Packet::Disconnect => Err(End::Disconnect),
            _ => Err(End::refused("the packet has no place here")),
        }
    }

    fn subscribe(&mut self, core: &mut Core, subscribe: &Subscribe) -> Result<(), End> {
        let mut granted = Vec::with_capacity(subscribe.filters.len());
        for filter in &subscribe.filters {
            check_filter(&filter.path)?;
            let qos = match filter.qos {
                QoS::AtMostOnce => QoS::AtMostOnce,
                QoS::AtLeastOnce | QoS::ExactlyOnce => QoS::AtLeastOnce,
            };
            self.answers = Some(qos);
            granted.push(SubscribeReasonCode::Success(qos));
        }
        core.send(&Packet::SubAck(SubAck::new(subscribe.pkid, granted)));
        Ok(())
    }

    fn unsubscribe(&mut self, core: &mut Core, unsubscribe: &Unsubscribe) -> Result<(), End> {
        for filter in &unsubscribe.topics {
            check_filter(filter)?;
            self.answers = None;
        }
        core.send(&Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)));
        Ok(())
    }

    fn published(&mut self, core: &mut Core, publish: &Publish) -> Result<(), End> {
        if publish.qos == QoS::ExactlyOnce {
            return Err(End::refused("QoS 2 is not supported"));
        }
        let no_topic = || End::Refused(format!("the service has no such topic: {}", publish.topic));
        let ask = Ask::parse(&publish.topic).ok_or_else(no_topic)?;
        let id = ask.request().id.ok_or_else(no_topic)?;
        if publish.qos == QoS::AtLeastOnce {
            core.send(&Packet::PubAck(PubAck::new(publish.pkid)));
        }
        let answer = self.carry_out(core, &ask, &publish.payload);
        self.answer(core, id, answer)
    }

    fn carry_out(&self, core: &Core, ask: &Ask<'_>, payload: &[u8]) -> Result<Reply, DpsError> {
        let cloud = Arc::clone(&core.caller.cloud);
        match ask {
            Ask::Register(_) => cloud.dps.register(&cloud, &self.login, payload, core.now),
            Ask::Status(request) => {
                let operation = request.get("operationId").unwrap_or_default();
                cloud.dps.operation_status(&self.login, operation, core.now)
            }
        }
    }

    fn answer(
        &mut self,
        core: &mut Core,
        id: &str,
        answer: Result<Reply, DpsError>,
    ) -> Result<(), End> {
        let (status, retry_after, body) = match answer {
            Ok(reply) => (reply.status, reply.retry_after, reply.body),
            Err(error) => {
                let body = error.body(core.now.system);
                (error.status(), error.retry_after, body)
            }
        };
        tracing::debug!(
            registration.id = self.login.registration_id,
            status,
            "Registration request"
        );
        let retry_after = retry_after.map(|seconds| ("retry-after", seconds));
        let tail = bag::reply(id, retry_after.as_slice());
        let topic = format!("$dps/registrations/res/{status}/{tail}");
        match self.answers {
            None => {}
            Some(QoS::AtMostOnce) => core.publish(topic, body.to_string().into()),
            Some(_) if self.in_flight.held() >= MAX_IN_FLIGHT => {
                return Err(End::refused("the client acknowledges no answers"));
            }
            Some(_) => {
                self.sequence += 1;
                let (pkid, _) = self.in_flight.send(self.sequence, Guid::random());
                core.publish_acked(topic, body.to_string().into(), pkid, false);
            }
        }
        Ok(())
    }
}

fn check_filter(filter: &str) -> Result<(), End> {
    if filter == ANSWERS {
        Ok(())
    } else {
        Err(End::Refused(format!(
            "the service has no such topic: {filter}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_documented_requests_are_known() {
        let register = "$dps/registrations/PUT/iotdps-register/?$rid=1";
        assert!(
            matches!(Ask::parse(register), Some(Ask::Register(request)) if request.id == Some("1"))
        );
        let status =
            "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId=4.a%20b";
        let Some(Ask::Status(request)) = Ask::parse(status) else {
            panic!("no status request");
        };
        assert_eq!(
            (request.id, request.get("operationId")),
            (Some("2"), Some("4.a b"))
        );
        for topic in [
            "$dps/registrations/PUT/iotdps-register",
            "$dps/registrations/GET/iotdps-register/?$rid=1",
            "$dps/registrations/res/202/?$rid=1",
            "devices/d/messages/events/?$rid=1",
        ] {
            assert_eq!(Ask::parse(topic), None, "{topic}");
        }
    }
}
