//! Signals: settings, ping and pong, release and abort (RFC 8323, section 5).

use super::Session;
use crate::proto::message::{Code, Message, Options, Token};
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
            let size = size as usize;
            if size < self.peer_message_size {
                self.bodies.clear();
            }
            self.peer_message_size = size;
        }
    }

    pub(super) fn on_signal(&mut self, message: Message) {
        let mut numbers = message.options.iter().map(|(number, _)| number);
        if numbers.any(|number| number & CRITICAL != 0) {
            return self.abort("an option of a signal that is not known");
        }
        match message.code {
            // One waits at a time; what is said without the option promises nothing.
            Code::PING if message.options.has(CUSTODY) && self.custody.is_none() => {
                self.custody = Some((message.token, self.serials));
                self.grant_custody();
            }
            Code::PING => self.write(&Message::new(Code::PONG).with_token(message.token)),
            Code::PONG => {
                let token = message.token;
                self.events.push_back(Event::Pong { token });
            }
            Code::RELEASE => self.events.push_back(Event::Released),
            _ => {}
        }
    }

    /// Answers the ping that asks for custody once every request before it is answered: by that
    /// pong the peer may free what it has kept of them (section 5.4.1).
    pub(super) fn grant_custody(&mut self) {
        let pending = &self.pending;
        let is_done = |(_, last): &mut (Token, u64)| pending.iter().all(|one| one.exchange > *last);
        if let Some((token, _)) = self.custody.take_if(is_done) {
            let pong = Message::new(Code::PONG).with_token(token);
            self.write(&pong.with_option(CUSTODY, Vec::new()));
        }
    }

    pub(super) fn abort(&mut self, reason: &'static str) {
        let diagnosis = reason.as_bytes();
        self.write(&Message::new(Code::ABORT).with_payload(diagnosis));
        self.closed = Some(Closed::Protocol(reason));
    }
}
