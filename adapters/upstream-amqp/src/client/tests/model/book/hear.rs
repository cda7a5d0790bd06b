//! What the client hears, and what it is to make of it.

use fe2o3_amqp_types::definitions::Role;
use fe2o3_amqp_types::messaging::DeliveryState;
use fe2o3_amqp_types::performatives::{Attach, Disposition, Flow, Transfer};

use super::{Session, Tag};
use crate::client::link::FIRST;
use crate::client::session::Outcome;

impl Session {
    pub(super) fn hear_attach(&mut self, attach: &Attach) -> Result<(), &'static str> {
        let is_in_use = self.heard_handle(attach.handle.0).is_some();
        let is_for_sender = attach.role == Role::Receiver;
        let mut links = self.links.iter_mut();
        let link = links.find(|link| {
            link.name == attach.name
                && !(link.is_attached || link.is_refused)
                && link.is_sender == is_for_sender
        });
        let Some(link) = link else { return Ok(()) };
        link.hub_handle = Some(attach.handle.0);
        link.said_handle = Some(attach.handle.0);
        let terminus_is_null = match is_for_sender {
            true => attach.target.is_none(),
            false => attach.source.is_none(),
        };
        link.is_refused = terminus_is_null;
        link.is_attached = !terminus_is_null;
        match is_in_use {
            true => Err("a handle twice"),
            false => Ok(()),
        }
    }

    pub(super) fn hear_flow(&mut self, flow: &Flow) {
        let seen = flow.next_incoming_id.unwrap_or(FIRST);
        self.window = (seen, flow.incoming_window);
        let handle = flow.handle.as_ref();
        let Some(link) = handle.and_then(|handle| self.heard_handle(handle.0)) else {
            return;
        };
        let link = &mut self.links[link];
        if !link.is_sender || !link.is_attached || link.is_detached {
            return;
        }
        if let Some(credit) = flow.link_credit {
            link.credit = (flow.delivery_count.unwrap_or(FIRST), credit);
        }
        if flow.drain {
            let (seen, credit) = link.credit;
            let left = credit.saturating_sub(link.delivery_count.wrapping_sub(seen));
            link.delivery_count = link.delivery_count.wrapping_add(left);
            link.credit = (link.delivery_count, 0);
        }
    }

    pub(super) fn hear_transfer(&mut self, transfer: &Transfer) {
        self.heard_transfers = self.heard_transfers.wrapping_add(1);
        let Some(at) = self.heard_handle(transfer.handle.0) else {
            return;
        };
        let link = &mut self.links[at];
        if link.is_sender || !link.is_attached || link.is_detached {
            return;
        }
        let id = match link.hears.take() {
            Some(id) => id,
            None => {
                link.heard_count = link.heard_count.wrapping_add(1);
                link.open += 1;
                transfer.delivery_id.unwrap_or_default()
            }
        };
        if transfer.aborted {
            link.open -= 1;
        } else if transfer.more {
            link.hears = Some(id);
        } else {
            let mut sent = self.sent.iter_mut();
            let sent = sent.find(|sent| sent.link == at && sent.id == id && !sent.is_heard);
            if let Some(sent) = sent {
                sent.is_heard = true;
                link.open -= u32::from(sent.is_settled);
            }
        }
    }

    /// The messages on which this is the first word.
    pub(super) fn hear_disposition(
        &mut self,
        disposition: &Disposition,
    ) -> Result<Vec<(Tag, Outcome)>, &'static str> {
        if disposition.role == Role::Sender {
            return Ok(Vec::new());
        }
        let outcome = match &disposition.state {
            Some(DeliveryState::Accepted(_)) => Outcome::Accepted,
            Some(DeliveryState::Rejected(rejected)) => Outcome::Rejected(rejected.error.clone()),
            Some(DeliveryState::Received(_)) | None if !disposition.settled => {
                return Ok(Vec::new());
            }
            _ => Outcome::Released,
        };
        let first = disposition.first;
        let span = disposition.last.map_or(0, |last| last.wrapping_sub(first));
        if span > u32::MAX / 2 {
            return Err("a range that runs backwards");
        }
        let mut heard = Vec::new();
        for delivery in &mut self.deliveries {
            if delivery.id.wrapping_sub(first) <= span
                && let Some(tag) = &delivery.tag
            {
                delivery.is_settled = true;
                heard.push((tag.clone(), outcome.clone()));
            }
        }
        Ok(heard)
    }
}
