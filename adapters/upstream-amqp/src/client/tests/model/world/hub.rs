//! What a hub says that keeps the rules.

use fe2o3_amqp_types::definitions::{Handle, Role};
use fe2o3_amqp_types::messaging::{
    Accepted, DeliveryState, Modified, Received, Rejected, Released,
};
use fe2o3_amqp_types::performatives::{Close, Disposition, End, Flow, Transfer};

use super::frames::{attach, begin, detach, flow, is_begun, is_open, transfer};
use super::{Act, CHANNELS, HANDLES, World, book, pick};
use crate::client::link::FIRST;
use crate::client::tests::model::book::{HUB_COUNT, Sent, write_tag};

impl World {
    pub(super) fn hub(&mut self, act: Act) {
        match act {
            Act::AnswerBegin {
                which,
                channel,
                window,
            } => {
                let sessions = self.sessions(|session| session.said_channel.is_none());
                let Some(at) = pick(sessions, which) else {
                    return;
                };
                let free = (0..CHANNELS).filter(|channel| {
                    let in_use = |session: &book::Session| {
                        session.said_channel == Some(*channel)
                            && !(session.hub_ended && session.is_ended)
                    };
                    !self.book.sessions.iter().any(in_use)
                });
                let Some(channel) = pick(free.collect(), channel) else {
                    return;
                };
                let session = &mut self.book.sessions[at];
                session.said_channel = Some(channel);
                let asked = session.channel;
                self.say(channel, &begin(asked, window), b"");
            }
            Act::AnswerAttach {
                which,
                handle,
                refuse,
            } => {
                let links = self.links(|session, link| {
                    link.said_handle.is_none() && !session.is_ended && !session.hub_ended
                });
                let Some((at, link)) = pick(links, which) else {
                    return;
                };
                let session = &mut self.book.sessions[at];
                let free = (0..HANDLES).filter(|handle| {
                    let in_use = |link: &book::Link| {
                        link.said_handle == Some(*handle)
                            && !(link.hub_detached && link.is_detached)
                    };
                    !session.links.iter().any(in_use)
                });
                let Some(handle) = pick(free.collect(), handle) else {
                    return;
                };
                let channel = session.said_channel.unwrap();
                let link = &mut session.links[link];
                link.said_handle = Some(handle);
                link.hub_detached = refuse;
                let answer = attach(&link.name, handle, !link.is_sender, refuse);
                self.say(channel, &answer, b"");
                if refuse {
                    self.say(channel, &detach(handle, true), b"");
                }
            }
            Act::AnswerDetach(which) => {
                let links = self.links(|session, link| {
                    link.is_detached && is_open(session, link) && !session.is_ended
                });
                if let Some(link) = pick(links, which) {
                    self.detach(link, false);
                }
            }
            Act::Detach { link, error } => {
                let links = self.links(|session, link| is_open(session, link) && !link.is_detached);
                if let Some(link) = pick(links, link) {
                    self.detach(link, error);
                }
            }
            Act::AnswerEnd(which) => {
                let ended = |session: &book::Session| session.is_ended && is_begun(session);
                if let Some(at) = pick(self.sessions(ended), which) {
                    self.end(at);
                }
            }
            Act::End(which) => {
                if let Some(at) = pick(self.sessions(is_begun), which) {
                    self.end(at);
                }
            }
            Act::AnswerEcho(which) => {
                let links = self.links(|session, link| is_open(session, link) && link.echo);
                let Some((at, link)) = pick(links, which) else {
                    return;
                };
                let session = &mut self.book.sessions[at];
                session.links[link].echo = false;
                let (session, link) = (&*session, &session.links[link]);
                let flow = Flow {
                    handle: link.said_handle.map(Handle),
                    delivery_count: Some(link.hub_count),
                    link_credit: Some(0),
                    ..flow(session, 10)
                };
                let channel = session.said_channel.unwrap();
                self.say(channel, &flow, b"");
            }
            Act::Window {
                session,
                window,
                echo,
            } => {
                if let Some(at) = pick(self.sessions(is_begun), session) {
                    let session = &self.book.sessions[at];
                    let channel = session.said_channel.unwrap();
                    let flow = Flow {
                        echo,
                        ..flow(session, window)
                    };
                    self.say(channel, &flow, b"");
                }
            }
            Act::Credit {
                link,
                credit,
                lag,
                drain,
                echo,
            } => {
                let links = self.links(|session, link| is_open(session, link) && link.is_sender);
                let Some((at, link)) = pick(links, link) else {
                    return;
                };
                let session = &self.book.sessions[at];
                let link = &session.links[link];
                let sent = link.delivery_count.wrapping_sub(FIRST);
                let lag = u32::from(lag).min(sent);
                let flow = Flow {
                    handle: link.said_handle.map(Handle),
                    delivery_count: Some(link.delivery_count.wrapping_sub(lag)),
                    link_credit: Some(credit),
                    drain,
                    echo,
                    ..flow(session, credit)
                };
                let channel = session.said_channel.unwrap();
                self.say(channel, &flow, b"");
            }
            Act::Message {
                link,
                frames,
                settled,
                abort,
            } => self.message(link, frames, settled, abort),
            Act::Judge {
                session,
                which,
                span,
                verdict,
                settled,
            } => self.judge(session, which, span, verdict, settled),
            Act::HubClose => {
                self.hub_closed = true;
                self.say(0, &Close { error: None }, b"");
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn sessions(&self, which: impl Fn(&book::Session) -> bool) -> Vec<usize> {
        let sessions = self.book.sessions.iter().enumerate();
        let found = sessions.filter(|(_, session)| which(session));
        found.map(|(at, _)| at).collect()
    }

    pub(super) fn links(
        &self,
        which: impl Fn(&book::Session, &book::Link) -> bool,
    ) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for (at, session) in self.book.sessions.iter().enumerate() {
            let links = session.links.iter().enumerate();
            let links = links.filter(|(_, link)| which(session, link));
            found.extend(links.map(|(link, _)| (at, link)));
        }
        found
    }

    pub(super) fn detach(&mut self, (at, link): (usize, usize), error: bool) {
        let session = &mut self.book.sessions[at];
        let link = &mut session.links[link];
        link.hub_detached = true;
        let (channel, handle) = (session.said_channel.unwrap(), link.said_handle.unwrap());
        self.say(channel, &detach(handle, error), b"");
    }

    pub(super) fn end(&mut self, at: usize) {
        let session = &mut self.book.sessions[at];
        session.hub_ended = true;
        let channel = session.said_channel.unwrap();
        self.say(channel, &End { error: None }, b"");
    }

    pub(super) fn message(&mut self, which: u8, frames: u8, settled: bool, abort: bool) {
        let links = self.links(|session, link| {
            let left = link.limit.wrapping_sub(link.hub_count);
            is_open(session, link) && !link.is_sender && (1..1000).contains(&left)
        });
        let Some((at, index)) = pick(links, which) else {
            return;
        };
        self.deliveries = self.deliveries.wrapping_add(1);
        let id = self.deliveries;
        let session = &mut self.book.sessions[at];
        let channel = session.said_channel.unwrap();
        let link = &mut session.links[index];
        let number = link.hub_count.wrapping_sub(HUB_COUNT);
        link.hub_count = link.hub_count.wrapping_add(1);
        let handle = link.said_handle.unwrap();
        let payload = write_tag(&(link.name.clone(), number), 20);
        if !abort {
            session.sent.push(Sent {
                id,
                link: index,
                is_settled: settled,
                is_heard: false,
            });
        }
        let size = payload.len().div_ceil(frames.into());
        let count = payload.chunks(size).len();
        for (nth, piece) in payload.chunks(size).enumerate() {
            let is_last = nth + 1 == count;
            let transfer = Transfer {
                delivery_id: (nth == 0).then_some(id),
                settled: (nth == 0).then_some(settled),
                more: !is_last,
                aborted: abort && is_last,
                ..transfer(handle)
            };
            self.say(channel, &transfer, piece);
        }
    }

    pub(super) fn judge(&mut self, session: u8, which: u8, span: u8, verdict: u8, settled: bool) {
        let Some(at) = pick(self.sessions(is_begun), session) else {
            return;
        };
        let session = &mut self.book.sessions[at];
        let links = &session.links;
        let is_open = |delivery: &book::Delivery| {
            !delivery.is_settled && !delivery.is_judged && !links[delivery.link].hub_detached
        };
        let deliveries = session.deliveries.iter().enumerate();
        let open = deliveries.filter(|(_, delivery)| is_open(delivery));
        let Some(first) = pick(open.map(|(nth, _)| nth).collect(), which) else {
            return;
        };
        let following = session.deliveries[first..].iter();
        let count = following
            .take_while(|delivery| is_open(delivery))
            .take(usize::from(span) + 1)
            .count();
        let state = match verdict % 6 {
            0 => DeliveryState::Rejected(Rejected { error: None }),
            1 => DeliveryState::Released(Released {}),
            2 => DeliveryState::Modified(Modified {
                delivery_failed: None,
                undeliverable_here: None,
                message_annotations: None,
            }),
            3 => DeliveryState::Received(Received {
                section_number: 0,
                section_offset: 0,
            }),
            _ => DeliveryState::Accepted(Accepted {}),
        };
        let is_final = settled || !matches!(state, DeliveryState::Received(_));
        for delivery in &mut session.deliveries[first..first + count] {
            delivery.is_judged |= is_final;
        }
        let disposition = Disposition {
            role: Role::Receiver,
            first: session.deliveries[first].id,
            last: (count > 1).then(|| session.deliveries[first + count - 1].id),
            settled,
            state: Some(state),
            batchable: false,
        };
        let channel = session.said_channel.unwrap();
        self.say(channel, &disposition, b"");
    }
}
