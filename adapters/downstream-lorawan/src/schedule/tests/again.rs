//! Commands that the hub gives out again.

use super::*;

/// A confirmed command that was transmitted, and that its sender gave up before its device said
/// anything.
fn orphan(schedule: &mut Schedule<&'static str>, now: Instant) -> DownlinkId {
    let command = command(1, now).confirmed().with_origin("c2d-1", false);
    drop(push(schedule, command, "gave up", now));
    let sent = uplink(schedule, now).unwrap();
    drop(schedule.transmitted(&transmitted(&sent.id), now));
    let withdrawn = schedule.withdraw(DEVICE, &sent.id, now + LOCK);
    assert!(matches!(withdrawn, Withdrawn::Transmitted(_)));
    sent.id
}

fn again(schedule: &mut Schedule<&'static str>, now: Instant) -> Actions<&'static str> {
    let command = command(1, now).confirmed().with_origin("c2d-1", true);
    push(schedule, command, "again", now)
}

#[test]
fn what_a_device_confirms_after_its_sender_gave_up_is_not_sent_again() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let id = orphan(&mut schedule, now);
    drop(schedule.acknowledged(&DeviceAck::new(DEVICE, id, true), now));
    assert_eq!(uplink(&mut schedule, now), None);
    let actions = again(&mut schedule, now);
    assert_eq!(actions.ended, [("again", Ok(Outcome::Acknowledged))]);
    assert!(actions.send.is_none());
    // It is told once.
    assert!(again(&mut schedule, now).send.is_some());
}

#[test]
fn what_comes_again_before_the_device_has_said_anything_waits_for_its_word() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let id = orphan(&mut schedule, now);
    let actions = again(&mut schedule, now);
    assert!(actions.ended.is_empty() && actions.send.is_none());
    assert_eq!(uplink(&mut schedule, now), None);
    let actions = schedule.acknowledged(&DeviceAck::new(DEVICE, id, true), now);
    assert_eq!(actions.ended, [("again", Ok(Outcome::Acknowledged))]);
}

#[test]
fn what_comes_again_a_third_time_still_waits_for_the_devices_word() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let id = orphan(&mut schedule, now);
    let mut later = now + LOCK;
    for _ in 0..3 {
        let command = command(1, later).confirmed().with_origin("c2d-1", true);
        let second = command.id.clone();
        let actions = push(&mut schedule, command, "again", later);
        assert!(actions.ended.is_empty() && actions.send.is_none());
        let first = schedule.withdraw(DEVICE, &id, later);
        assert!(matches!(first, Withdrawn::Ended), "it was taken back");
        let withdrawn = schedule.withdraw(DEVICE, &second, later);
        assert!(matches!(withdrawn, Withdrawn::Transmitted(_)));
        later += LOCK;
    }
    let command = command(1, later).confirmed().with_origin("c2d-1", true);
    drop(push(&mut schedule, command, "at last", later));
    let actions = schedule.acknowledged(&DeviceAck::new(DEVICE, id, true), later);
    assert_eq!(actions.ended, [("at last", Ok(Outcome::Acknowledged))]);
}

#[test]
fn what_a_device_did_not_hear_is_sent_when_it_comes_again() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let id = orphan(&mut schedule, now);
    drop(schedule.acknowledged(&DeviceAck::new(DEVICE, id, false), now));
    assert_eq!(uplink(&mut schedule, now), None);
    let sent = again(&mut schedule, now).send.unwrap();
    drop(schedule.transmitted(&transmitted(&sent.id), now));
    drop(schedule.withdraw(DEVICE, &sent.id, now));
    for _ in 0..2 {
        assert_eq!(uplink(&mut schedule, now), None);
    }
    assert!(
        again(&mut schedule, now).send.is_some(),
        "nobody confirms it"
    );
}

#[test]
fn another_message_under_the_same_name_is_sent() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let id = orphan(&mut schedule, now);
    drop(schedule.acknowledged(&DeviceAck::new(DEVICE, id, true), now));
    let other = command(1, now).confirmed().with_origin("c2d-1", false);
    drop(push(&mut schedule, other, "other", now));
    assert!(uplink(&mut schedule, now).is_some());
}
