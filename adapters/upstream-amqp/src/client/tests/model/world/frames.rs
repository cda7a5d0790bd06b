//! Frames of the hub.

use fe2o3_amqp_types::definitions::{Error, Handle, LinkError, Role};
use fe2o3_amqp_types::messaging::{Source, Target, TargetArchetype};
use fe2o3_amqp_types::performatives::{Attach, Begin, Detach, Flow, Transfer};

use super::{HANDLE_MAX, book};
use crate::client::tests::model::book::{HUB_COUNT, HUB_FIRST};

pub(super) fn is_begun(session: &book::Session) -> bool {
    session.said_channel.is_some() && !session.hub_ended
}

pub(super) fn is_open(session: &book::Session, link: &book::Link) -> bool {
    is_begun(session) && link.said_handle.is_some() && !link.hub_detached
}

pub(super) fn begin(channel: u16, window: u32) -> Begin {
    Begin {
        remote_channel: Some(channel),
        next_outgoing_id: HUB_FIRST,
        incoming_window: window,
        outgoing_window: 100,
        handle_max: Handle(HANDLE_MAX),
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

pub(super) fn attach(name: &str, handle: u32, hub_sends: bool, refuse: bool) -> Attach {
    let (source, target) = (
        Source::builder().address("node").build(),
        Target::builder().address("node").build(),
    );
    let refuses = |end: bool| refuse && end == hub_sends;
    Attach {
        name: name.to_owned(),
        handle: Handle(handle),
        role: if hub_sends {
            Role::Sender
        } else {
            Role::Receiver
        },
        snd_settle_mode: Default::default(),
        rcv_settle_mode: Default::default(),
        source: (!refuses(true)).then(|| Box::new(source)),
        target: (!refuses(false)).then(|| Box::new(TargetArchetype::Target(target))),
        unsettled: None,
        incomplete_unsettled: false,
        initial_delivery_count: hub_sends.then_some(HUB_COUNT),
        max_message_size: None,
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

pub(super) fn flow(session: &book::Session, window: u32) -> Flow {
    Flow {
        next_incoming_id: Some(session.next_transfer),
        incoming_window: window,
        next_outgoing_id: HUB_FIRST,
        outgoing_window: 100,
        handle: None,
        delivery_count: None,
        link_credit: None,
        available: None,
        drain: false,
        echo: false,
        properties: None,
    }
}

pub(super) fn transfer(handle: u32) -> Transfer {
    Transfer {
        handle: Handle(handle),
        delivery_id: None,
        delivery_tag: Some(b"tag".to_vec().into()),
        message_format: Some(0),
        settled: None,
        more: false,
        rcv_settle_mode: None,
        state: None,
        resume: false,
        aborted: false,
        batchable: false,
    }
}

pub(super) fn detach(handle: u32, error: bool) -> Detach {
    Detach {
        handle: Handle(handle),
        closed: true,
        error: error.then(|| Error::from(LinkError::DetachForced)),
    }
}
