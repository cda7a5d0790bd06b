//! From bytes to what the protocol makes of them.

use tokio::io::{AsyncRead, AsyncWrite};

use super::wire::READ_SIZE;
use super::{Connection, End, Standing};
use crate::proto::{CloseReason, FrameError, TOO_LONG};

/// Is what can be done about input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intake {
    /// A frame was taken, there may be more.
    Taken,
    /// More bytes are needed.
    Starved,
    /// Nothing may be taken now.
    Held,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Takes a frame, if its consequences have room.
    pub(super) fn take_frame(&mut self, in_flight: usize) -> Intake {
        let limits = &self.shared.config.limits;
        let may_take = self.end.is_none()
            && !matches!(self.standing, Standing::Judging)
            && self.queue.is_empty()
            && in_flight < limits.window
            && self.actions.output.len() < limits.max_unwritten;
        if !may_take {
            return Intake::Held;
        }
        let most = limits.max_frame + READ_SIZE;
        let had_input = !self.wire.input.is_empty();
        match self.protocol.decode(&mut self.wire.input) {
            Ok(Some(frame)) => {
                self.frame_ended();
                self.protocol.on_frame(frame, &mut self.actions);
                self.obey();
                Intake::Taken
            }
            Ok(None) if self.wire.input.len() > most => {
                self.bad_frame(FrameError::fatal(TOO_LONG));
                Intake::Held
            }
            Ok(None) => {
                // The beginning of a frame may have been taken already.
                if had_input {
                    self.frame_began.get_or_insert(self.read);
                }
                self.wire.shrink();
                Intake::Starved
            }
            Err(error) => {
                self.frame_ended();
                self.bad_frame(error);
                Intake::Taken
            }
        }
    }

    fn frame_ended(&mut self) {
        self.frame_began = None;
        self.heard = self.read;
    }

    fn bad_frame(&mut self, error: FrameError) {
        tracing::debug!(peer = %self.peer.address, error = %error, "Bytes are no frame");
        self.protocol.on_frame_error(&error, &mut self.actions);
        self.obey();
        if error.is_fatal() {
            self.end.get_or_insert(End::Told(CloseReason::BadFrame));
        }
    }
}
