//! Sessions between a socket and the message layer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::ConfigError;
use tokio::time::Instant;

use crate::carrier::{Carried, Carrier, PeerKey, Sender};
use crate::dtls::{DtlsConfig, DtlsEvent, DtlsTable, PskEntry, PskStore, SessionId};
use crate::proto::Seed;

/// Carries messages in DTLS sessions.
#[derive(Debug)]
pub(crate) struct Secure {
    table: DtlsTable,
    store: Arc<dyn PskStore>,
    patience: Duration,
    start: Instant,
    /// Look-ups under way, of handshakes that may be over, and the most that may be.
    lookups: usize,
    max_lookups: usize,
    refused: u64,
}

impl Secure {
    pub(crate) fn new(
        config: DtlsConfig,
        store: Arc<dyn PskStore>,
        seed: Seed,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            patience: config.handshake_timeout,
            lookups: 0,
            max_lookups: config.max_handshakes,
            refused: 0,
            table: DtlsTable::new(config, seed)?,
            store,
            start: Instant::now(),
        })
    }

    fn clock(&self, now: Instant) -> Duration {
        now.duration_since(self.start)
    }

    /// Passes on what the table has to say.
    fn collect(&mut self, now: Instant, out: &mut VecDeque<Carried>) {
        while let Some(event) = self.table.poll_event() {
            match event {
                // A store that is slow, or is not there, must not be asked by ever more strangers.
                DtlsEvent::Identify { session, .. } if self.lookups >= self.max_lookups => {
                    self.table.identified(self.clock(now), session, None);
                }
                DtlsEvent::Identify { session, identity } => {
                    self.lookups += 1;
                    out.push_back(Carried::Identify {
                        session,
                        identity,
                        store: self.store.clone(),
                        patience: self.patience,
                    });
                }
                DtlsEvent::Ready { device, .. } => {
                    tracing::info!(device.id = %device, "Device has a session");
                }
                DtlsEvent::Datagram {
                    session,
                    device,
                    from,
                    bytes,
                } => out.push_back(Carried::Message {
                    peer: PeerKey::Session(session),
                    sender: Sender {
                        address: from,
                        device: Some(device),
                        is_proven: true,
                    },
                    bytes,
                }),
                DtlsEvent::Ended { session, reason } => {
                    tracing::debug!(?session, ?reason, "Session ended");
                    let peer = PeerKey::Session(session);
                    out.push_back(Carried::Closed { peer });
                }
                DtlsEvent::Refused {
                    from,
                    identity,
                    reason,
                } => {
                    self.refused += 1;
                    // Not a line for each: whoever floods handshakes must not flood the log.
                    if self.refused.is_power_of_two() {
                        let count = self.refused;
                        tracing::info!(count, peer = %from, identity, error = %reason, "Sessions refused");
                    } else {
                        tracing::debug!(peer = %from, identity, error = %reason, "Session refused");
                    }
                }
            }
        }
        while let Some(transmit) = self.table.poll_transmit() {
            let (to, bytes) = (transmit.to, transmit.bytes);
            out.push_back(Carried::Datagram { to, bytes });
        }
    }
}

impl Carrier for Secure {
    fn receive(
        &mut self,
        now: Instant,
        source: SocketAddr,
        bytes: &[u8],
        out: &mut VecDeque<Carried>,
    ) {
        self.table.receive(self.clock(now), source, bytes);
        self.collect(now, out);
    }

    fn send(&mut self, now: Instant, peer: PeerKey, bytes: Bytes, out: &mut VecDeque<Carried>) {
        let PeerKey::Session(session) = peer else {
            return;
        };
        if let Err(error) = self.table.send(self.clock(now), session, &bytes) {
            tracing::debug!(?session, error = %error, "Message not sent");
        }
        self.collect(now, out);
    }

    fn identified(
        &mut self,
        now: Instant,
        session: SessionId,
        entry: Option<PskEntry>,
        out: &mut VecDeque<Carried>,
    ) {
        self.lookups = self.lookups.saturating_sub(1);
        self.table.identified(self.clock(now), session, entry);
        self.collect(now, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.table.next_timeout().map(|since| self.start + since)
    }

    fn on_timeout(&mut self, now: Instant, out: &mut VecDeque<Carried>) {
        self.table.on_timeout(self.clock(now));
        self.collect(now, out);
    }

    fn close(&mut self, now: Instant, out: &mut VecDeque<Carried>) {
        self.table.close_all();
        self.collect(now, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::StaticPskStore;
    use crate::dtls::tests::world::{Client, address};

    #[test]
    fn a_store_that_does_not_answer_is_asked_by_no_more_clients_than_may_make_handshakes() {
        let config = DtlsConfig {
            max_handshakes: 3,
            ..DtlsConfig::default()
        };
        let mut secure =
            Secure::new(config, Arc::new(StaticPskStore::new()), Seed([1, 2])).unwrap();
        let (now, mut out) = (Instant::now(), VecDeque::new());
        let mut waiting = Vec::new();
        for port in 1..=10 {
            let (mut client, hello) = Client::new(0, Duration::ZERO);
            let mut sent = VecDeque::from(hello);
            while let Some(datagram) = sent.pop_front() {
                secure.receive(now, address(port), &datagram, &mut out);
                for carried in out.drain(..) {
                    match carried {
                        Carried::Datagram { to, bytes } if to == address(port) => {
                            sent.extend(client.take(Duration::ZERO, &bytes));
                        }
                        Carried::Identify { session, .. } => waiting.push(session),
                        _ => {}
                    }
                }
            }
        }
        assert_eq!(waiting.len(), 3);
        // An answer makes room for one more, though its own client may have gone.
        secure.identified(now, waiting[0], None, &mut out);
        assert_eq!(secure.lookups, 2);
    }
}
