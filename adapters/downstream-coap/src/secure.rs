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
}

impl Secure {
    pub(crate) fn new(
        config: DtlsConfig,
        store: Arc<dyn PskStore>,
        seed: Seed,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            patience: config.handshake_timeout,
            table: DtlsTable::new(config, seed)?,
            store,
            start: Instant::now(),
        })
    }

    fn clock(&self, now: Instant) -> Duration {
        now.duration_since(self.start)
    }

    /// Passes on what the table has to say.
    fn collect(&mut self, out: &mut VecDeque<Carried>) {
        while let Some(event) = self.table.poll_event() {
            match event {
                DtlsEvent::Identify { session, identity } => out.push_back(Carried::Identify {
                    session,
                    identity,
                    store: self.store.clone(),
                    patience: self.patience,
                }),
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
                    tracing::info!(peer = %from, identity, error = %reason, "Session refused");
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
        self.collect(out);
    }

    fn send(&mut self, now: Instant, peer: PeerKey, bytes: Bytes, out: &mut VecDeque<Carried>) {
        let PeerKey::Session(session) = peer else {
            return;
        };
        if let Err(error) = self.table.send(self.clock(now), session, &bytes) {
            tracing::debug!(?session, error = %error, "Message not sent");
        }
        self.collect(out);
    }

    fn identified(
        &mut self,
        now: Instant,
        session: SessionId,
        entry: Option<PskEntry>,
        out: &mut VecDeque<Carried>,
    ) {
        self.table.identified(self.clock(now), session, entry);
        self.collect(out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.table.next_timeout().map(|since| self.start + since)
    }

    fn on_timeout(&mut self, now: Instant, out: &mut VecDeque<Carried>) {
        self.table.on_timeout(self.clock(now));
        self.collect(out);
    }

    fn close(&mut self, _now: Instant, out: &mut VecDeque<Carried>) {
        self.table.close_all();
        self.collect(out);
    }
}
