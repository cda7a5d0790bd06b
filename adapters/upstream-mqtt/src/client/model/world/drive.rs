//! What drives a client: it reads, writes and looks at the clock.

use std::future::poll_fn;
use std::time::Duration;

use bytes::BytesMut;

use super::World;
use crate::client::ledger::Kind;
use crate::client::model::book::End;
use crate::client::model::clock::Due;
use crate::client::model::said::Said;
use crate::client::model::task::Task;
use crate::client::state::State;
use crate::error::MqttError;

impl World {
    /// Writes what has gathered; tells how many bytes. What waits for room follows.
    pub(in crate::client) fn write(&mut self) -> usize {
        self.read();
        let now = self.clock.now();
        let taken = self.shared.lock().take_output(BytesMut::new(), now);
        assert_eq!(taken.len(), self.seen);
        if !taken.is_empty() {
            self.clock.said();
        }
        self.gathered
            .drain(..)
            .for_each(|said| self.broker.read(said));
        self.seen = 0;
        self.read();
        if !self.book.is_over {
            self.book.check_progress(self.seen);
        }
        taken.len()
    }

    /// Looks at what the client has put for writing.
    pub(super) fn read(&mut self) {
        let state = self.shared.lock();
        let mut new = BytesMut::from(&state.out[self.seen..]);
        drop(state);
        let now = self.clock.now();
        while !new.is_empty() {
            let left = new.len();
            let said = Said::read(self.version, &mut new).expect("the last packet is whole");
            match &said {
                Said::Publish {
                    id,
                    text,
                    duplicate,
                } => {
                    assert!(!duplicate, "nothing is sent again");
                    let number = number(text);
                    self.book.sent(*id, number, Kind::Publish, self.seen, now);
                }
                Said::Subscribe(id, filters) => {
                    let number = number(&filters[0]);
                    self.book.sent(*id, number, Kind::Subscribe, self.seen, now);
                }
                Said::Unsubscribe(id, filters) => {
                    let number = number(&filters[0]);
                    self.book
                        .sent(*id, number, Kind::Unsubscribe, self.seen, now);
                }
                Said::PubAck(id) => self.book.acknowledged(*id),
                Said::Ping => self.book.pinged(),
                Said::Disconnect(code) => self.book.said_goodbye(*code),
                said => panic!("{said:?}"),
            }
            self.seen += left - new.len();
            self.gathered.push(said);
        }
        self.book.check_said();
    }

    /// Reads so many bytes, unless messages have no room.
    pub(super) fn hear(&mut self, count: usize) {
        if !self.book.is_over && self.room.is_none() && !self.broker.wire.is_empty() {
            let count = count.min(self.broker.wire.len());
            self.buffer.unsplit(self.broker.wire.split_to(count));
            self.look();
        }
    }

    pub(super) fn look(&mut self) {
        if self.book.is_over {
            return;
        }
        self.clock.heard();
        let mut rest = self.buffer.clone();
        let (handed, expected) = self.book.hear(&mut rest);
        let (now, mut arrived) = (self.clock.now(), Vec::new());
        let buffer = &mut self.buffer;
        let on_bytes = |state: &mut State| state.on_bytes(buffer, now, &mut arrived);
        let told = self.shared.with(on_bytes);
        assert_eq!(self.buffer, rest, "whole packets are taken");
        assert_eq!(arrived.len(), handed.len());
        for (arrived, (received, number)) in arrived.into_iter().zip(handed) {
            assert_eq!(arrived.received, received);
            assert_eq!(arrived.arrival.is_some(), number.is_some());
            self.held.extend(number.zip(arrived.arrival));
        }
        self.read();
        self.book.check_progress(self.seen);
        match (told, expected) {
            (Ok(true), Ok(true)) => {}
            (Ok(false), Ok(false)) => self.pause(),
            (Err(MqttError::Protocol(_)), Err(End::Fault(_))) if self.is_strange => self.end(),
            (Err(MqttError::Ended { code, text }), Err(end)) => {
                assert_eq!(End::Said(code, text), end);
                self.end();
            }
            (told, expected) => panic!("{told:?} instead of {expected:?}"),
        }
    }

    /// Reads on when messages have room.
    fn pause(&mut self) {
        self.clock.is_paused = true;
        let (shared, now) = (self.shared.clone(), self.clock.now.clone());
        let room = poll_fn(move |cx| shared.lock().poll_room(cx.waker(), now.get()));
        self.room = Some(Task::new(room));
    }

    /// Lets time pass, in which the client looks at the clock when it said that it would.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.clock.now() + time;
        while self.clock.due <= until && !self.book.is_over {
            self.clock.now.set(self.clock.due);
            self.on_time();
        }
        self.clock.now.set(until);
        // What is to be said has no need of a ping behind it.
        let due = self.clock.due(self.book.oldest());
        let is_late = due != Due::Nothing && (due != Due::Sign || self.seen == 0);
        assert!(self.book.is_over || !is_late, "{due:?} is late");
    }

    fn on_time(&mut self) {
        let now = self.clock.now();
        let told = self.shared.with(|state| state.on_time(now));
        match (told, self.clock.due(self.book.oldest())) {
            (Err(MqttError::Unanswered("a packet")), Due::Packet) => {
                self.book.expire(self.clock.patience, now);
                return self.end();
            }
            (Err(MqttError::Unanswered("a ping")), Due::Ping)
            | (Err(MqttError::Forgotten), Due::Forgotten) => return self.end(),
            (Ok(()), Due::Sign) => {
                self.clock.pinged();
                self.book.expect_ping();
            }
            (Ok(()), Due::Nothing) => {}
            (told, due) => panic!("{told:?} when {due:?} is due"),
        }
        self.read();
        self.clock.due = self.shared.lock().next_deadline(now);
        assert!(self.clock.due > now, "it looks at the clock for nothing");
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}
