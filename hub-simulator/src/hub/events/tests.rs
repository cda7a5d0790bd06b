use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::hub::peer::{Notice, Peer, Route, Subscriber};
use crate::hub::registry::AuthMethod;
use crate::hub::stamps::Stamps;

fn log(events: usize, bytes: usize) -> Arc<EventLog> {
    let layout = Layout {
        partitions: 1,
        groups: vec!["second".to_owned()],
    };
    Arc::new(EventLog::new(layout, EventRetention::new(events, bytes)))
}

/// Appends events of one byte each, one a second.
fn append(log: &EventLog, bytes: impl IntoIterator<Item = u8>) {
    let stamps = Stamps::new("d", AuthMethod::IdentityKey, 1, None);
    for byte in bytes {
        let mut batch = EventBatch::default();
        batch.push(0, &stamps, &[byte]);
        log.append(&mut batch, at(byte));
    }
}

fn at(second: u8) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second.into())
}

fn claim(peer: &Arc<Peer>, by: By, inclusive: bool) -> Claim {
    Claim {
        group: 0,
        partition: 0,
        position: Position { by, inclusive },
        epoch: None,
        name: None,
        subscriber: Subscriber {
            peer: Arc::clone(peer),
            route: Route(7),
        },
    }
}

fn read_from(log: &Arc<EventLog>, by: By, inclusive: bool) -> Result<Vec<i64>, Refusal> {
    let mut reader = Reader::enter(log, claim(&Arc::new(Peer::new()), by, inclusive))?;
    Ok(std::iter::from_fn(|| reader.read())
        .map(|read| read.sequence)
        .collect())
}

#[test]
fn a_reader_starts_behind_or_at_what_it_names() {
    let log = log(100, 10_000);
    append(&log, 0..5);
    for (by, behind, at) in [
        (By::Offset(-1), 0..5, 0..5),
        (By::Offset(1), 2..5, 1..5),
        (By::Sequence(-1), 0..5, 0..5),
        (By::Sequence(3), 4..5, 3..5),
        (By::Sequence(4), 5..5, 4..5),
        (By::Enqueued(2000), 3..5, 2..5),
        (By::Enqueued(2001), 3..5, 3..5),
        (By::Enqueued(i64::MAX), 5..5, 5..5),
        (By::Latest, 5..5, 4..5),
    ] {
        assert_eq!(read_from(&log, by, false), Ok(behind.collect()), "> {by:?}");
        assert_eq!(read_from(&log, by, true), Ok(at.collect()), ">= {by:?}");
    }
}

#[test]
fn a_place_that_was_never_reached_is_refused() {
    let log = log(100, 10_000);
    append(&log, 0..5);
    let asked = 5;
    assert_eq!(
        read_from(&log, By::Offset(asked), true),
        Err(Refusal::Offset { asked, last: 4 })
    );
    assert_eq!(
        read_from(&log, By::Sequence(asked), false),
        Err(Refusal::Sequence { asked, last: 4 })
    );
    assert_eq!(read_from(&log, By::Sequence(asked), true), Ok(vec![]));
    let far = read_from(&log, By::Sequence(i64::MAX), false);
    assert!(matches!(far, Err(Refusal::Sequence { .. })));
}

#[test]
fn what_is_forgotten_keeps_its_numbers() {
    let one = 1 + size_of::<Event>();
    for log in [log(3, 10_000), log(100, 3 * one)] {
        append(&log, 0..10);
        assert_eq!(read_from(&log, By::Offset(-1), false), Ok(vec![7, 8, 9]));
        assert_eq!(read_from(&log, By::Sequence(2), false), Ok(vec![7, 8, 9]));
        let info = log.info(0).unwrap();
        assert_eq!((info.first_sequence, info.last.sequence), (7, 9));
        assert_eq!((info.last.offset, info.last.enqueued), (9, 9000));
    }
}

#[test]
fn a_reader_that_fell_behind_goes_on_with_the_oldest_event_there_is() {
    let log = log(3, 10_000);
    append(&log, 0..3);
    let mut reader =
        Reader::enter(&log, claim(&Arc::new(Peer::new()), By::Offset(-1), false)).unwrap();
    assert_eq!(reader.read().unwrap().sequence, 0);
    append(&log, 3..10);
    assert_eq!(reader.read().unwrap().sequence, 7);
}

#[test]
fn times_never_fall() {
    let log = log(100, 10_000);
    append(&log, [5, 3, 6]);
    assert_eq!(log.info(0).unwrap().last.enqueued, 6000);
    assert_eq!(
        read_from(&log, By::Enqueued(4000), false),
        Ok(vec![0, 1, 2])
    );
}

#[test]
fn a_reader_that_has_read_everything_is_told_of_more_once() {
    let log = log(100, 10_000);
    let peer = Arc::new(Peer::new());
    let mut reader = Reader::enter(&log, claim(&peer, By::Offset(-1), false)).unwrap();
    append(&log, [0]);
    assert!(peer.collect().is_empty());
    assert!(reader.read().is_some() && reader.read().is_none());
    append(&log, [1, 2]);
    assert!(matches!(*peer.collect(), [Notice::MessageReady(Route(7))]));
    append(&log, [3]);
    assert!(peer.collect().is_empty());
    let rest: Vec<i64> = std::iter::from_fn(|| reader.read())
        .map(|read| read.sequence)
        .collect();
    assert_eq!(rest, [1, 2, 3]);
}

#[test]
fn the_highest_epoch_reads_alone() {
    let log = log(100, 10_000);
    let peer = Arc::new(Peer::new());
    let enter = |epoch, group| {
        let claim = Claim {
            epoch,
            group,
            ..claim(&peer, By::Latest, false)
        };
        Reader::enter(&log, claim)
    };
    let stolen = || {
        let notices = peer.collect();
        let texts = notices.into_iter().map(|notice| match notice {
            Notice::Stolen(_, text) => text.to_string(),
            other => panic!("{other:?}"),
        });
        texts.collect::<Vec<_>>()
    };
    let plain = enter(None, 0).unwrap();
    let other_group = enter(None, 1).unwrap();
    let first = enter(Some(1), 0).unwrap();
    let text = stolen();
    assert!(text[0].starts_with("New receiver 'nil' with higher epoch of '1' is created"));
    assert_eq!(text.len(), 1, "{text:?}");
    assert_eq!(enter(None, 0).unwrap_err(), Refusal::EpochRequired(1));
    let lower = enter(Some(0), 0).unwrap_err();
    assert!(matches!(
        lower,
        Refusal::HigherEpoch {
            held: 1,
            asked: 0,
            ..
        }
    ));
    // The same epoch takes over too, as it does at the real hub.
    let second = enter(Some(1), 0).unwrap();
    assert_eq!(stolen().len(), 1);
    drop((plain, first));
    assert_eq!(enter(None, 0).unwrap_err(), Refusal::EpochRequired(1));
    drop((second, other_group));
    assert!(enter(None, 0).is_ok());
}

#[test]
fn five_readers_without_an_epoch_are_enough_for_a_group() {
    let log = log(100, 10_000);
    let peer = Arc::new(Peer::new());
    let enter = |group| {
        let claim = Claim {
            group,
            ..claim(&peer, By::Latest, false)
        };
        Reader::enter(&log, claim)
    };
    let mut five: Vec<Reader> = (0..5).map(|_| enter(0).unwrap()).collect();
    let refusal = enter(0).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::TooMany("nil, nil, nil, nil, nil".to_owned())
    );
    assert!(enter(1).is_ok());
    five.pop();
    assert!(enter(0).is_ok());
}

#[test]
fn a_device_has_one_partition_and_devices_use_all() {
    let layout = Layout {
        partitions: 32,
        ..Layout::default()
    };
    let log = EventLog::new(layout, EventRetention::default());
    let used: std::collections::BTreeSet<_> = (0..1000)
        .map(|number| log.partition_of(&format!("device-{number}")))
        .collect();
    assert_eq!(used.len(), 32);
    // Stable over versions: bookmarks of readers depend on it.
    let four = EventLog::new(Layout::default(), EventRetention::default());
    let places = ["device-1", "device-2", "sensor-a", "x"].map(|id| four.partition_of(id));
    assert_eq!(places, [Some(0), Some(1), Some(3), Some(3)]);
    let none = EventLog::new(Layout::default(), EventRetention::NOTHING);
    assert_eq!(none.partition_of("x"), None);
}

#[test]
fn what_is_taken_back_is_never_appended() {
    let log = log(100, 10_000);
    let stamps = Stamps::new("d", AuthMethod::IdentityKey, 1, None);
    let mut batch = EventBatch::default();
    batch.push(0, &stamps, b"kept");
    let mark = batch.mark(0);
    batch.push(0, &stamps, b"taken back");
    batch.back_to(0, mark);
    batch.push(0, &stamps, b"");
    batch.push(0, &stamps, b"and this");
    log.append(&mut batch, at(1));
    let claim = claim(&Arc::new(Peer::new()), By::Offset(-1), false);
    let mut reader = Reader::enter(&log, claim).unwrap();
    let read: Vec<Vec<u8>> = std::iter::from_fn(|| reader.read())
        .map(|read| read.event.message().to_vec())
        .collect();
    assert_eq!(read, [&b"kept"[..], b"", b"and this"]);
}
