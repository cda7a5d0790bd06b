//! A broker that acknowledges everything and keeps nothing, in a process of its own: what is
//! measured is the client.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::Error;
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, PubAck};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// The argument that makes the program be the broker.
const ROLE: &str = "--be-the-sink";
const READ: usize = 64 * 1024;
const PUBLISH_AT_LEAST_ONCE: u8 = 0x32;

/// The broker's process; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) port: u16,
    _child: Child,
}

impl Sink {
    /// Starts this very program again, in the other role.
    pub(crate) async fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the broker's process")?;
        let from = child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(from).read_line(&mut line).await?;
        Ok(Self {
            port: line.trim().parse().context("the broker names no port")?,
            _child: child,
        })
    }
}

/// Is the broker, if this process was started for that.
pub(crate) async fn be_the_sink_if_asked() -> Result<bool> {
    if std::env::args().nth(1).as_deref() != Some(ROLE) {
        return Ok(false);
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let line = format!("{}\n", listener.local_addr()?.port());
    let mut stdout = tokio::io::stdout();
    stdout.write_all(line.as_bytes()).await?;
    stdout.flush().await?;
    let mut connections = JoinSet::new();
    let (mut stdin, mut nothing) = (tokio::io::stdin(), [0]);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(serve(accepted?.0));
            }
            Some(_) = connections.join_next() => {}
            // Whoever started it is gone.
            _ = stdin.read(&mut nothing) => return Ok(true),
        }
    }
}

async fn serve(mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    loop {
        input.reserve(READ);
        if socket.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        while answer(&mut input, &mut output)? {}
        socket.write_all_buf(&mut output).await?;
    }
}

/// Answers one packet; false if none is complete.
fn answer(input: &mut BytesMut, output: &mut BytesMut) -> Result<bool> {
    // A short message at least once, which is nearly all that comes, without taking it apart.
    if let &[PUBLISH_AT_LEAST_ONCE, len @ 0..0x80, high, low, ..] = &input[..]
        && input.len() >= 2 + usize::from(len)
    {
        let id = 4 + usize::from(u16::from_be_bytes([high, low]));
        output.extend_from_slice(&[0x40, 2, input[id], input[id + 1]]);
        input.advance(2 + usize::from(len));
        return Ok(true);
    }
    let answer = match Packet::read(input, READ) {
        Ok(Packet::Connect(_)) => Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false)),
        Ok(Packet::Publish(publish)) => Packet::PubAck(PubAck::new(publish.pkid)),
        Ok(Packet::PingReq) => Packet::PingResp,
        Ok(_) => return Ok(true),
        Err(Error::InsufficientBytes(_)) => return Ok(false),
        Err(error) => bail!("no MQTT: {error}"),
    };
    answer.write(output, READ)?;
    Ok(true)
}
