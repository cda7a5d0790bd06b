//! Semtech's packet forwarders, on one UDP socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::concentrators::{Concentrators, Radio};
use super::losses::Losses;
use crate::event::{TransmitError, TransmitResult};
use crate::proto::Eui64;
use crate::proto::gwmp::{Body, CrcStatus, Datagram, DatagramError, PushData, TxOutcome};
use crate::proto::mac::Region;

/// A datagram's greatest length.
const MAX_DATAGRAM: usize = 65_535;
/// How long is waited after nothing could be received.
const PAUSE: Duration = Duration::from_millis(10);

/// Listens to packet forwarders, for ever.
#[derive(Debug)]
pub(super) struct Forwarders {
    pub(super) socket: Arc<UdpSocket>,
    pub(super) concentrators: Arc<Concentrators>,
    pub(super) region: Region,
    pub(super) radio: mpsc::Sender<Radio>,
    pub(super) losses: Losses,
}

impl Forwarders {
    pub(super) async fn serve(mut self) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((length, from)) => self.receive(&buffer[..length], from).await,
                // Said of a datagram that was sent before, or for want of memory.
                Err(error) => {
                    tracing::debug!(error = %error, "Nothing received");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn receive(&mut self, bytes: &[u8], from: SocketAddr) {
        let dropped =
            |error: &DatagramError| tracing::debug!(%from, error = %error, "Datagram dropped");
        let Ok(gateway) = Datagram::sender(bytes).inspect_err(dropped) else {
            return;
        };
        if let Err(error) = self.concentrators.admit(gateway, from.ip()) {
            tracing::debug!(gateway = %gateway, %from, error = %error, "Datagram refused");
            return;
        }
        let Ok(datagram) = Datagram::decode(bytes).inspect_err(dropped) else {
            return;
        };
        if let Some(answer) = datagram.acknowledgement() {
            // One that is lost is asked for again.
            self.socket.send_to(&answer, from).await.ok();
        }
        match datagram.body {
            Body::PullData => self.concentrators.forwarder(gateway, &self.socket, from),
            Body::TxAck(outcome) => self.tell(Radio::Transmitted {
                gateway,
                token: u16::from_be_bytes(datagram.token),
                result: result(&outcome),
            }),
            Body::PushData(data) => self.heard(gateway, data),
        }
    }

    fn heard(&mut self, gateway: Eui64, data: PushData) {
        for odd in &data.odd {
            tracing::debug!(gateway = %gateway, error = %odd, "Part of a datagram dropped");
        }
        for packet in data.packets {
            if packet.crc == CrcStatus::Bad || !self.concentrators.admit_frame(gateway) {
                continue;
            }
            match packet.reception(gateway, &self.region) {
                Some(reception) => self.tell(Radio::Heard {
                    frame: packet.frame,
                    reception,
                }),
                None => tracing::debug!(
                    gateway = %gateway, frequency = packet.frequency, modulation = ?packet.modulation,
                    "Frame dropped: not of this region, or without the concentrator's clock"
                ),
            }
        }
    }

    /// Hands on what was heard; a flood costs its newest frames, and never the server's breath.
    fn tell(&mut self, radio: Radio) {
        if self.radio.try_send(radio).is_err()
            && let Some(lost) = self.losses.count()
        {
            tracing::warn!(
                lost,
                "Too much is heard; what concentrators said was dropped"
            );
        }
    }
}

fn result(outcome: &TxOutcome) -> TransmitResult {
    Err(match outcome {
        TxOutcome::Sent | TxOutcome::SentWithPower(_) => return Ok(()),
        TxOutcome::TooLate => TransmitError::TooLate,
        TxOutcome::TooEarly => TransmitError::TooEarly,
        TxOutcome::Collision => TransmitError::CollisionPacket,
        TxOutcome::Frequency => TransmitError::Frequency,
        TxOutcome::Power => TransmitError::Power,
        TxOutcome::NoGps => TransmitError::GpsUnlocked,
        TxOutcome::Other(_) => TransmitError::Other,
    })
}
