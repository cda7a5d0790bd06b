//! Basics Stations, each on a WebSocket of its own.

mod handshake;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use gateway_net::{Guest, Listener, Room};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message as Frame};

use super::concentrators::{Concentrators, Radio, Refused};
use super::config::StationConfig;
use crate::proto::Eui64;
use crate::proto::mac::gps_time;
use crate::proto::station::discovery::{Answer, Question};
use crate::proto::station::{Message, MessageError, Transmitted, time_answer};
use handshake::Endpoint;

/// Downlinks that wait for a station's connection: some seconds' worth of air.
const OUTGOING: usize = 64;
type Socket = WebSocketStream<TcpStream>;

/// Listens to stations, for ever; their connections end when it is dropped.
#[derive(Debug)]
pub(super) struct Stations {
    pub(super) config: StationConfig,
    /// What a station is told when it has come.
    pub(super) router_config: String,
    pub(super) concentrators: Arc<Concentrators>,
    pub(super) radio: mpsc::Sender<Radio>,
}

/// Tells why a connection ended before its station wanted it to.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("its station is silent, or takes nothing")]
    Silent,
    #[error("its station has come anew")]
    Replaced,
    #[error("it had not said which station it is, and made room")]
    Displaced,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    WebSocket(#[from] Box<Error>),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::WebSocket(Box::new(error))
    }
}

impl Stations {
    pub(super) async fn serve(self, mut listener: Listener) {
        let this = Arc::new(self);
        let mut room = Room::new(this.config.max_connections);
        let mut connections = JoinSet::new();
        for number in 0_u64.. {
            while connections.try_join_next().is_some() {}
            let (stream, from) = listener.accept().await;
            if room.is_full() {
                tracing::debug!(%from, "Connection closed: as many stations are here as may be");
                continue;
            }
            let guest = room.admit().await;
            let this = this.clone();
            connections.spawn(async move {
                if let Err(error) = this.speak(stream, from, number, guest).await {
                    tracing::debug!(%from, error = %error, "Station's connection ended");
                }
            });
        }
    }

    async fn speak(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        number: u64,
        guest: Guest,
    ) -> Result<(), Ended> {
        stream.set_nodelay(true)?;
        let greeting = async {
            let (mut socket, endpoint) = handshake::accept(stream).await?;
            let endpoint = match endpoint {
                Endpoint::Station(station) => Some(station),
                Endpoint::Discovery { host } => {
                    self.direct(&mut socket, &host).await?;
                    None
                }
            };
            Ok::<_, Ended>((socket, endpoint))
        };
        let greeted = tokio::select! {
            greeted = timeout(self.config.handshake_timeout, greeting) => greeted,
            () = guest.displaced() => return Err(Ended::Displaced),
        };
        let (socket, Some(station)) = greeted.map_err(|_| Ended::Silent)?? else {
            return Ok(());
        };
        guest.introduce();
        self.concentrators.admit(station, from.ip())?;
        let (sender, outgoing) = mpsc::channel(OUTGOING);
        self.concentrators.station(station, sender, number);
        tracing::info!(gateway = %station, %from, "Station connected");
        let ended = self.exchange(socket, station, from, outgoing).await;
        self.concentrators.station_gone(station, number);
        tracing::info!(gateway = %station, "Station disconnected");
        ended
    }

    /// Tells a station where to go.
    async fn direct(&self, socket: &mut Socket, host: &str) -> Result<(), Ended> {
        while let Some(frame) = socket.next().await {
            let Frame::Text(text) = frame? else { continue };
            let Question { router, .. } = Question::decode(&text)?;
            let url = match &self.config.url {
                Some(url) => url.trim_end_matches('/').to_owned(),
                None => format!("ws://{host}"),
            };
            let answer = match self.concentrators.is_listed(router) {
                true => Answer::endpoint(router, format!("{url}/station/{router}")),
                false => Answer::refusal(router, Refused::Unlisted.to_string()),
            };
            socket.send(Frame::text(answer.encode())).await?;
            socket.close(None).await?;
            break;
        }
        Ok(())
    }

    /// Speaks with a station until one of both ends it.
    async fn exchange(
        &self,
        mut socket: Socket,
        station: Eui64,
        from: SocketAddr,
        mut outgoing: mpsc::Receiver<String>,
    ) -> Result<(), Ended> {
        let patience = self.config.idle_timeout;
        let quarter = patience / 4;
        let (mut asked, mut quiet_until) = (0, Instant::now() + quarter);
        loop {
            let frame = tokio::select! {
                frame = timeout_at(quiet_until, socket.next()) => frame,
                message = outgoing.recv() => {
                    let message = message.ok_or(Ended::Replaced)?;
                    write(&mut socket, Frame::text(message), patience).await?;
                    continue;
                }
            };
            let frame = match frame {
                Err(_) if asked == 3 => return Err(Ended::Silent),
                Err(_) => {
                    (asked, quiet_until) = (asked + 1, Instant::now() + quarter);
                    write(&mut socket, Frame::Ping(Bytes::new()), patience).await?;
                    continue;
                }
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => frame?,
            };
            (asked, quiet_until) = (0, Instant::now() + quarter);
            match self.concentrators.admit(station, from.ip()) {
                // What it says is lost, and its connection is none the worse.
                Err(Refused::Flood) => continue,
                admitted => admitted?,
            }
            let Frame::Text(text) = frame else { continue };
            let answer = match Message::decode(&text) {
                Ok(message) => self.receive(station, message).await,
                Err(error) => {
                    tracing::debug!(gateway = %station, error = %error, "Message dropped");
                    None
                }
            };
            if let Some(answer) = answer {
                write(&mut socket, Frame::text(answer), patience).await?;
            }
        }
    }

    /// Takes a station's message, and gives what is answered at once.
    async fn receive(&self, station: Eui64, message: Message) -> Option<String> {
        let radio = match message {
            Message::Version(version) => {
                tracing::debug!(gateway = %station, version = version.station, "Station's version");
                return Some(self.router_config.clone());
            }
            Message::TimeSync { txtime } => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                return Some(time_answer(txtime, gps_time(now.unwrap_or_default())));
            }
            Message::Uplink(uplink) => Radio::Heard {
                reception: uplink.reception(station),
                frame: uplink.frame,
            },
            Message::Transmitted(Transmitted { id, .. }) => Radio::Transmitted {
                gateway: station,
                token: u16::try_from(id).ok()?,
                result: Ok(()),
            },
            Message::Other(_) => return None,
        };
        // A station that is heard too much of waits: TCP holds it back.
        self.radio.send(radio).await.ok();
        None
    }
}

async fn write(socket: &mut Socket, frame: Frame, patience: Duration) -> Result<(), Ended> {
    let written = timeout(patience, socket.send(frame)).await;
    Ok(written.map_err(|_| Ended::Silent)??)
}
