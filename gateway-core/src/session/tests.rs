use std::sync::Weak;
use std::time::Duration;

use tokio::time::sleep;

use super::*;
use crate::config::GatewayConfig;
use crate::credential::{HubPolicyCredentials, SasToken, SharedAccessPolicy, SymmetricKey};
use crate::error::ErrorKind;
use crate::testkit::{MemoryUpstream, RecordingCallback};
use crate::upstream::Interest;

const CAPACITY: usize = 100;

fn table(hub: &MemoryUpstream) -> Arc<SessionTable> {
    let mut config = GatewayConfig::default();
    config.sessions.capacity = CAPACITY;
    config.sessions.idle_ttl = Duration::from_secs(80);
    let key = SymmetricKey::from_base64("c2VjcmV0").unwrap();
    let credentials = HubPolicyCredentials::new(SharedAccessPolicy::new("device", key));
    let callback = RecordingCallback::new().shared();
    let hub = Arc::new(hub.clone());
    Arc::new(SessionTable::new(
        &config,
        hub,
        Arc::new(credentials),
        callback,
    ))
}

/// What stays after a churn of any number of devices is an empty table: it gives the room of its map
/// back with a sweep, and the rest as sessions go.
#[tokio::test(start_paused = true)]
async fn churn_leaves_nothing_behind() {
    const DEVICES: usize = 20_000;
    let hub = MemoryUpstream::new();
    let table = table(&hub);
    let mut seen: Vec<Weak<Session>> = Vec::new();
    let live = |seen: &[Weak<Session>]| seen.iter().filter(|s| s.strong_count() > 0).count();
    for n in 0..DEVICES {
        let device = DeviceId::new(format!("d{n}")).unwrap();
        let busy = loop {
            match table.enter(&device) {
                Ok(busy) => break busy,
                // So many others are on their way out.
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        };
        table.attached(&busy.gate().await).await.unwrap();
        drop(busy.queue(crate::Uplink::new(device, crate::MessageId::random(), "x")));
        assert!(busy.0.backlog.lock().unwrap().is_none());
        seen.push(Arc::downgrade(&busy.0));
        if n % 1000 == 999 {
            let live = live(&seen);
            assert!(live <= CAPACITY + 64, "{live} sessions live");
        }
    }
    sleep(Duration::from_secs(100)).await;
    while table.stats().sessions > 0 {
        table.sweep();
        sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(live(&seen), 0);
    assert_eq!(table.tasks(), 0);
    assert_eq!(hub.attached_devices(), 0);
}

/// A device that is known and not attached is to cost at most 300 bytes; an allocator takes some of
/// them for each of three pieces.
#[test]
fn a_known_device_costs_little() {
    const COUNTS: usize = 16;
    let session = size_of::<Session>() + COUNTS;
    // Key, value, and two links; then a key's and a value's address and a byte, at a fill of 7/16.
    let (entry, slot) = (40, 17 * 16 / 7);
    let id = COUNTS + 24;
    let all = session + entry + slot + id;
    assert!(
        all <= 272,
        "{all} bytes, of which the session has {session}"
    );
}

/// Anybody may present a long token in a device's name, and a session may stay for hours.
#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_kept() {
    let hub = MemoryUpstream::new();
    let table = table(&hub);
    let device = DeviceId::new("d").unwrap();
    let text = format!("SharedAccessSignature sr={}&sig=x&se=1", "x".repeat(1000));
    let token = SasToken::parse(&text).unwrap();
    let busy = table.enter(&device).unwrap();
    for _ in 0..2 {
        let refused = table.online(&busy, Interest::NONE, Some(token.clone()));
        assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::Unauthorized);
        assert_eq!(token.owners(), 1);
    }
}
