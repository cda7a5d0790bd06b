//! What the peers of an endpoint share, and the moment in which one of them acts.

use std::collections::VecDeque;
use std::hash::Hash;
use std::time::Duration;

use bytes::Bytes;

use super::event::{Event, Transmit};
use crate::proto::budget::Budget;
use crate::proto::config::EndpointConfig;
use crate::proto::random::Random;

/// How long a value of Echo is taken, at least; at most it is twice as long.
const ECHO_LIFETIME: u64 = 60;

#[derive(Debug)]
pub(super) struct Shared<P> {
    pub(super) config: EndpointConfig,
    pub(super) random: Random,
    pub(super) out: VecDeque<Transmit<P>>,
    pub(super) events: VecDeque<Event<P>>,
    pub(super) peers: Budget,
    pub(super) remembered: Budget,
    pub(super) pending: Budget,
    pub(super) observations: Budget,
    pub(super) block_bytes: Budget,
    serials: u64,
    /// The number of the last notification. One count for all observations keeps it rising when a
    /// device registers anew.
    notifications: u32,
}

impl<P> Shared<P> {
    pub(super) fn new(config: EndpointConfig, random: Random) -> Self {
        let limits = &config.limits;
        Self {
            // Each takes a unit of those remembered.
            peers: Budget::unbounded(),
            remembered: Budget::new(limits.max_remembered),
            pending: Budget::new(limits.max_pending),
            observations: Budget::new(limits.max_observations),
            block_bytes: Budget::new(limits.max_block_bytes),
            config,
            random,
            out: VecDeque::new(),
            events: VecDeque::new(),
            serials: 0,
            notifications: 0,
        }
    }
}

/// One peer at one moment.
#[derive(Debug)]
pub(super) struct Context<'a, P> {
    pub(super) shared: &'a mut Shared<P>,
    pub(super) peer: P,
    pub(super) now: Duration,
}

impl<P: Copy + Hash> Context<'_, P> {
    pub(super) fn transmit(&mut self, bytes: Bytes) {
        let peer = self.peer;
        self.shared.out.push_back(Transmit { peer, bytes });
    }

    pub(super) fn tell(&mut self, event: Event<P>) {
        self.shared.events.push_back(event);
    }

    pub(super) fn serial(&mut self) -> u64 {
        self.shared.serials += 1;
        self.shared.serials
    }

    /// The number of the next notification, of 24 bits (RFC 7641, section 4.4).
    pub(super) fn sequence(&mut self) -> u32 {
        self.shared.notifications = (self.shared.notifications + 1) & 0xff_ffff;
        self.shared.notifications
    }

    pub(super) fn forget_at(&self) -> Duration {
        self.now + self.shared.config.transmission.exchange_lifetime
    }

    /// The value of Echo that the peer is to bring back. Nothing is remembered for it: it is the
    /// signature of the peer's name and the time.
    pub(super) fn echo(&self) -> Bytes {
        self.echo_at(self.now.as_secs() / ECHO_LIFETIME)
    }

    pub(super) fn is_echo(&self, value: &[u8]) -> bool {
        let window = self.now.as_secs() / ECHO_LIFETIME;
        let windows = [Some(window), window.checked_sub(1)];
        let mut values = windows.into_iter().flatten();
        values.any(|window| self.echo_at(window) == value)
    }

    fn echo_at(&self, window: u64) -> Bytes {
        let signature = self.shared.random.sign(&("echo", &self.peer, window));
        Bytes::copy_from_slice(&signature.to_be_bytes())
    }
}
