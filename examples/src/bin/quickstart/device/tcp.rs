//! A device on TCP that speaks JSON lines.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::frames::{Frame, Writer};
use super::{Device, Lost};

/// What is read at once: some acknowledgements or a command. Twenty thousand devices have one each.
const READ_BUFFER: usize = 512;

/// Speaks with the gateway over one connection, to its end or until all is said.
pub(super) async fn converse(device: &mut Device) -> Result<(), Lost> {
    let writer = Writer::new(device.id.clone());
    let mut stream = knock(device, &writer).await?;
    let (mut line, mut output) = (Vec::new(), Vec::new());
    if device.series.is_out() {
        // Whether the hub has it is not known: it goes out again, under the same id.
        writer.telemetry(device.series.current(), &mut output);
    }
    loop {
        if !output.is_empty() {
            stream.get_mut().write_all(&output).await?;
            output.clear();
        }
        if device.series.is_done() && !device.stays {
            return Ok(());
        }
        tokio::select! {
            // What was read stays in `line` when the other branch wins.
            read = stream.read_until(b'\n', &mut line) => {
                read?;
                take(device, &writer, &parse(&line)?, &mut output)?;
                line.clear();
            }
            () = device.series.due() => {
                device.series.goes_out();
                writer.telemetry(device.series.current(), &mut output);
            }
        }
    }
}

/// Connects and says hello until the gateway has let the device in.
async fn knock(device: &mut Device, writer: &Writer) -> Result<BufReader<TcpStream>, Lost> {
    let fleet = device.fleet.clone();
    let _turn = fleet.door.acquire().await;
    let mut stream = TcpStream::connect(fleet.gateway).await?;
    stream.set_nodelay(true)?;
    let mut hello = Vec::new();
    writer.hello(&fleet.secret, fleet.plan.listens(), &mut hello);
    stream.write_all(&hello).await?;
    let mut reader = BufReader::with_capacity(READ_BUFFER, stream);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    let frame = parse(&line)?;
    if frame.kind != "welcome" {
        return Err(lost_by(&frame));
    }
    device.welcome();
    Ok(reader)
}

fn take(
    device: &mut Device,
    writer: &Writer,
    frame: &Frame<'_>,
    output: &mut Vec<u8>,
) -> Result<(), Lost> {
    let series = &mut device.series;
    let is_current = frame.seq == Some(series.current()) && series.is_out();
    match (frame.kind, frame.retry_after_ms) {
        ("ack", _) if is_current => series.acknowledge(),
        ("nack", Some(after)) if is_current => series.put_off(Duration::from_millis(after)),
        ("nack", None) if is_current => {
            series.refuse();
            device.complain(frame.words());
        }
        ("c2d", _) => {
            if let Some(tag) = frame.tag {
                writer.c2d_ack(tag, output);
            }
        }
        ("method", _) => {
            if let Some(id) = frame.id {
                writer.method_response(id, output);
            }
        }
        ("bye", _) => return Err(lost_by(frame)),
        ("error", _) => device.complain(frame.words()),
        _ => {}
    }
    Ok(())
}

/// Reads a whole line; a part of one is all there is when the connection ends.
fn parse(line: &[u8]) -> Result<Frame<'_>, Lost> {
    match line.ends_with(b"\n") {
        true => Ok(Frame::parse(line).map_err(io::Error::from)?),
        false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

fn lost_by(frame: &Frame<'_>) -> Lost {
    let retry_after = frame.retry_after_ms.map(Duration::from_millis);
    Lost::because(frame.words(), retry_after)
}
