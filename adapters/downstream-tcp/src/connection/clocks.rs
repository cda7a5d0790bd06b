//! What has to happen by when: one alarm for all of it.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::{Connection, End, Standing};
use crate::proto::CloseReason;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Stops the device's clocks while it is not listened to.
    pub(super) fn note_reading(&mut self, reads: bool) {
        if reads && !self.was_reading {
            self.heard = Instant::now();
            self.frame_began = self.frame_began.map(|_| self.heard);
        }
        self.was_reading = reads;
    }

    /// When the device must have said something, if it is listened to, and what if it has not.
    pub(super) fn device_deadline(&self) -> Option<(Instant, CloseReason)> {
        let timeouts = &self.shared.config.timeouts;
        match (&self.standing, self.frame_began) {
            (Standing::Unknown, _) => Some((self.hello_deadline, CloseReason::HelloTimeout)),
            _ if !self.was_reading => None,
            (_, Some(began)) => Some((began + timeouts.frame, CloseReason::FrameTimeout)),
            (_, None) => Some((self.heard + timeouts.idle, CloseReason::IdleTimeout)),
        }
    }

    /// Sets the alarm, and tells whether it was moved. One that is early finds nothing to do and is
    /// set again, which is cheaper than moving it with every frame.
    pub(super) fn set(&mut self, alarm: Pin<&mut Sleep>) -> bool {
        let deadlines = [
            self.device_deadline().map(|(at, _)| at),
            self.wire.write_deadline(),
            self.commands.deadline(),
            self.heartbeat.map(|(_, at)| at),
        ];
        let Some(at) = deadlines.into_iter().flatten().min() else {
            return false;
        };
        let is_moved = self.alarm.is_none_or(|set| at < set);
        if is_moved {
            self.alarm = Some(at);
            alarm.reset(at);
        }
        is_moved
    }

    /// Does what it is time for.
    pub(super) fn due(&mut self) {
        let now = Instant::now();
        if self.wire.write_deadline().is_some_and(|at| at <= now) {
            self.end = Some(End::Gone("write_timeout"));
            return;
        }
        if let Some((at, reason)) = self.device_deadline()
            && at <= now
        {
            self.end = Some(End::Told(reason));
            return;
        }
        while let Some(tag) = self.commands.expire(now) {
            self.protocol.on_command_expired(tag);
        }
        if let Some((every, at)) = self.heartbeat.filter(|(_, at)| *at <= now) {
            self.heartbeat = Some((every, at.max(now) + every));
            self.protocol.on_heartbeat(&mut self.actions);
            self.obey();
        }
    }
}
