//! What devices say.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::super::teller::{Outcome, Settled};
use super::timers::Timer;
use super::{Effect, Engine, Scope};
use crate::event::{self, Battery, DevEui, DeviceAck, Event, Status};
use crate::hex::Digits;
use crate::proto::mac::{self, Collected, Delivery, DeviceStatus, Heard};
use crate::proto::{Modulation, Reception};

/// How long storing a counter may take.
const STORING: Duration = Duration::from_millis(100);

/// The receive windows after an uplink.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opening {
    pub(super) heard_at: Instant,
    /// Seconds until the first.
    pub(super) delay: u8,
}

/// What the downstream is told of a device.
#[derive(Debug)]
pub(super) enum Told {
    /// What became of a downlink.
    Outcome(Outcome),
    /// What makes a message.
    Report(Event),
    Uplink {
        before: Option<DeviceAck>,
        uplink: Box<event::Uplink>,
        closes: Instant,
        /// What is to be said of it if it is lost.
        word: Option<Settled>,
    },
}

impl Engine {
    pub(super) fn heard(&mut self, mut collected: Collected, heard_at: Instant) {
        self.prefer_reachable(&mut collected);
        let collected = &collected;
        let received_at = SystemTime::now() - heard_at.elapsed();
        let since_unix = received_at.duration_since(SystemTime::UNIX_EPOCH);
        match self.network.hear(collected, since_unix.unwrap_or_default()) {
            Ok(Heard::Join(join)) => self.joined(join, heard_at),
            Ok(Heard::Uplink(uplink)) => {
                let event = self.describe(&uplink, collected, received_at);
                self.uplink(uplink, event, heard_at);
            }
            Ok(Heard::Repeat(repeat)) => {
                let dev_eui = repeat.dev_eui;
                self.changed(dev_eui, Scope::Session);
                self.open(dev_eui, heard_at, repeat.answer_due);
                if let Some(ack) = self.delivered(dev_eui, repeat.delivery) {
                    let outcome = Outcome::Device(ack);
                    self.effects.push(Effect::Tell(Told::Outcome(outcome)));
                }
            }
            Err(refusal) => {
                tracing::debug!(gateway = %collected.best.gateway, error = %refusal, "Frame refused");
            }
        }
    }

    /// Puts the best of those in front that can answer, where the very best cannot.
    fn prefer_reachable(&self, collected: &mut Collected) {
        if self.concentrators.reaches(collected.best.gateway) {
            return;
        }
        let reachable = collected.others.iter_mut();
        let reachable = reachable.filter(|other| self.concentrators.reaches(other.gateway));
        let better = |a: &&mut Reception, b: &&mut Reception| {
            (a.snr.total_cmp(&b.snr)).then(a.rssi.total_cmp(&b.rssi))
        };
        if let Some(other) = reachable.max_by(better) {
            std::mem::swap(&mut collected.best, other);
        }
    }

    fn joined(&mut self, join: mac::Join, heard_at: Instant) {
        let dev_eui = join.dev_eui;
        tracing::info!(device.id = %dev_eui, address = %join.dev_addr, "Device joins");
        self.changed(dev_eui, Scope::Device);
        self.send(join.accept, Some(heard_at), None);
        let event = Event::Join(event::Join::new(dev_eui, join.dev_addr));
        self.effects.push(Effect::Tell(Told::Report(event)));
    }

    fn uplink(&mut self, uplink: mac::Uplink, event: event::Uplink, heard_at: Instant) {
        let dev_eui = uplink.dev_eui;
        let scope = match uplink.first {
            true => Scope::Device,
            false => Scope::Session,
        };
        self.changed(dev_eui, scope);
        let asked = self.ask_status(dev_eui);
        let closes = self.open(dev_eui, heard_at, uplink.answer_due || asked);
        let before = self.delivered(dev_eui, uplink.delivery);
        let status = uplink.status.map(|status| status_event(dev_eui, status));
        self.effects.push(Effect::Tell(Told::Uplink {
            before,
            uplink: Box::new(event),
            closes,
            word: Settled::lost(&uplink),
        }));
        if let Some(status) = status {
            self.effects.push(Effect::Tell(Told::Report(status)));
        }
    }

    /// Opens a device's windows, and returns until when a command for them is taken.
    fn open(&mut self, dev_eui: DevEui, heard_at: Instant, answer_due: bool) -> Instant {
        let session = self.network.session(dev_eui);
        let delay = session.map_or(self.timing.rx_delay, |session| session.rx_delay);
        self.openings.insert(dev_eui, Opening { heard_at, delay });
        if answer_due {
            // As late as it can be: a command that comes until then goes in the same frame.
            let timer = Timer::Answer(dev_eui, heard_at);
            self.timers.set(self.answer_at(heard_at, delay), timer);
        }
        Self::window_at(heard_at, delay + 1) - self.timing.lead
    }

    /// When a frame must be made for a window so many seconds after an uplink.
    pub(super) fn answer_at(&self, heard_at: Instant, delay: u8) -> Instant {
        Self::window_at(heard_at, delay) - self.timing.lead - STORING
    }

    /// Takes the word on an uplink whose device wants an acknowledgement.
    pub(super) fn settle(&mut self, word: Settled) {
        let Settled {
            dev_eui,
            counter,
            mic,
            taken,
        } = word;
        if self.network.settle(dev_eui, counter, mic, taken) {
            self.changed(dev_eui, Scope::Session);
        }
        if !self.network.is_unsettled(dev_eui) {
            self.release(dev_eui, taken);
        }
    }

    /// Tells how the last confirmed downlink ended.
    fn delivered(&mut self, dev_eui: DevEui, delivery: Option<Delivery>) -> Option<DeviceAck> {
        let Delivery { id, acknowledged } = delivery?;
        let awaited = self.awaited.remove(&dev_eui)?;
        let mut ack = DeviceAck::new(dev_eui, awaited.downlink, acknowledged);
        ack.frame_counter = Some(awaited.counter);
        (awaited.number == id).then_some(ack)
    }

    /// Asks a device how it is, if it is time to; tells whether it is.
    fn ask_status(&mut self, dev_eui: DevEui) -> bool {
        let Some(interval) = self.timing.status_interval else {
            return false;
        };
        let now = Instant::now();
        let is_due = |last: &Instant| now - *last >= interval;
        let due = self.asked.get(&dev_eui).is_none_or(is_due);
        if due {
            self.asked.insert(dev_eui, now);
            self.network.ask_status(dev_eui);
        }
        due
    }

    /// Makes an event of an uplink.
    fn describe(
        &self,
        uplink: &mac::Uplink,
        collected: &Collected,
        received_at: SystemTime,
    ) -> event::Uplink {
        let best = &collected.best;
        let mut event =
            event::Uplink::new(uplink.dev_eui, uplink.counter, 1, uplink.payload.clone());
        event.received_at = received_at;
        event.port = uplink.port;
        event.dev_addr = Some(uplink.dev_addr);
        // With its MIC, since a counter may come again.
        let (dev_addr, mic) = (uplink.dev_addr, Digits::new(&uplink.mic));
        let id = format!(
            "{}-{dev_addr}-{}-{}",
            uplink.dev_eui,
            uplink.counter,
            mic.as_str()
        );
        event.deduplication_id = Some(id);
        event.confirmed = uplink.confirmed;
        event.adr = uplink.adr;
        event.data_rate = Some(best.data_rate);
        event.frequency = Some(best.frequency);
        event.modulation = self.network.region().modulation(best.data_rate);
        let all = std::iter::once(best).chain(&collected.others);
        let is_lora = matches!(event.modulation, Some(Modulation::Lora { .. }));
        event.receptions = all.map(|heard| reception(heard, is_lora)).collect();
        event
    }

    pub(super) fn tell(&mut self, told: Told) {
        match told {
            Told::Outcome(outcome) => self.teller.outcome(outcome),
            Told::Report(event) => self.teller.report(event),
            Told::Uplink {
                before,
                uplink,
                closes,
                word,
            } => self.teller.uplink(before, *uplink, closes, word),
        }
    }
}

fn reception(heard: &Reception, is_lora: bool) -> event::Reception {
    let mut reception = event::Reception::new(
        heard.gateway.to_string(),
        heard.rssi.round() as i16,
        is_lora.then_some(heard.snr),
    );
    reception.channel = heard.channel.map(Into::into);
    reception.rf_chain = heard.rf_chain.map(Into::into);
    let time = heard.time;
    reception.time = time.and_then(|time| SystemTime::UNIX_EPOCH.checked_add(time));
    reception
}

fn status_event(dev_eui: DevEui, status: DeviceStatus) -> Event {
    // TS001-1.0.4, section 5.5.
    let battery = match status.battery {
        0 => Battery::External,
        255 => Battery::Unknown,
        charge => Battery::Percent(f32::from(charge - 1) / 253.0 * 100.0),
    };
    Event::Status(Status::new(dev_eui, battery, status.margin))
}
