//! A gateway for trackers that speak a binary protocol of their own.
//!
//! `cargo run --example custom_protocol` starts a gateway over a hub in memory, lets one tracker
//! talk to it, and prints what happened.
//!
//! The protocol is made up after real ones (Teltonika Codec 8, GT06). A frame is a length of two
//! bytes, a type, and content; all numbers are big-endian.
//!
//! | type | tracker | gateway |
//! | --- | --- | --- |
//! | 1 login | 15 digits (IMEI) | 1 let in |
//! | 2 records | count, then 14 bytes each: time, latitude, longitude (1e-7 degrees), km/h | how many the hub has |
//! | 3 command | serial (2), 0 done or 1 refused | serial (2), text |
//! | 4 heartbeat | | |
//!
//! The answer to records *is* the delivery contract: a tracker deletes what was counted and sends
//! the rest again.

#![expect(clippy::print_stdout, reason = "it shows what happens")]

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gateway_core::credential::{HubPolicyCredentials, SharedAccessPolicy, SymmetricKey};
use gateway_core::testkit::MemoryUpstream;
use gateway_core::{
    CloudMessage, Delivered, DeviceId, Downlink, ErrorKind, Gateway, Interest, MessageId,
    Settlement, Uplink,
};
use gateway_downstream_tcp::proto::{
    Actions, Command, Confirmation, Endian, FrameCodec, FrameError, Framing, Login, Peer, Proof,
    Protocol, Refusal,
};
use gateway_downstream_tcp::{TcpConfig, TcpDownstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const LOGIN: u8 = 1;
const RECORDS: u8 = 2;
const COMMAND: u8 = 3;
const HEARTBEAT: u8 = 4;
const RECORD_SIZE: usize = 14;

/// One tracker's connection.
struct Tracker {
    frames: FrameCodec,
    device: Option<DeviceId>,
    next_token: u64,
    /// Batches that are not answered yet, oldest first.
    batches: VecDeque<Batch>,
}

/// The records of one frame, under consecutive tokens.
struct Batch {
    first_token: u64,
    verdicts: Vec<Option<bool>>,
}

impl Tracker {
    fn new() -> Self {
        let framing = Framing::LengthPrefixed {
            bytes: 2,
            endian: Endian::Big,
            includes_header: false,
        };
        Self {
            frames: FrameCodec::new(framing, 1024),
            device: None,
            next_token: 0,
            batches: VecDeque::new(),
        }
    }

    fn send(&self, actions: &mut Actions, kind: u8, content: &[u8]) -> Result<(), FrameError> {
        self.frames.encode(actions.output(), |output| {
            output.put_u8(kind);
            output.put_slice(content);
        })
    }

    /// Takes a frame; none if it makes no sense.
    fn take(&mut self, mut frame: Bytes, actions: &mut Actions) -> Option<()> {
        match (frame.try_get_u8().ok()?, self.device.clone()) {
            (LOGIN, None) if frame.len() == 15 && frame.iter().all(u8::is_ascii_digit) => {
                let device = DeviceId::new(std::str::from_utf8(&frame).ok()?).ok()?;
                // An IMEI is no secret: see `TcpConfig::identity`.
                actions.identify(Login::new(device, Proof::None));
            }
            (RECORDS, Some(device)) => {
                let count = usize::from(frame.try_get_u8().ok()?);
                if count == 0 || frame.len() != count * RECORD_SIZE {
                    return None;
                }
                let first_token = self.next_token;
                self.next_token += count as u64;
                self.batches.push_back(Batch {
                    first_token,
                    verdicts: vec![None; count],
                });
                for token in first_token..self.next_token {
                    let record = frame.split_to(RECORD_SIZE);
                    actions.uplink(token, uplink(device.clone(), record)?);
                }
            }
            (COMMAND, Some(_)) => {
                let serial = frame.try_get_u16().ok()?;
                actions.done(
                    serial.into(),
                    match frame.try_get_u8().ok()? {
                        0 => Ok(Delivered::Acknowledged),
                        _ => Err(ErrorKind::Rejected),
                    },
                );
            }
            (HEARTBEAT, Some(_)) => self.send(actions, HEARTBEAT, &[]).ok()?,
            _ => return None,
        }
        Some(())
    }
}

/// Makes a record a message. Its id comes from the record, so that one sent again has the same.
fn uplink(device: DeviceId, mut record: Bytes) -> Option<Uplink> {
    let time = record.try_get_u32().ok()?;
    let (latitude, longitude) = (record.try_get_i32().ok()?, record.try_get_i32().ok()?);
    let speed = record.try_get_u16().ok()?;
    let id = MessageId::new(format!("{device}-{time}")).ok()?;
    let degrees = |value| f64::from(value) / 1e7;
    let body = format!(
        r#"{{"time":{time},"lat":{},"lon":{},"kmh":{speed}}}"#,
        degrees(latitude),
        degrees(longitude),
    );
    Some(Uplink::new(device, id, body).with_content("application/json", Some("utf-8")))
}

impl Protocol for Tracker {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        self.frames.decode(input)
    }

    fn on_frame(&mut self, frame: Bytes, actions: &mut Actions) {
        if self.take(frame, actions).is_none() {
            // The protocol has no word for "wrong"; a tracker starts anew when it is cut off.
            actions.close();
        }
    }

    fn on_login(&mut self, verdict: Result<&DeviceId, &Refusal>, actions: &mut Actions) {
        self.device = verdict.ok().cloned();
        self.send(actions, LOGIN, &[verdict.is_ok().into()])
            .expect("two bytes fit");
    }

    fn on_settled(&mut self, token: u64, settlement: Settlement, actions: &mut Actions) {
        for batch in &mut self.batches {
            let at = token.wrapping_sub(batch.first_token) as usize;
            if let Some(verdict) = batch.verdicts.get_mut(at) {
                *verdict = Some(settlement == Settlement::Accepted);
            }
        }
        // Batches are answered in order, each when all its records have their verdict.
        while let Some(batch) = self.batches.front()
            && batch.verdicts.iter().all(Option::is_some)
        {
            // Counted from the front: the tracker sends everything behind the first gap again. For a
            // record that the hub refuses for good this protocol has no word: drop it before it gets
            // here, or the tracker sends it for ever.
            let had = batch
                .verdicts
                .iter()
                .take_while(|verdict| **verdict == Some(true))
                .count();
            self.send(actions, RECORDS, &[had as u8])
                .expect("two bytes fit");
            self.batches.pop_front();
        }
    }

    fn on_command(
        &mut self,
        command: Command<'_>,
        actions: &mut Actions,
    ) -> Result<Confirmation, ErrorKind> {
        let Downlink::Message(message) = command.downlink else {
            return Err(ErrorKind::Unsupported);
        };
        // Tags count up from 1; after 65,535 commands the tracker has to connect anew.
        let serial = u16::try_from(command.tag).map_err(|_| ErrorKind::Throttled)?;
        let content = [&serial.to_be_bytes(), &message.body[..]].concat();
        self.send(actions, COMMAND, &content)
            .map_err(|_| ErrorKind::TooLarge)?;
        Ok(Confirmation::Awaited)
    }
}

/// What a tracker does: logs in, sends two records, obeys one command.
async fn drive(address: std::net::SocketAddr) -> anyhow::Result<()> {
    async fn send(stream: &mut TcpStream, kind: u8, content: &[u8]) -> anyhow::Result<()> {
        let length = u16::try_from(content.len() + 1)?;
        stream
            .write_all(&[&length.to_be_bytes()[..], &[kind], content].concat())
            .await?;
        Ok(())
    }
    async fn receive(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
        let mut frame = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut frame).await?;
        Ok(frame)
    }
    let mut stream = TcpStream::connect(address).await?;
    send(&mut stream, LOGIN, b"356307042441013").await?;
    anyhow::ensure!(
        receive(&mut stream).await? == [LOGIN, 1],
        "the login was refused"
    );
    println!("tracker: let in");

    let mut records = vec![2];
    for (time, speed) in [(1_767_225_600_u32, 42_u16), (1_767_225_610, 47)] {
        records.put_u32(time);
        records.put_i32(525_200_000);
        records.put_i32(134_050_000);
        records.put_u16(speed);
    }
    send(&mut stream, RECORDS, &records).await?;
    let answer = receive(&mut stream).await?;
    anyhow::ensure!(
        answer == [RECORDS, 2],
        "not every record was taken: {answer:?}"
    );
    println!("tracker: the hub has {} records", answer[1]);

    let command = receive(&mut stream).await?;
    let (serial, text) = command[1..].split_at(2);
    println!("tracker: told to {:?}", String::from_utf8_lossy(text));
    send(&mut stream, COMMAND, &[serial, &[0]].concat()).await?;
    // Gone when the gateway says so.
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut config = TcpConfig::default();
    config.listen.set_port(0);
    config.identity.trust_any_id = true;
    let trackers = TcpDownstream::builder(config)
        .with_protocol(|_: &Peer| Tracker::new())
        .bind()
        .await?;
    let address = trackers.local_addr();

    let hub = MemoryUpstream::new();
    let policy = SharedAccessPolicy::new("device", SymmetricKey::from_base64("c2VjcmV0")?);
    let gateway = Gateway::builder(hub.clone())
        .with_credentials(HubPolicyCredentials::new(policy))
        .with_downstream("trackers", trackers)
        .build()?;

    let shutdown = CancellationToken::new();
    let operator = async {
        let accepted = hub.wait_accepted(2).await;
        for uplink in &accepted {
            println!(
                "hub: {} {}",
                uplink.id,
                String::from_utf8_lossy(&uplink.body)
            );
        }
        let device = accepted[0].device.clone();
        hub.wait_listening(&device, Interest::COMMANDS).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        let command = CloudMessage::new(device, "setparam 1001:60", deadline);
        println!(
            "hub: the command ended as {:?}",
            hub.send_message(command).await
        );
        shutdown.cancel();
    };
    let (report, (), driven) =
        tokio::join!(gateway.run(shutdown.clone()), operator, drive(address));
    driven?;
    println!("gateway: {:?}", report?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rest is sent again, whatever the hub took behind the gap.
    #[test]
    fn only_records_before_the_first_gap_are_counted() {
        let mut tracker = Tracker::new();
        let mut actions = Actions::new();
        let device = DeviceId::new("356307042441013").unwrap();
        tracker.on_login(Ok(&device), &mut actions);
        actions.output().clear();
        let records = [&[RECORDS, 3][..], &[0; 3 * RECORD_SIZE]].concat();
        tracker.on_frame(records.into(), &mut actions);
        assert_eq!(actions.take_requests().len(), 3);
        for (token, settlement) in [
            (2, Settlement::Accepted),
            (1, Settlement::Rejected(ErrorKind::TooLarge)),
            (0, Settlement::Accepted),
        ] {
            assert!(actions.output().is_empty(), "answered before every verdict");
            tracker.on_settled(token, settlement, &mut actions);
        }
        assert_eq!(&actions.output()[..], [0, 2, RECORDS, 1]);
    }
}
