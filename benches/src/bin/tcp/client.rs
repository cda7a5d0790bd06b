//! A device that keeps some messages on their way, as cheaply as it can.

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use benches::{BODY, HOST, device_name};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What is read at once: the acknowledgements of all that is on its way.
const READ: usize = 4096;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A device on a connection of its own, let in.
pub(crate) struct Client {
    name: String,
    stream: Box<dyn Stream>,
    /// Frames told apart by this.
    count: u64,
    output: Vec<u8>,
    /// What was read; the beginning of a frame stays for the next time.
    input: Vec<u8>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects, over TLS if there is a connector, says hello, and sends a first message.
    pub(crate) async fn start(
        server: SocketAddr,
        connector: Option<TlsConnector>,
        number: usize,
    ) -> Result<Self> {
        let stream = TcpStream::connect(server).await;
        let stream = stream.context("no socket; raise `ulimit -n`, or ask for fewer --devices")?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match connector {
            None => Box::new(stream),
            Some(connector) => Box::new(connector.connect(HOST.try_into()?, stream).await?),
        };
        let mut client = Self {
            name: device_name(number),
            stream,
            count: 0,
            output: Vec::new(),
            input: Vec::with_capacity(READ),
        };
        let hello = format!(
            r#"{{"type":"hello","id":"{}","interest":{{"messages":false,"methods":false}}}}"#,
            client.name
        );
        client.output.extend(hello.bytes().chain([b'\n']));
        client.write().await?;
        client.answers(b"{\"type\":\"welcome\"").await?;
        client.send(1, 1).await?;
        Ok(client)
    }

    /// Sends so many messages, and keeps as many of them on their way as it may.
    pub(crate) async fn send(&mut self, messages: u64, in_flight: u64) -> Result<()> {
        let (mut to_send, mut on_their_way) = (messages, 0);
        while to_send + on_their_way > 0 {
            let now = to_send.min(in_flight - on_their_way);
            for _ in 0..now {
                self.add_message()?;
            }
            self.write().await?;
            (to_send, on_their_way) = (to_send - now, on_their_way + now);
            on_their_way -= self.answers(b"{\"type\":\"ack\"").await?;
        }
        Ok(())
    }

    fn add_message(&mut self) -> Result<()> {
        self.count += 1;
        let (name, count) = (&self.name, self.count);
        write!(
            self.output,
            r#"{{"type":"telemetry","id":"{name}-{count}","seq":{count},"body":""#
        )?;
        // With its quotes a usual reading's size.
        self.output.extend_from_slice(&BODY[2..]);
        self.output.extend_from_slice(b"\"}\n");
        Ok(())
    }

    async fn write(&mut self) -> Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Waits for answers that begin so, and counts them.
    async fn answers(&mut self, begin: &[u8]) -> Result<u64> {
        loop {
            let read = self.stream.read_buf(&mut self.input).await?;
            ensure!(read > 0, "{} was disconnected", self.name);
            let Some(end) = self.input.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            let mut count = 0;
            for line in self.input[..end].split(|byte| *byte == b'\n') {
                let text = String::from_utf8_lossy(line);
                ensure!(line.starts_with(begin), "{} was told {text}", self.name);
                count += 1;
            }
            self.input.drain(..=end);
            return Ok(count);
        }
    }
}
