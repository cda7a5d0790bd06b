//! What no hub should say.

use bytes::BytesMut;
use fe2o3_amqp_types::definitions::{Handle, Role};
use fe2o3_amqp_types::messaging::{Accepted, DeliveryState};
use fe2o3_amqp_types::performatives::{Disposition, End, Flow, Transfer};

use super::frames::{attach, begin, detach, transfer};
use super::{CHANNELS, HANDLES, World, pick};
use crate::client::tests::model::acts::Strange;
use crate::client::tests::model::book::Sent;

impl World {
    pub(super) fn strange(&mut self, strange: Strange) {
        let channel = |which: u8| u16::from(which) % CHANNELS;
        let handle = |which: u8| u32::from(which) % HANDLES;
        match strange {
            Strange::BeginTwice(one, other) => {
                self.say(channel(one), &begin(channel(other), 3), b"");
            }
            Strange::Attach {
                link,
                handle: own_handle,
                known,
                own,
            } => {
                let Some((at, link)) = pick(self.links(|_, _| true), link) else {
                    return;
                };
                let session = &self.book.sessions[at];
                let Some(channel) = session.said_channel else {
                    return;
                };
                let link = &session.links[link];
                let name = if known { &link.name } else { "a stranger's" };
                let attach = attach(name, handle(own_handle), link.is_sender == own, false);
                self.say(channel, &attach, b"");
            }
            Strange::Flow {
                session,
                handle: which,
                numbers: [seen, count, given],
                known,
            } => {
                let flow = Flow {
                    next_incoming_id: known.then_some(seen),
                    incoming_window: given,
                    next_outgoing_id: seen,
                    outgoing_window: given,
                    handle: Some(Handle(handle(which))),
                    delivery_count: known.then_some(count),
                    link_credit: Some(given),
                    available: None,
                    drain: seen % 3 == 0,
                    echo: count % 2 == 0,
                    properties: None,
                };
                self.say(channel(session), &flow, b"");
            }
            Strange::Transfer {
                session,
                handle: which,
                id,
                more,
                aborted,
            } => {
                let (channel, handle) = (channel(session), handle(which));
                let transfer = Transfer {
                    delivery_id: id,
                    more,
                    aborted,
                    ..transfer(handle)
                };
                let known = self.book.sessions.iter_mut();
                for session in known.filter(|session| session.said_channel == Some(channel)) {
                    let links = session.links.iter();
                    let said = links
                        .enumerate()
                        .filter(|(_, link)| link.said_handle == Some(handle));
                    let sent = said.map(|(link, _)| Sent {
                        id: id.unwrap_or_default(),
                        link,
                        is_settled: false,
                        is_heard: false,
                    });
                    session.sent.extend(sent);
                }
                self.say(channel, &transfer, b"strange#0|.");
            }
            Strange::Judge {
                session,
                first,
                span,
            } => {
                let disposition = Disposition {
                    role: Role::Receiver,
                    first,
                    last: Some(first.wrapping_add(span)),
                    settled: span % 2 == 0,
                    state: Some(DeliveryState::Accepted(Accepted {})),
                    batchable: false,
                };
                self.say(channel(session), &disposition, b"");
            }
            Strange::Detach(session, which) => {
                self.say(channel(session), &detach(handle(which), false), b"");
            }
            Strange::End(session) => self.say(channel(session), &End { error: None }, b""),
            Strange::Bytes(bytes) => {
                let mut frame = BytesMut::new();
                frame.extend_from_slice(&(bytes.len() as u32 + 8).to_be_bytes());
                frame.extend_from_slice(&[2, 0, 0, 0]);
                frame.extend_from_slice(&bytes);
                self.queue.push_back((0, frame.to_vec()));
            }
        }
    }
}
