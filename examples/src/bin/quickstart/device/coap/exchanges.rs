//! A device's requests on their way: sent again until they are acknowledged, one at a time (RFC
//! 7252, sections 4.2 and 4.7).

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use gateway_core::Backoff;
use gateway_downstream_coap::proto::message::{Code, Datagram, Kind, Message, Token, option};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

/// How often a request is sent again.
const MAX_RETRANSMIT: u32 = 4;
/// How long an acknowledged request waits for its response: the exchange's lifetime.
const RESPONSE_PATIENCE: Duration = Duration::from_secs(247);
/// Larger than any datagram of this gateway for this fleet.
const DATAGRAM: usize = 1536;

/// What the gateway sent.
#[derive(Debug)]
pub(super) enum Heard<P> {
    /// The response to a request for this purpose.
    Response(P, Message),
    /// A message that nobody asked for right now; it was acknowledged.
    Notification(Message),
}

#[derive(Debug)]
struct Exchange<P> {
    purpose: P,
    request: Datagram,
    tries: u32,
    is_acknowledged: bool,
    /// When it is sent again, or given up.
    due: Instant,
}

#[derive(Debug)]
pub(super) struct Exchanges<P> {
    socket: UdpSocket,
    /// From 2 s to 4 s at first.
    backoff: Backoff,
    last_id: u16,
    last_token: u32,
    out: Vec<Exchange<P>>,
    /// What waits until everything that is out was acknowledged.
    waiting: VecDeque<(P, Message)>,
    /// The gateway's last message that asked for an acknowledgement; it sends one at a time.
    last_heard: Option<u16>,
}

impl<P: Copy> Exchanges<P> {
    pub(super) async fn open(gateway: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(gateway).await?;
        socket.writable().await?;
        let backoff = Backoff::new(Duration::from_secs(4), Duration::from_secs(64));
        Ok(Self {
            socket,
            backoff: backoff.map_err(io::Error::other)?,
            last_id: 0,
            last_token: 0,
            out: Vec::new(),
            waiting: VecDeque::new(),
            last_heard: None,
        })
    }

    /// Sends a request as soon as it may go; the token that its response will have.
    pub(super) fn ask(&mut self, purpose: P, message: Message) -> Token {
        self.last_token += 1;
        let token = Token::from(self.last_token);
        self.ask_under(token, purpose, message);
        token
    }

    /// The same under a token that was used before.
    pub(super) fn ask_under(&mut self, token: Token, purpose: P, message: Message) {
        self.waiting.push_back((purpose, message.with_token(token)));
    }

    /// Sends what is to be sent until something is heard.
    ///
    /// # Errors
    /// A request was not acknowledged for too long, or nobody is there.
    ///
    /// # Cancel safety
    /// Safe: what was not sent is sent by the next call.
    pub(super) async fn next(&mut self) -> io::Result<Heard<P>> {
        let mut buffer = [0; DATAGRAM];
        loop {
            let due = self.send()?;
            let received = tokio::select! {
                received = self.socket.recv(&mut buffer) => received?,
                () = until(due) => continue,
            };
            let Ok(datagram) = Datagram::decode(&buffer[..received]) else {
                continue;
            };
            if let Some(heard) = self.take(datagram)? {
                return Ok(heard);
            }
        }
    }

    /// Sends everything that is due, and says when something is next.
    fn send(&mut self) -> io::Result<Option<Instant>> {
        let now = Instant::now();
        if self.out.iter().all(|exchange| exchange.is_acknowledged)
            && let Some((purpose, message)) = self.waiting.pop_front()
        {
            self.last_id = self.last_id.wrapping_add(1);
            let (kind, id) = (Kind::Confirmable, self.last_id);
            self.out.push(Exchange {
                purpose,
                request: Datagram { kind, id, message },
                tries: 0,
                is_acknowledged: false,
                due: now,
            });
        }
        for exchange in self.out.iter_mut().filter(|exchange| exchange.due <= now) {
            if exchange.is_acknowledged || exchange.tries > MAX_RETRANSMIT {
                return Err(io::ErrorKind::TimedOut.into());
            }
            write(&self.socket, &exchange.request)?;
            exchange.due = now + self.backoff.delay(exchange.tries);
            exchange.tries += 1;
        }
        Ok(self.out.iter().map(|exchange| exchange.due).min())
    }

    fn take(&mut self, datagram: Datagram) -> io::Result<Option<Heard<P>>> {
        let Datagram { kind, id, message } = datagram;
        if kind == Kind::Confirmable {
            write(&self.socket, &Datagram::empty(Kind::Acknowledgement, id))?;
            if self.last_heard.replace(id) == Some(id) {
                return Ok(None);
            }
        }
        if message.code == Code::EMPTY {
            let mut out = self.out.iter_mut();
            if let Some(exchange) = out.find(|exchange| exchange.request.id == id) {
                exchange.is_acknowledged = true;
                exchange.due = Instant::now() + RESPONSE_PATIENCE;
            }
            return Ok(None);
        }
        let mut out = self.out.iter();
        let Some(at) = out.position(|exchange| exchange.request.message.token == message.token)
        else {
            return Ok(Some(Heard::Notification(message)));
        };
        let Exchange {
            purpose, request, ..
        } = self.out.swap_remove(at);
        match (message.code, message.options.get(option::ECHO)) {
            // It wants to see that somebody receives here (RFC 9175).
            (Code::UNAUTHORIZED, Some(echo)) => {
                let request = request.message.with_option(option::ECHO, echo.clone());
                self.waiting.push_front((purpose, request));
                Ok(None)
            }
            _ => Ok(Some(Heard::Response(purpose, message))),
        }
    }
}

/// Sends a datagram; one for which there is no room is lost, as others are.
fn write(socket: &UdpSocket, datagram: &Datagram) -> io::Result<()> {
    match socket.try_send(&datagram.encode()) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(()),
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
