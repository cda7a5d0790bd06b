//! What has to happen on a connection by when.

use tokio::time::Instant;

use super::ConnectionConfig;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// The peer's settings have not come.
    Hello,
    /// A message has begun and is not whole.
    Message,
    /// The peer was silent and is to be asked whether it is there.
    Ping,
    /// It was asked and has not answered.
    Pong,
    /// The peer takes nothing of what waits to be written.
    Write,
}

/// The clocks of one connection.
#[derive(Debug)]
pub(super) struct Clocks {
    /// When the settings must have come, until they have.
    hello_by: Option<Instant>,
    /// When the peer was last heard, or reading began again.
    heard: Instant,
    /// When the message at the front of the input began.
    began: Option<Instant>,
    /// When the peer was asked whether it is there.
    asked: Option<Instant>,
    /// Since when bytes wait to be written and none were.
    stuck: Option<Instant>,
    reads: bool,
}

impl Clocks {
    pub(super) fn new(now: Instant, hello_by: Instant) -> Self {
        Self {
            hello_by: Some(hello_by),
            heard: now,
            began: None,
            asked: None,
            stuck: None,
            reads: true,
        }
    }

    /// Notes whether the peer is listened to, and whether something waits to be written to it. While
    /// it is not listened to, it cannot be late.
    pub(super) fn turn(&mut self, now: Instant, reads: bool, writes: bool) {
        if reads && !self.reads {
            self.heard = now;
            self.began = self.began.map(|_| now);
            self.asked = self.asked.map(|_| now);
        }
        self.reads = reads;
        match writes {
            true => {
                self.stuck.get_or_insert(now);
            }
            false => self.stuck = None,
        }
    }

    /// Notes that bytes came, of which so many were there before and are left now.
    pub(super) fn heard(&mut self, now: Instant, before: usize, left: usize) {
        self.heard = now;
        self.asked = None;
        self.began = match left {
            0 => None,
            _ if left < before => Some(now),
            _ => self.began.or(Some(now)),
        };
    }

    /// Notes that the peer's settings came.
    pub(super) fn greeted(&mut self) {
        self.hello_by = None;
    }

    /// Notes that the peer was asked whether it is there.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// Notes that bytes were written.
    pub(super) fn written(&mut self, now: Instant) {
        self.stuck = self.stuck.map(|_| now);
    }

    /// What is due next, and when.
    pub(super) fn due(&self, bounds: &ConnectionConfig) -> Option<(Instant, Due)> {
        let hello = self.hello_by.map(|at| (at, Due::Hello));
        let stuck = self.stuck.map(|at| (at + bounds.write, Due::Write));
        let began = self.began.map(|at| (at + bounds.message, Due::Message));
        let silence = match self.asked {
            Some(at) => (at + bounds.pong, Due::Pong),
            None => (self.heard + bounds.idle, Due::Ping),
        };
        let heard = [began, Some(silence)].map(|due| due.filter(|_| self.reads));
        let all = [hello, stuck].into_iter().chain(heard).flatten();
        all.min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn greeted() -> (Clocks, ConnectionConfig, Instant) {
        let now = Instant::now();
        let mut clocks = Clocks::new(now, now + SECOND);
        clocks.greeted();
        (clocks, ConnectionConfig::default(), now)
    }

    #[tokio::test]
    async fn a_silent_peer_is_asked_and_then_given_up() {
        let (mut clocks, bounds, now) = greeted();
        let ping = (now + bounds.idle, Due::Ping);
        assert_eq!(clocks.due(&bounds), Some(ping));
        clocks.asked(ping.0);
        assert_eq!(clocks.due(&bounds), Some((ping.0 + bounds.pong, Due::Pong)));
        clocks.heard(ping.0 + SECOND, 3, 0);
        let next = (ping.0 + SECOND + bounds.idle, Due::Ping);
        assert_eq!(clocks.due(&bounds), Some(next));
    }

    #[tokio::test]
    async fn a_message_that_trickles_in_is_late_however_often_bytes_come() {
        let (mut clocks, bounds, now) = greeted();
        for (second, bytes) in (0..20).zip(1..) {
            clocks.heard(now + second * SECOND, bytes, bytes);
        }
        let late = (now + bounds.message, Due::Message);
        assert_eq!(clocks.due(&bounds), Some(late));
        // The next message has its own time.
        clocks.heard(now + 20 * SECOND, 30, 2);
        let late = (now + 20 * SECOND + bounds.message, Due::Message);
        assert_eq!(clocks.due(&bounds), Some(late));
    }

    #[tokio::test]
    async fn a_peer_that_is_not_listened_to_is_not_late_but_must_take_what_is_written() {
        let (mut clocks, bounds, now) = greeted();
        clocks.heard(now, 1, 1);
        clocks.turn(now, false, true);
        let stuck = (now + bounds.write, Due::Write);
        assert_eq!(clocks.due(&bounds), Some(stuck));
        clocks.written(now + SECOND);
        let stuck = (now + SECOND + bounds.write, Due::Write);
        assert_eq!(clocks.due(&bounds), Some(stuck));
        clocks.turn(now + 60 * SECOND, true, false);
        let message = (now + 60 * SECOND + bounds.message, Due::Message);
        assert_eq!(clocks.due(&bounds), Some(message));
    }
}
