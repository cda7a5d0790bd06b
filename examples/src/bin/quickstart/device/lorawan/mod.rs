//! A LoRaWAN device of class A: joins, sends a confirmed message again until it is acknowledged, and
//! hears commands in the windows after what it says.

mod air;
mod concentrator;
mod mac;

use std::time::Duration;

use gateway_core::Backoff;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{Device, Lost};
pub(crate) use air::{Air, concentrators};
pub(crate) use mac::Identity;
use mac::{Heard, Session};

/// Devices that join in a second.
const JOINS: f64 = 500.0;
/// From a frame until its last window has passed.
const JOIN_WINDOWS: Duration = Duration::from_millis(6100);
const DATA_WINDOWS: Duration = Duration::from_millis(2100);
/// From there to the same frame again, at most: half of it, and what chance adds (ACK_TIMEOUT).
const REPEAT: Duration = Duration::from_secs(3);
/// How often a device that is to hear commands speaks when it has nothing to say.
const POLL: Duration = Duration::from_secs(1);

/// What the back end asks for, as the devices' maker has it: an interval of 10 s, and to blink 3
/// times.
const COMMANDS: [&[u8]; 2] = [&[1, 10], &[2, 3]];

/// Who a device of the fleet is on air: its number, and a key of its own made of the fleet's secret.
pub(crate) fn identity(device: u32, secret: &str) -> Identity {
    let mut app_key = [0; 16];
    for (own, byte) in app_key.iter_mut().zip(secret.bytes()) {
        *own = byte;
    }
    app_key[12..].copy_from_slice(&device.to_be_bytes());
    Identity {
        dev_eui: u64::from(device),
        app_key,
    }
}

/// Speaks over the air for ever: there is no connection to lose.
pub(super) async fn converse(device: &mut Device) -> Result<(), Lost> {
    let fleet = device.fleet.clone();
    let Some(air) = &fleet.air else { return Ok(()) };
    let hears = fleet.plan.targets().binary_search(&device.number).is_ok();
    let mut session = join(device, air).await;
    device.welcome();
    let mut quiet = POLL;
    loop {
        let heard = tokio::select! {
            biased;
            () = device.series.due() => {
                device.series.goes_out();
                let heard = insist(device, air, &mut session).await;
                device.series.acknowledge();
                Some(heard)
            }
            () = sleep(quiet), if hears => {
                let frame = session.say(None).map_err(std::io::Error::other)?;
                listen(device, air, &mut session, &frame).await
            }
        };
        quiet = match heard {
            Some(Heard { speak: true, .. }) => Duration::ZERO,
            _ => POLL,
        };
    }
}

/// Joins, however long it takes.
async fn join(device: &Device, air: &Air) -> Session {
    let identity = identity(device.number, &device.fleet.secret);
    sleep(Duration::from_secs_f64(f64::from(device.number) / JOINS)).await;
    let backoff = repeats();
    for nonce in 0.. {
        let joined = async {
            let mut heard = air.send(device.number, &identity.join_request(nonce).ok()?);
            let closes = Instant::now() + JOIN_WINDOWS;
            let sent = timeout_at(closes, heard.recv()).await.ok()??;
            sleep_until(sent.at).await;
            let joined = identity.joined(nonce, &sent.frame);
            joined.map_err(|error| device.complain(error)).ok()
        };
        if let Some(session) = joined.await {
            return session;
        }
        device.complain("a join was not answered");
        sleep(backoff.delay(0)).await;
    }
    // So many nonces has no device.
    std::future::pending().await
}

/// Sends the message in hand until it is acknowledged.
async fn insist(device: &Device, air: &Air, session: &mut Session) -> Heard {
    let count = device.series.current();
    let temperature = (200 + count % 100) as u16;
    let payload = [&count.to_be_bytes()[..], &temperature.to_be_bytes()].concat();
    let backoff = repeats();
    let frame = session.say(Some(&payload)).unwrap_or_default();
    loop {
        match listen(device, air, session, &frame).await {
            Some(heard) if heard.ack => return heard,
            _ => sleep(backoff.delay(0)).await,
        }
    }
}

/// Sends a frame, and hears what comes in its windows.
async fn listen(device: &Device, air: &Air, session: &mut Session, frame: &[u8]) -> Option<Heard> {
    let mut heard = air.send(device.number, frame);
    let closes = Instant::now() + DATA_WINDOWS;
    loop {
        let sent = timeout_at(closes, heard.recv()).await.ok()??;
        sleep_until(sent.at).await;
        match session.read(&sent.frame) {
            Ok(read) if sent.is_heard() => {
                if !read.payload.is_empty() && !COMMANDS.contains(&&read.payload[..]) {
                    device.complain(format!("{:?} is no command", read.payload));
                }
                return Some(read);
            }
            Ok(_) => device.complain("a downlink was where nobody listens"),
            Err(error) => device.complain(error),
        }
    }
}

fn repeats() -> Backoff {
    Backoff::new(REPEAT, REPEAT).unwrap_or_default()
}
