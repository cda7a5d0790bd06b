//! Signals: settings, ping and pong, release and abort (RFC 8323, section 5).

use super::Session;
use crate::proto::message::{Code, Message, Options};
use crate::proto::tcp::event::{Closed, Event};

/// Options of CSM, of Ping and Pong, and of Abort.
const MAX_MESSAGE_SIZE: u16 = 2;
const BLOCK_WISE_TRANSFER: u16 = 4;
const CUSTODY: u16 = 2;
const BAD_CSM_OPTION: u16 = 2;
const CRITICAL: u16 = 1;

impl Session {
    /// Says our settings.
    pub(super) fn greet(&mut self, max_frame: usize) {
        let settings = Message::new(Code::CSM)
            .with_uint(MAX_MESSAGE_SIZE, max_frame as u32)
            .with_option(BLOCK_WISE_TRANSFER, Vec::new());
        self.write(&settings);
    }

    pub(super) fn on_settings(&mut self, options: &Options) {
        self.has_settings = true;
        for (number, _) in options.iter() {
            if number & CRITICAL != 0 {
                let abort = Message::new(Code::ABORT).with_uint(BAD_CSM_OPTION, number.into());
                self.write(&abort);
                self.closed = Some(Closed::Protocol("a setting that is not known"));
                return;
            }
        }
        if let Some(size) = options.uint(MAX_MESSAGE_SIZE) {
            self.peer_message_size = size as usize;
        }
    }

    pub(super) fn on_signal(&mut self, message: Message) {
        let mut numbers = message.options.iter().map(|(number, _)| number);
        if numbers.any(|number| number & CRITICAL != 0) {
            return self.abort("an option of a signal that is not known");
        }
        match message.code {
            Code::PING => {
                let mut pong = Message::new(Code::PONG).with_token(message.token);
                // Everything that came before is taken when the answer goes out.
                if message.options.has(CUSTODY) {
                    pong.options.add(CUSTODY, Vec::new());
                }
                self.write(&pong);
            }
            Code::PONG => {
                let token = message.token;
                self.events.push_back(Event::Pong { token });
            }
            Code::RELEASE => self.events.push_back(Event::Released),
            _ => {}
        }
    }

    pub(super) fn abort(&mut self, reason: &'static str) {
        let diagnosis = reason.as_bytes();
        self.write(&Message::new(Code::ABORT).with_payload(diagnosis));
        self.closed = Some(Closed::Protocol(reason));
    }
}
