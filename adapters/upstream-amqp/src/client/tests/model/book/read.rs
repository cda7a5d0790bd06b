//! What the client writes, and must not.

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::performatives::{Attach, Begin, Disposition, Flow, Transfer};

use super::{Delivery, HUB_COUNT, HUB_FIRST, Link, Session, read_tag};
use crate::client::link::FIRST;

impl Session {
    pub(super) fn begun(channel: u16, begin: &Begin) -> Self {
        assert_eq!(
            (begin.remote_channel, begin.next_outgoing_id),
            (None, FIRST)
        );
        Self {
            channel,
            said_channel: None,
            hub_channel: None,
            has_begun: false,
            is_ended: false,
            hub_ended: false,
            heard_end: false,
            handle_max: 0,
            next_transfer: FIRST,
            next_delivery: FIRST,
            window: (FIRST, 0),
            links: Vec::new(),
            deliveries: Vec::new(),
            heard_transfers: HUB_FIRST,
            sent: Vec::new(),
        }
    }

    pub(super) fn read_attach(&mut self, attach: Attach) {
        let handle = attach.handle.0;
        assert!(
            self.by_handle(handle).is_none(),
            "handle {handle} is in use"
        );
        assert!(self.has_begun && handle <= self.handle_max);
        let is_sender = attach.role == Role::Sender;
        let count = is_sender.then_some(FIRST);
        assert_eq!(attach.initial_delivery_count, count);
        self.links.push(Link {
            // What the test wants to have of it stands in its address.
            target: target_of(&attach),
            name: attach.name,
            handle,
            is_sender,
            said_handle: None,
            hub_handle: None,
            is_refused: false,
            is_attached: false,
            is_detached: false,
            hub_detached: false,
            heard_detach: false,
            credit: (FIRST, 0),
            delivery_count: FIRST,
            partial: None,
            limit: HUB_COUNT,
            hub_count: HUB_COUNT,
            heard_count: HUB_COUNT,
            hears: None,
            open: 0,
            echo: false,
            is_stopped: false,
        });
    }

    pub(super) fn read_flow(&mut self, flow: &Flow, is_strange: bool) {
        let heard = self.has_begun.then_some(self.heard_transfers);
        assert_eq!(flow.next_incoming_id, heard);
        assert_eq!(flow.next_outgoing_id, self.next_transfer);
        let Some(handle) = &flow.handle else { return };
        let link = self.by_handle(handle.0).expect("a link");
        assert!(!link.is_detached, "a flow after the detach");
        let (count, credit) = (flow.delivery_count.unwrap(), flow.link_credit.unwrap());
        if link.is_sender {
            assert_eq!(count, link.delivery_count);
        } else {
            if !is_strange {
                assert_eq!(count, link.heard_count);
                assert!(credit + link.open <= link.target, "more than is wanted");
            }
            assert!(!link.is_stopped || credit == 0);
            link.is_stopped |= flow.echo;
            link.echo |= flow.echo;
            link.limit = count.wrapping_add(credit);
        }
    }

    pub(super) fn read_transfer(&mut self, transfer: &Transfer, payload: &Bytes) {
        let (seen, window) = self.window;
        let on_their_way = self.next_transfer.wrapping_sub(seen);
        assert!(on_their_way < window, "a transfer beyond the window");
        self.next_transfer = self.next_transfer.wrapping_add(1);
        let next_delivery = self.next_delivery;
        let handle = transfer.handle.0;
        let live = |link: &Link| link.handle == handle && !link.is_over();
        let at = self.links.iter().position(live).expect("a link");
        let link = &mut self.links[at];
        assert!(link.is_attached && link.is_sender && !link.is_detached);
        let (id, mut message) = match link.partial.take() {
            Some(partial) => {
                assert!(transfer.delivery_id.is_none_or(|id| id == partial.0));
                partial
            }
            None => {
                let (seen, credit) = link.credit;
                let on_their_way = link.delivery_count.wrapping_sub(seen);
                assert!(on_their_way < credit, "a message beyond the credit");
                link.delivery_count = link.delivery_count.wrapping_add(1);
                let id = transfer.delivery_id.expect("a number");
                assert_eq!(id, next_delivery, "numbers have no gaps");
                assert!(transfer.delivery_tag.is_some() && !transfer.aborted);
                self.next_delivery = id.wrapping_add(1);
                self.deliveries.push(Delivery {
                    id,
                    tag: None,
                    link: at,
                    is_settled: transfer.settled == Some(true),
                    is_judged: false,
                });
                (id, BytesMut::new())
            }
        };
        let mut known = self.deliveries.iter_mut().rev();
        let delivery = known.find(|delivery| delivery.id == id).unwrap();
        if transfer.aborted {
            assert!(payload.is_empty());
            delivery.is_settled = true;
            return;
        }
        message.extend_from_slice(payload);
        let tag = read_tag(&message);
        assert_eq!(tag.0, link.name, "a message on another's link");
        delivery.tag = Some(tag);
        if transfer.more {
            link.partial = Some((id, message));
            return;
        }
        assert!(message.ends_with(b"."), "all of the message");
    }

    pub(super) fn read_disposition(&mut self, disposition: &Disposition) {
        assert!(disposition.settled);
        if disposition.role == Role::Sender {
            return;
        }
        assert!(
            disposition
                .last
                .is_none_or(|last| last == disposition.first)
        );
        let mut sent = self.sent.iter_mut();
        let sent =
            sent.find(|sent| sent.id == disposition.first && sent.is_heard && !sent.is_settled);
        let sent = sent.expect("a message of the hub's that is not settled");
        sent.is_settled = true;
        self.links[sent.link].open -= 1;
    }
}

/// What the test writes into an address: how many messages it wants to have at a time.
fn target_of(attach: &Attach) -> u32 {
    let address = attach
        .source
        .as_ref()
        .and_then(|source| source.address.clone());
    let target = address.and_then(|address| address.parse().ok());
    target.unwrap_or(0_u32).max(1)
}
