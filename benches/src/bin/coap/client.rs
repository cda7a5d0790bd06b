//! A device that sends one request after the other, as cheaply as it can.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use benches::{BODY, device_name};
use coap_lite::{CoapOption, MessageClass, MessageType, Packet, RequestType};
use dimpl::crypto::{CryptoProvider, Dtls12CipherSuite, rust_crypto};
use dimpl::{Config, Dtls, Output, PskResolver};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

/// The key of every device.
pub(crate) const KEY: &[u8] = b"a secret for benches";
/// What comes after this is sent again: RFC 7252's ACK_TIMEOUT.
const PATIENCE: Duration = Duration::from_secs(2);
const DATAGRAM: usize = 2048;
const CHANGED: u8 = 2 << 5 | 4;
const TRIES: usize = 5;
const CIPHER: Dtls12CipherSuite = Dtls12CipherSuite::PSK_AES128_CCM_8;

/// A device on a socket of its own, with a session or without.
pub(crate) struct Client {
    socket: UdpSocket,
    session: Option<Dtls>,
    /// The request, of which only id and token change.
    request: Vec<u8>,
    count: u32,
}

impl Client {
    /// Takes a socket and, if it is to have one, a session, and sends its first request.
    pub(crate) async fn start(server: SocketAddr, is_secure: bool, number: usize) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let socket = socket.context("no socket; raise `ulimit -n`, or ask for fewer --sockets")?;
        socket.connect(server).await?;
        let mut client = Self {
            socket,
            session: None,
            request: request(number)?,
            count: 0,
        };
        if is_secure {
            client.session = Some(client.handshake(number).await?);
        }
        client.post().await?;
        Ok(client)
    }

    /// Sends a request until it is answered, and says how often it had to be sent again.
    pub(crate) async fn post(&mut self) -> Result<u64> {
        self.count += 1;
        let [_, _, high, low] = self.count.to_be_bytes();
        self.request[2..4].copy_from_slice(&[high, low]);
        self.request[4..8].copy_from_slice(&self.count.to_be_bytes());
        for again in 0..TRIES {
            self.send().await?;
            match timeout(PATIENCE, self.answer()).await {
                Ok(answered) => return answered.map(|()| again as u64),
                Err(_) => continue,
            }
        }
        bail!("a request was not answered for {PATIENCE:?}, {TRIES} times")
    }

    async fn send(&mut self) -> Result<()> {
        let Some(session) = &mut self.session else {
            self.socket.send(&self.request).await?;
            return Ok(());
        };
        session.send_application_data(&self.request)?;
        let mut buffer = [0; DATAGRAM];
        loop {
            match session.poll_output(&mut buffer) {
                Output::Packet(bytes) => {
                    self.socket.send(bytes).await?;
                }
                Output::Timeout(_) => return Ok(()),
                _ => {}
            }
        }
    }

    /// Waits for the answer to the request on its way.
    async fn answer(&mut self) -> Result<()> {
        let (mut buffer, mut clear) = ([0; DATAGRAM], [0; DATAGRAM]);
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            let answer = match &mut self.session {
                None => &buffer[..length],
                Some(session) => {
                    session.handle_packet(&buffer[..length])?;
                    match message(session, &mut clear) {
                        Some(length) => &clear[..length],
                        None => continue,
                    }
                }
            };
            ensure!(answer.len() >= 8, "an answer is too short: {answer:?}");
            // One to an earlier try may come late.
            if answer[2..8] == self.request[2..8] {
                ensure!(answer[1] == CHANGED, "an answer is no 2.04: {answer:?}");
                return Ok(());
            }
        }
    }

    /// Makes a session; nothing is to get lost meanwhile.
    async fn handshake(&self, number: usize) -> Result<Dtls> {
        let config = Config::builder()
            .with_crypto_provider(provider()?)
            .with_psk_client(device_name(number).into_bytes(), Arc::new(OneKey))
            .dtls12_cipher_suites(&[CIPHER])
            .dtls13_cipher_suites(&[])
            .build()?;
        let now = || Instant::now().into_std();
        let mut session = Dtls::new_12_psk(Arc::new(config), now());
        session.set_active(true);
        session.handle_timeout(now())?;
        let mut buffer = [0; DATAGRAM];
        loop {
            loop {
                match session.poll_output(&mut buffer) {
                    Output::Packet(bytes) => {
                        self.socket.send(bytes).await?;
                    }
                    Output::Connected => return Ok(session),
                    Output::Timeout(_) => break,
                    _ => {}
                }
            }
            match timeout(PATIENCE, self.socket.recv(&mut buffer)).await {
                Ok(received) => session.handle_packet(&buffer[..received?])?,
                Err(_) => session.handle_timeout(now()).context("no session")?,
            }
        }
    }
}

/// Takes the message out of a session; `None` if there is none.
fn message(session: &mut Dtls, clear: &mut [u8]) -> Option<usize> {
    loop {
        match session.poll_output(clear) {
            Output::ApplicationData(bytes) => return Some(bytes.len()),
            Output::Timeout(_) => return None,
            _ => {}
        }
    }
}

fn request(number: usize) -> Result<Vec<u8>> {
    let mut packet = Packet::new();
    packet.header.set_type(MessageType::Confirmable);
    packet.header.code = MessageClass::Request(RequestType::Post);
    packet.set_token(vec![0; 4]);
    packet.add_option(CoapOption::UriPath, b"t".to_vec());
    let id = format!("$.id={}", device_name(number));
    packet.add_option(CoapOption::UriQuery, id.into_bytes());
    packet.payload = BODY.to_vec();
    packet.to_bytes().map_err(anyhow::Error::msg)
}

/// What a session needs and little more: a provider is tested anew for each device, which takes
/// milliseconds if it has elliptic curves.
fn provider() -> Result<CryptoProvider> {
    let all = rust_crypto::default_provider();
    let mut suites = all.cipher_suites.iter();
    let at = suites.position(|suite| suite.suite() == CIPHER);
    let at = at.context("no cipher for pre-shared keys")?;
    Ok(CryptoProvider {
        cipher_suites: &all.cipher_suites[at..=at],
        kx_groups: &[],
        ..all
    })
}

struct OneKey;

impl PskResolver for OneKey {
    fn resolve(&self, _identity: &[u8]) -> Option<Vec<u8>> {
        Some(KEY.to_vec())
    }
}
