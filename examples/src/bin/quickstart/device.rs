//! One device: sends a message, waits for its acknowledgement, sends the next; answers commands.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::Backoff;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::frames::{Frame, Writer};
use crate::plan::device_id;
use crate::verdict::Told;

/// What is read at once: some acknowledgements or a command. Twenty thousand devices have one each.
const READ_BUFFER: usize = 512;

/// What happens next to the message in hand.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// It goes out when the fleet starts.
    Start,
    /// It goes out at this time.
    At(Instant),
    /// It is out: its acknowledgement comes.
    Out,
    /// There is none left.
    Done,
}

#[derive(Debug)]
pub(crate) struct Device {
    fleet: Arc<Fleet>,
    writer: Writer,
    stays: bool,
    is_known: bool,
    /// The sequence number of the message in hand.
    current: u32,
    turn: Turn,
    /// When the message in hand went out first.
    first_out: Option<Instant>,
    acked: Vec<u32>,
    output: Vec<u8>,
}

impl Device {
    pub(crate) fn new(fleet: Arc<Fleet>, number: u32) -> Self {
        Self {
            stays: fleet.plan.stays(number),
            fleet,
            writer: Writer::new(device_id(number)),
            is_known: false,
            current: 1,
            turn: Turn::Start,
            first_out: None,
            acked: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Lives until everything is sent, or until it is stopped if it stays; tells what it was told.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Told {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.live() => {}
        }
        Told {
            device: self.writer.device().to_owned(),
            acked: self.acked,
        }
    }

    async fn live(&mut self) {
        let fleet = self.fleet.clone();
        // Closed never.
        let Ok(_place) = fleet.places.acquire().await else {
            return;
        };
        let backoff = Backoff::default();
        let mut failures = 0;
        loop {
            let acked = self.acked.len();
            let Err(lost) = self.converse().await else {
                return;
            };
            fleet
                .progress
                .complain(format!("{}: {}", self.writer.device(), lost.error));
            failures = if self.acked.len() > acked {
                0
            } else {
                failures + 1
            };
            sleep(
                lost.retry_after
                    .unwrap_or_default()
                    .max(backoff.delay(failures)),
            )
            .await;
        }
    }

    /// Connects and says hello until the gateway has let the device in.
    async fn knock(&mut self) -> Result<BufReader<TcpStream>, Lost> {
        let fleet = self.fleet.clone();
        let _turn = fleet.door.acquire().await;
        let mut stream = TcpStream::connect(fleet.gateway).await?;
        stream.set_nodelay(true)?;
        let mut hello = Vec::new();
        self.writer
            .hello(&fleet.secret, fleet.plan.listens(), &mut hello);
        stream.write_all(&hello).await?;
        let mut reader = BufReader::with_capacity(READ_BUFFER, stream);
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).await?;
        let frame = parse(&line)?;
        if frame.kind != "welcome" {
            return Err(Lost::because(&frame));
        }
        if !std::mem::replace(&mut self.is_known, true) {
            fleet.progress.welcomed.send_modify(|count| *count += 1);
        }
        Ok(reader)
    }

    /// Speaks with the gateway over one connection, to its end or until all is said.
    async fn converse(&mut self) -> Result<(), Lost> {
        let mut stream = self.knock().await?;
        let fleet = self.fleet.clone();
        let mut line = Vec::new();
        self.output.clear();
        if let Turn::Out = self.turn {
            // Whether the hub has it is not known: it goes out again, under the same id.
            self.send();
        }
        loop {
            if !self.output.is_empty() {
                stream.get_mut().write_all(&self.output).await?;
                self.output.clear();
            }
            if matches!(self.turn, Turn::Done) && !self.stays {
                return Ok(());
            }
            tokio::select! {
                // What was read stays in `line` when the other branch wins.
                read = stream.read_until(b'\n', &mut line) => {
                    read?;
                    self.take(&parse(&line)?)?;
                    line.clear();
                }
                () = due(&fleet, self.turn) => match self.turn {
                    Turn::Start => self.send_in_time(),
                    _ => self.send(),
                }
            }
        }
    }

    fn send_in_time(&mut self) {
        match self.fleet.next_due() {
            Some(due) => self.turn = Turn::At(due),
            None => self.send(),
        }
    }

    fn send(&mut self) {
        self.writer.telemetry(self.current, &mut self.output);
        self.turn = Turn::Out;
        self.first_out.get_or_insert_with(|| {
            self.fleet.progress.sent.add();
            Instant::now()
        });
    }

    fn take(&mut self, frame: &Frame<'_>) -> Result<(), Lost> {
        let is_current = frame.seq == Some(self.current) && matches!(self.turn, Turn::Out);
        match (frame.kind, frame.retry_after_ms) {
            ("ack", _) if is_current => {
                let first_out = self.first_out.take().unwrap_or_else(Instant::now);
                self.acked.push(self.current);
                self.fleet.progress.acknowledge(first_out.elapsed());
                self.next();
            }
            ("nack", Some(after)) if is_current => {
                self.turn = Turn::At(Instant::now() + Duration::from_millis(after));
            }
            ("nack", None) if is_current => {
                self.first_out = None;
                self.complain(frame);
                self.fleet.progress.refuse();
                self.next();
            }
            ("c2d", _) => {
                if let Some(tag) = frame.tag {
                    self.writer.c2d_ack(tag, &mut self.output);
                }
            }
            ("method", _) => {
                if let Some(id) = frame.id {
                    self.writer.method_response(id, &mut self.output);
                }
            }
            ("bye", _) => return Err(Lost::because(frame)),
            ("error", _) => self.complain(frame),
            _ => {}
        }
        Ok(())
    }

    fn complain(&self, frame: &Frame<'_>) {
        let device = self.writer.device();
        self.fleet
            .progress
            .complain(format!("{device}: {}", frame.words()));
    }

    fn next(&mut self) {
        if self.current == self.fleet.plan.messages {
            self.turn = Turn::Done;
        } else {
            self.current += 1;
            self.send_in_time();
        }
    }
}

async fn due(fleet: &Fleet, turn: Turn) {
    match turn {
        Turn::Start => fleet.go.cancelled().await,
        Turn::At(due) => sleep_until(due).await,
        Turn::Out | Turn::Done => std::future::pending().await,
    }
}

/// Reads a whole line; a part of one is all there is when the connection ends.
fn parse(line: &[u8]) -> Result<Frame<'_>, Lost> {
    match line.ends_with(b"\n") {
        true => Ok(Frame::parse(line).map_err(io::Error::from)?),
        false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

/// The connection is gone.
#[derive(Debug)]
struct Lost {
    error: io::Error,
    retry_after: Option<Duration>,
}

impl Lost {
    fn because(frame: &Frame<'_>) -> Self {
        let error = io::Error::new(io::ErrorKind::ConnectionAborted, frame.words());
        Self {
            error,
            retry_after: frame.retry_after_ms.map(Duration::from_millis),
        }
    }
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self {
            error,
            retry_after: None,
        }
    }
}
