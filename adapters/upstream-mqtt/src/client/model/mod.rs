//! Any order of what a client's holders do, what its broker says and how time goes by, held against
//! books of its own.

mod acts;
#[cfg(test)]
mod any;
mod book;
mod broker;
mod clock;
#[cfg(test)]
mod runs;
pub(super) mod said;
mod task;
mod world;

use std::time::Duration;

pub(super) use acts::Act;
#[cfg(feature = "fuzzing")]
pub(super) use task::Task;
pub(super) use world::World;

use super::codec::ConnAck;
use super::options::{Options, Version};

/// How a run begins, and how it ends.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) version: Version,
    pub(super) ordered_acks: bool,
    /// Messages on their way: what we allow, and what the broker takes.
    pub(super) in_flight: [u16; 2],
    /// Messages from the broker that may wait for us.
    pub(super) receive: u16,
    /// Bytes that gather, and packets that wait.
    pub(super) buffer: usize,
    pub(super) queued: usize,
    /// In seconds; the broker's word goes before ours.
    pub(super) keep_alive: [Option<u16>; 2],
    /// In seconds.
    pub(super) patience: u16,
    /// Whether the connection breaks at the end. Otherwise a good broker answers all there is.
    pub(super) is_cut: bool,
    /// Whether the broker may do what it must not. Then the connection breaks at the end.
    pub(super) is_strange: bool,
}

impl Run {
    /// Has all this happen.
    pub(super) fn play(&self, acts: impl IntoIterator<Item = Act>) {
        let mut world = self.world();
        for act in acts {
            // What no broker should do, only a strange one does.
            if self.is_strange || !matches!(act, Act::Strange(_)) {
                world.act(act);
            }
        }
        match self.is_cut || self.is_strange {
            true => world.cut(),
            false => world.wind_up(),
        }
    }

    fn world(&self) -> World {
        let mut options = Options::new("broker", 1883, "client");
        options.version = self.version;
        options.ordered_acks = self.ordered_acks;
        options.keep_alive = Duration::from_secs(self.keep_alive[0].unwrap_or(0).into());
        options.limits.in_flight = self.in_flight[0];
        options.limits.receive = self.receive;
        options.limits.buffer = self.buffer;
        options.limits.queued = self.queued;
        if self.version == Version::V4 {
            // A broker that cannot be told sends some that are larger.
            options.limits.max_packet = 32;
        }
        options.limits.answer_timeout = Duration::from_secs(self.patience.into());
        let answer = match self.version {
            Version::V4 => welcome(),
            Version::V5 => ConnAck {
                receive_maximum: self.in_flight[1],
                server_keep_alive: self.keep_alive[1],
                ..welcome()
            },
        };
        World::new(&options, &answer, self.is_strange)
    }
}

/// The answer of a broker that asks for nothing.
pub(super) fn welcome() -> ConnAck {
    ConnAck {
        session_present: false,
        code: 0,
        text: String::new(),
        receive_maximum: u16::MAX,
        max_packet: u32::MAX,
        max_qos: 2,
        takes_retained: true,
        assigned_client_id: None,
        server_keep_alive: None,
    }
}

#[cfg(feature = "fuzzing")]
impl<'a> arbitrary::Arbitrary<'a> for Run {
    fn arbitrary(from: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        let keep_alives = [None, Some(0), Some(10), Some(60)];
        Ok(Self {
            version: *from.choose(&[Version::V4, Version::V5])?,
            ordered_acks: from.arbitrary()?,
            in_flight: [from.int_in_range(1..=5)?, from.int_in_range(1..=5)?],
            receive: from.int_in_range(1..=4)?,
            buffer: *from.choose(&[1, 25, 1000])?,
            queued: from.int_in_range(0..=8)?,
            keep_alive: [*from.choose(&keep_alives)?, *from.choose(&keep_alives)?],
            patience: *from.choose(&[5, 30, 90])?,
            is_cut: from.arbitrary()?,
            is_strange: from.arbitrary()?,
        })
    }
}
