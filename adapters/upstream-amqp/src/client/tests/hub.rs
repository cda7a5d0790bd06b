//! A hub that says what a test has it say.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use fe2o3_amqp_types::definitions::{Fields, Handle, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::{Accepted, DeliveryState, Source, Target, TargetArchetype};
use fe2o3_amqp_types::performatives::{
    Attach, Begin, Detach, Disposition, Flow, Performative, Transfer,
};
use serde::Serialize;
use tokio::sync::Notify;

use super::Task;
use crate::client::error::ClientError;
use crate::client::frame::{self, Frame};
use crate::client::handle::{Receiver, Sender, Session, Shared};
use crate::client::link::{FIRST, LinkSpec};
use crate::client::outbox::Outbox;
use crate::client::session::Census;
use crate::client::state::State;
use crate::env::lock;

/// The hub's channels and handles are those of the client and this: they are never the same.
pub(super) const APART: u16 = 1000;

/// A connection whose other end is in the test's hands.
#[derive(Debug, Clone)]
pub(in crate::client) struct Hub {
    pub(in crate::client) shared: Arc<Shared>,
}

/// A frame that the client wrote.
pub(super) type Written = (u16, Performative, Bytes);

impl Hub {
    pub(in crate::client) fn new() -> Self {
        Self::with(64 * 1024, 65_536, 100)
    }

    /// One before which this many bytes gather, with frames and channels up to these.
    pub(super) fn with(room: usize, largest_frame: usize, channel_max: u16) -> Self {
        let state = State::new(Outbox::new(room, largest_frame), channel_max);
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                output: Notify::new(),
            }),
        }
    }

    /// Has the client read these bytes, and fail with what it finds wrong with them.
    pub(super) fn feed(&self, bytes: &[u8]) -> Result<(), ClientError> {
        let mut buffer = BytesMut::from(bytes);
        let taken = self.shared.with(|state| state.on_bytes(&mut buffer));
        if let Err(error) = &taken {
            self.shared.with(|state| state.fail(error));
        }
        taken
    }

    pub(super) fn say(
        &self,
        channel: u16,
        performative: &impl Serialize,
    ) -> Result<(), ClientError> {
        let mut bytes = BytesMut::new();
        frame::put(&mut bytes, channel, performative);
        self.feed(&bytes)
    }

    pub(super) fn transfer(
        &self,
        channel: u16,
        transfer: &Transfer,
        payload: &[u8],
    ) -> Result<(), ClientError> {
        let mut bytes = BytesMut::new();
        frame::put(&mut bytes, channel, transfer);
        bytes.extend_from_slice(payload);
        let size = (bytes.len() as u32).to_be_bytes();
        bytes[..4].copy_from_slice(&size);
        self.feed(&bytes)
    }

    /// Takes what the client has written.
    pub(super) fn written(&self) -> Vec<Written> {
        let mut bytes = {
            let mut state = lock(&self.shared.state);
            state.take_output(BytesMut::new())
        };
        self.shared.with(|_| ());
        let mut written = Vec::new();
        while let Some(frame) = Frame::split(&mut bytes, 65_536).unwrap() {
            let channel = frame.channel;
            if let Some((performative, payload)) = frame.performative().unwrap() {
                written.push((channel, performative, payload));
            }
        }
        assert!(bytes.is_empty(), "the last frame is whole");
        written
    }

    /// What the client keeps.
    pub(super) fn census(&self) -> Census {
        lock(&self.shared.state).census()
    }

    /// Begins a session on which the client may send this many frames.
    pub(in crate::client) fn session(&self, window: u32) -> Session {
        let mut begin = Task::start(Session::begin(self.shared.clone()))
            .map(drop)
            .unwrap_err();
        let Some((channel, Performative::Begin(_), _)) = self.written().pop() else {
            panic!("no begin");
        };
        self.say(channel + APART, &begin_answer(channel, window))
            .unwrap();
        begin.step().expect("begun").unwrap()
    }

    /// Attaches a sender whose handle is this.
    pub(in crate::client) fn sender(&self, session: &Session, handle: u32, credit: u32) -> Sender {
        let (held, name) = (session.clone(), format!("sender-{handle}"));
        let mut attach = Task::start(async move { held.attach_sender(spec(&name)).await })
            .map(drop)
            .unwrap_err();
        self.accept_attach(handle);
        let sender = attach.step().expect("attached").unwrap();
        self.say(APART, &link_flow(handle, FIRST, credit)).unwrap();
        sender
    }

    /// Attaches a receiver whose handle is this.
    pub(in crate::client) fn receiver(
        &self,
        session: &Session,
        handle: u32,
        credit: u32,
    ) -> Receiver {
        let (held, name) = (session.clone(), format!("receiver-{handle}"));
        let mut attach =
            Task::start(async move { held.attach_receiver(spec(&name), credit).await })
                .map(drop)
                .unwrap_err();
        self.accept_attach(handle);
        attach.step().expect("attached").unwrap()
    }

    fn accept_attach(&self, handle: u32) {
        let Some((channel, Performative::Attach(attach), _)) = self.written().pop() else {
            panic!("no attach");
        };
        assert_eq!(attach.handle.0, handle);
        self.say(channel + APART, &attach_answer(attach)).unwrap();
    }
}

pub(super) fn spec(name: &str) -> LinkSpec {
    LinkSpec {
        name: name.to_owned(),
        address: "node".to_owned(),
        settled: false,
        properties: Fields::new(),
    }
}

pub(super) fn begin_answer(channel: u16, window: u32) -> Begin {
    Begin {
        remote_channel: Some(channel),
        next_outgoing_id: 7,
        incoming_window: window,
        outgoing_window: 100,
        handle_max: Handle(1000),
        offered_capabilities: None,
        desired_capabilities: None,
        properties: None,
    }
}

/// What accepts a link, from the other side.
pub(super) fn attach_answer(attach: Attach) -> Attach {
    let role = match attach.role {
        Role::Sender => Role::Receiver,
        Role::Receiver => Role::Sender,
    };
    Attach {
        handle: Handle(attach.handle.0 + u32::from(APART)),
        initial_delivery_count: (role == Role::Sender).then_some(0),
        role,
        rcv_settle_mode: ReceiverSettleMode::First,
        snd_settle_mode: SenderSettleMode::Mixed,
        source: Some(Box::new(Source::builder().address("node").build())),
        target: Some(Box::new(TargetArchetype::Target(
            Target::builder().address("node").build(),
        ))),
        ..attach
    }
}

/// Says how the client's session stands: so many transfers have come, and so many may.
pub(super) fn window_flow(come: u32, window: u32) -> Flow {
    Flow {
        next_incoming_id: Some(come),
        incoming_window: window,
        next_outgoing_id: 7,
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

/// Gives a sender credit, and leaves the window wide open.
pub(super) fn link_flow(handle: u32, delivery_count: u32, credit: u32) -> Flow {
    Flow {
        handle: Some(Handle(handle + u32::from(APART))),
        delivery_count: Some(delivery_count),
        link_credit: Some(credit),
        ..window_flow(FIRST, 1000)
    }
}

pub(super) fn accepted(first: u32, last: Option<u32>, settled: bool) -> Disposition {
    Disposition {
        role: Role::Receiver,
        first,
        last,
        settled,
        state: Some(DeliveryState::Accepted(Accepted {})),
        batchable: false,
    }
}

/// A message of one frame for a receiver.
pub(super) fn message(handle: u32, delivery: u32) -> Transfer {
    Transfer {
        handle: Handle(handle + u32::from(APART)),
        delivery_id: Some(delivery),
        delivery_tag: Some(delivery.to_be_bytes().to_vec().into()),
        message_format: Some(0),
        settled: Some(false),
        more: false,
        rcv_settle_mode: None,
        state: None,
        resume: false,
        aborted: false,
        batchable: false,
    }
}

pub(super) fn detach(handle: u32) -> Detach {
    Detach {
        handle: Handle(handle + u32::from(APART)),
        closed: true,
        error: None,
    }
}
