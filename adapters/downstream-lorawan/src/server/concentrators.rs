//! The concentrators that may speak here, where each is, and the way to it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::config::ConcentratorConfig;
use super::losses::Losses;
use crate::event::TransmitResult;
use crate::proto::gwmp::TxRequest;
use crate::proto::station::Downlink;
use crate::proto::{ConcentratorClock, Eui64, Reception, Transmission};

const SECOND: Duration = Duration::from_secs(1);

/// What concentrators tell the server.
#[derive(Debug)]
pub(super) enum Radio {
    /// One heard a frame.
    Heard { frame: Bytes, reception: Reception },
    /// One sent a frame, or could not.
    Transmitted {
        gateway: Eui64,
        token: u16,
        result: TransmitResult,
    },
}

/// Tells why a concentrator is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the concentrator is not listed")]
    Unlisted,
    #[error("the concentrator is to come from {0}, or the one there is to be silent first")]
    Source(IpAddr),
    #[error("the concentrator says too much")]
    Flood,
}

/// How a concentrator is reached.
#[derive(Debug, Clone)]
enum Way {
    /// The address that its last request for downlinks came from.
    Forwarder(Arc<UdpSocket>, SocketAddr),
    /// Its connection, by a number of its own.
    Station(mpsc::Sender<String>, u64),
}

#[derive(Debug, Default)]
struct Entry {
    /// The address that it was given.
    source: Option<IpAddr>,
    /// Where it was heard last, and when.
    heard: Option<(IpAddr, Instant)>,
    way: Option<Way>,
    share: Share,
}

/// What a concentrator has said of what it may say in a second.
#[derive(Debug, Default)]
struct Share {
    since: Option<Instant>,
    said: u32,
    losses: Losses,
}

impl Share {
    fn take(&mut self, gateway: Eui64, now: Instant, rate: u32) -> Result<(), Refused> {
        if self.since.is_none_or(|since| now - since >= SECOND) {
            (self.since, self.said) = (Some(now), 0);
        }
        if self.said < rate {
            self.said += 1;
            return Ok(());
        }
        if let Some(lost) = self.losses.count() {
            tracing::warn!(%gateway, lost, "A concentrator says too much; the rest was dropped");
        }
        Err(Refused::Flood)
    }
}

#[derive(Debug)]
pub(super) struct Concentrators {
    pin_timeout: Duration,
    /// What each may say in a second.
    rate: u32,
    entries: Mutex<HashMap<Eui64, Entry>>,
}

impl Concentrators {
    pub(super) fn new(listed: &[ConcentratorConfig], pin_timeout: Duration, rate: u32) -> Self {
        let entry = |listed: &ConcentratorConfig| {
            let entry = Entry {
                source: listed.source,
                ..Entry::default()
            };
            (listed.eui, entry)
        };
        Self {
            pin_timeout,
            rate,
            entries: Mutex::new(listed.iter().map(entry).collect()),
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Eui64, Entry>> {
        // Whole between statements, whoever panicked.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a concentrator in that is listed, comes from where it is to come from, and does not say
    /// too much.
    pub(super) fn admit(&self, gateway: Eui64, from: IpAddr) -> Result<(), Refused> {
        let from = from.to_canonical();
        let now = Instant::now();
        let mut entries = self.entries();
        let entry = entries.get_mut(&gateway).ok_or(Refused::Unlisted)?;
        let pinned = entry.heard.filter(|(_, at)| now - *at < self.pin_timeout);
        let expected = entry.source.or(pinned.map(|(address, _)| address));
        if let Some(expected) = expected.filter(|expected| *expected != from) {
            return Err(Refused::Source(expected));
        }
        if pinned.is_none() {
            tracing::info!(gateway = %gateway, address = %from, "Concentrator heard");
        }
        entry.heard = Some((from, now));
        entry.share.take(gateway, now, self.rate)
    }

    /// Lets one more frame of a concentrator in, if it does not say too much.
    pub(super) fn admit_frame(&self, gateway: Eui64) -> bool {
        let mut entries = self.entries();
        entries.get_mut(&gateway).is_some_and(|entry| {
            let taken = entry.share.take(gateway, Instant::now(), self.rate);
            taken.is_ok()
        })
    }

    pub(super) fn is_listed(&self, gateway: Eui64) -> bool {
        self.entries().contains_key(&gateway)
    }

    /// Tells whether a concentrator has a way for downlinks.
    pub(super) fn reaches(&self, gateway: Eui64) -> bool {
        let entries = self.entries();
        entries
            .get(&gateway)
            .is_some_and(|entry| entry.way.is_some())
    }

    /// Notes where a packet forwarder waits for downlinks.
    pub(super) fn forwarder(&self, gateway: Eui64, socket: &Arc<UdpSocket>, at: SocketAddr) {
        if let Some(entry) = self.entries().get_mut(&gateway) {
            entry.way = Some(Way::Forwarder(socket.clone(), at));
        }
    }

    /// Notes a station's connection; the one before is told to end by its channel's end.
    pub(super) fn station(&self, gateway: Eui64, sender: mpsc::Sender<String>, number: u64) {
        if let Some(entry) = self.entries().get_mut(&gateway) {
            entry.way = Some(Way::Station(sender, number));
        }
    }

    /// Forgets a station's connection, unless another has come since.
    pub(super) fn station_gone(&self, gateway: Eui64, number: u64) {
        if let Some(entry) = self.entries().get_mut(&gateway) {
            entry
                .way
                .take_if(|way| matches!(way, Way::Station(_, its) if *its == number));
        }
    }

    /// Gives a concentrator a frame to send, and tells whether it is on its way there.
    pub(super) fn send(&self, transmission: &Transmission, token: u16) -> bool {
        let way = {
            let entries = self.entries();
            let entry = entries.get(&transmission.gateway);
            entry.and_then(|entry| entry.way.clone())
        };
        match way {
            Some(Way::Forwarder(socket, at)) => {
                let window = transmission.windows.first();
                let request = window.and_then(|window| TxRequest::new(transmission, window));
                request.is_some_and(|request| {
                    let datagram = request.encode(token.to_be_bytes());
                    let sent = socket.try_send_to(&datagram, at);
                    sent.inspect_err(|error| {
                        tracing::debug!(gateway = %transmission.gateway, error = %error, "Downlink not sent to its concentrator");
                    })
                    .is_ok()
                })
            }
            Some(Way::Station(sender, _)) => Downlink::new(transmission, token.into())
                .is_some_and(|message| sender.try_send(message.encode()).is_ok()),
            None => false,
        }
    }
}

/// Tells whether whoever keeps the clock tries all windows of a frame by itself.
pub(super) fn tries_all_windows(clock: Option<ConcentratorClock>) -> bool {
    matches!(clock, Some(ConcentratorClock::Station { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const TWO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const TIMEOUT: Duration = Duration::from_secs(120);

    #[tokio::test(start_paused = true)]
    async fn a_concentrator_stays_where_it_was_heard_first_until_it_is_silent() {
        let listed = [ConcentratorConfig::new(Eui64::new(1))];
        let concentrators = Concentrators::new(&listed, TIMEOUT, 10);
        let admit = |from| concentrators.admit(Eui64::new(1), from);
        assert_eq!(admit(ONE), Ok(()));
        assert_eq!(admit(TWO), Err(Refused::Source(ONE)));
        tokio::time::advance(TIMEOUT / 2).await;
        assert_eq!(admit(ONE), Ok(()));
        tokio::time::advance(TIMEOUT / 2).await;
        assert_eq!(admit(TWO), Err(Refused::Source(ONE)));
        tokio::time::advance(TIMEOUT / 2).await;
        assert_eq!(admit(TWO), Ok(()));
        assert_eq!(admit(ONE), Err(Refused::Source(TWO)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_concentrator_that_says_too_much_is_not_heard_for_the_rest_of_a_second() {
        let listed = [1, 2].map(|eui| ConcentratorConfig::new(Eui64::new(eui)));
        let concentrators = Concentrators::new(&listed, TIMEOUT, 3);
        let flood = Eui64::new(1);
        assert_eq!(concentrators.admit(flood, ONE), Ok(()));
        let frames = (0..5).filter(|_| concentrators.admit_frame(flood));
        assert_eq!(frames.count(), 2);
        assert_eq!(concentrators.admit(flood, ONE), Err(Refused::Flood));
        assert_eq!(concentrators.admit(Eui64::new(2), ONE), Ok(()));
        tokio::time::advance(SECOND).await;
        assert_eq!(concentrators.admit(flood, ONE), Ok(()));
    }

    #[tokio::test]
    async fn an_unlisted_concentrator_and_one_that_comes_from_elsewhere_are_refused() {
        let mut listed = ConcentratorConfig::new(Eui64::new(1));
        listed.source = Some(ONE);
        let concentrators = Concentrators::new(&[listed], TIMEOUT, 10);
        assert_eq!(
            concentrators.admit(Eui64::new(2), ONE),
            Err(Refused::Unlisted)
        );
        let refused = concentrators.admit(Eui64::new(1), TWO);
        assert_eq!(refused, Err(Refused::Source(ONE)));
        assert_eq!(concentrators.admit(Eui64::new(1), ONE), Ok(()));
    }
}
