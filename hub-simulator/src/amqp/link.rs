//! A link: what it is for, its credit, and what waits on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::{Bytes, BytesMut};

use super::events::Consumer;
use crate::faults::LinkKind;
use crate::guid::Guid;
use crate::hub::stamps::Stamps;
use crate::limits::Limits;

/// What a link is for; requests and answers of a pair are two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    CbsRequests,
    CbsReplies,
    Telemetry,
    C2d,
    MethodCalls,
    MethodAnswers,
    TwinRequests,
    TwinReplies,
    ServiceC2d,
    Feedback,
    /// Of file uploads; there are none.
    FileNotifications,
    /// Messages that a module is sent by routes; only an edge has those.
    Inputs,
    ProvisioningRequests,
    ProvisioningReplies,
    /// Telemetry for an Event Hubs client.
    Events,
    ManagementRequests,
    ManagementReplies,
}

/// Kinds of link that work in pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PairKind {
    Cbs,
    Methods,
    Twin,
    Provisioning,
    Management,
}

/// What the hub's attach says for a kind of link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) sender_settle_mode: Option<u8>,
    pub(crate) receiver_settle_mode: Option<u8>,
    pub(crate) max_message_size: Option<u64>,
}

impl Kind {
    /// Whether the hub sends on it.
    pub(crate) fn hub_sends(self) -> bool {
        matches!(
            self,
            Self::CbsReplies
                | Self::C2d
                | Self::MethodCalls
                | Self::TwinReplies
                | Self::Feedback
                | Self::FileNotifications
                | Self::Inputs
                | Self::ProvisioningReplies
                | Self::Events
                | Self::ManagementReplies
        )
    }

    /// Whether the basic tier is without it.
    pub(crate) fn needs_standard_tier(self) -> bool {
        matches!(
            self,
            Self::C2d
                | Self::MethodCalls
                | Self::MethodAnswers
                | Self::TwinRequests
                | Self::TwinReplies
                | Self::ServiceC2d
                | Self::Feedback
        )
    }

    /// Whether opening it counts against the throttle of receive links.
    pub(crate) fn is_device_receiver(self) -> bool {
        matches!(self, Self::C2d | Self::MethodCalls | Self::TwinReplies)
    }

    pub(crate) fn pair(self) -> Option<PairKind> {
        match self {
            Self::CbsRequests | Self::CbsReplies => Some(PairKind::Cbs),
            Self::MethodCalls | Self::MethodAnswers => Some(PairKind::Methods),
            Self::TwinRequests | Self::TwinReplies => Some(PairKind::Twin),
            Self::ProvisioningRequests | Self::ProvisioningReplies => Some(PairKind::Provisioning),
            Self::ManagementRequests | Self::ManagementReplies => Some(PairKind::Management),
            Self::Telemetry
            | Self::C2d
            | Self::ServiceC2d
            | Self::Feedback
            | Self::FileNotifications
            | Self::Inputs
            | Self::Events => None,
        }
    }

    /// The values that the real hub was seen to answer with.
    pub(crate) fn terms(self) -> Terms {
        const MIB: u64 = 1024 * 1024;
        let (sender_settle_mode, receiver_settle_mode, max_message_size) = match self {
            Self::CbsRequests | Self::ProvisioningRequests => (Some(0), Some(0), Some(MIB)),
            Self::CbsReplies | Self::ProvisioningReplies => (None, None, None),
            Self::Telemetry | Self::ServiceC2d => (Some(0), None, Some(MIB)),
            Self::C2d | Self::Feedback | Self::FileNotifications => (None, Some(1), Some(65_536)),
            Self::Inputs | Self::Events => (None, Some(0), Some(MIB)),
            Self::ManagementRequests | Self::ManagementReplies => (Some(0), Some(0), Some(MIB)),
            Self::MethodCalls | Self::MethodAnswers | Self::TwinRequests | Self::TwinReplies => {
                (Some(1), Some(0), Some(MIB))
            }
        };
        Terms {
            sender_settle_mode,
            receiver_settle_mode,
            max_message_size,
        }
    }

    pub(crate) fn credit(self, limits: &Limits) -> u32 {
        if self == Self::CbsRequests {
            limits.cbs_credit
        } else {
            limits.credit
        }
    }

    /// The name that scripted faults know it by.
    pub(crate) fn fault_kind(self) -> Option<LinkKind> {
        match self {
            Self::Telemetry => Some(LinkKind::Telemetry),
            Self::C2d => Some(LinkKind::C2d),
            Self::MethodCalls | Self::MethodAnswers => Some(LinkKind::Methods),
            Self::TwinRequests | Self::TwinReplies => Some(LinkKind::Twin),
            Self::CbsRequests
            | Self::CbsReplies
            | Self::ServiceC2d
            | Self::Feedback
            | Self::FileNotifications
            | Self::Inputs
            | Self::ProvisioningRequests
            | Self::ProvisioningReplies
            | Self::Events
            | Self::ManagementRequests
            | Self::ManagementReplies => None,
        }
    }
}

/// A link that is attached.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) device: Option<Arc<str>>,
    /// Tells this link from an earlier one of the same handle.
    pub(crate) serial: u32,
    pub(crate) delivery_count: u32,
    /// What the peer may still send, or the hub.
    pub(crate) credit: u32,
    /// The credit it is topped up to; incoming links only.
    pub(crate) full_credit: u32,
    /// Deliveries whose settlement a script holds back: they use up credit.
    pub(crate) held: u32,
    /// The peer wants its credit used or returned.
    pub(crate) drain: bool,
    /// It stands in the session's queue for the peer's window.
    pub(crate) waits_for_window: bool,
    pub(crate) partial: Option<Box<Partial>>,
    pub(crate) outbox: VecDeque<Outgoing>,
    /// Bytes of a delivery on its way that wait for the peer's window.
    pub(crate) unsent: usize,
    /// `com.microsoft:channel-correlation-id`: the same on both links of a pair.
    pub(crate) correlation: Option<Box<str>>,
    /// The device's counter of accepted telemetry.
    pub(crate) counter: Option<Arc<AtomicU64>>,
    /// When the device last sent telemetry, in ticks, for the registry to show.
    pub(crate) activity: Option<Arc<AtomicU64>>,
    /// What the hub writes onto telemetry.
    pub(crate) stamps: Option<Arc<Stamps>>,
    /// Where its telemetry goes to be read; nowhere while no events are kept.
    pub(crate) partition: Option<u8>,
    /// What an Event Hubs client reads.
    pub(crate) consumer: Option<Box<Consumer>>,
}

impl Link {
    /// What the hub holds for it that counts against its connection, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        let partial = self.partial.as_ref();
        let waiting = self.outbox.iter().map(|outgoing| outgoing.message.len());
        partial.map_or(0, |partial| partial.payload.len()) + waiting.sum::<usize>() + self.unsent
    }
}

/// A delivery of which more frames are to come.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) delivery_id: u32,
    pub(crate) format: u32,
    pub(crate) settled: bool,
    pub(crate) payload: BytesMut,
}

/// A message that waits for credit.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) message: Bytes,
    pub(crate) settled: bool,
    /// The method call that it is, if it is one: pointless once nobody waits for the answer.
    pub(crate) call: Option<Guid>,
}

impl Outgoing {
    pub(crate) fn new(message: Bytes, settled: bool) -> Self {
        Self {
            message,
            settled,
            call: None,
        }
    }
}
