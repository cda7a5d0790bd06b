mod again;

use std::collections::HashMap;
use std::num::NonZeroU8;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::event::{FailureReason, Priority, Timing, TransmitResult};

const DEVICE: DevEui = DevEui::new([1; 8]);
const WINDOW: Duration = Duration::from_secs(1);
const LOCK: Duration = Duration::from_secs(60);

fn schedule() -> Schedule<&'static str> {
    Schedule::new(NonZeroUsize::new(4).unwrap(), 3)
}

fn command(port: u8, now: Instant) -> Command {
    Command::new(DEVICE, port, vec![port], now + LOCK)
}

/// Opens a window and gives what goes in it.
fn uplink<T>(schedule: &mut Schedule<T>, now: Instant) -> Option<Downlink> {
    let actions = schedule.uplink(DEVICE, now, now + WINDOW);
    assert!(actions.ended.is_empty());
    actions.send
}

fn push(
    schedule: &mut Schedule<&'static str>,
    command: Command,
    ticket: &'static str,
    now: Instant,
) -> Actions<&'static str> {
    schedule.push(command, ticket, Class::A, now)
}

fn transmitted(id: &DownlinkId) -> TransmitAck {
    TransmitAck::new(DEVICE, id.clone(), Ok(()))
}

#[test]
fn a_command_waits_for_the_next_uplink_and_is_done_when_transmitted() {
    let (mut schedule, now) = (schedule(), Instant::now());
    assert!(
        push(&mut schedule, command(7, now), "one", now)
            .send
            .is_none()
    );
    let sent = uplink(&mut schedule, now + LOCK / 2).unwrap();
    assert_eq!((sent.port, &sent.payload[..]), (7, &[7][..]));
    let closes = now + LOCK / 2 + WINDOW;
    assert_eq!(sent.timing, Timing::Window { closes });
    let actions = schedule.transmitted(&transmitted(&sent.id), now);
    assert_eq!(actions.ended, [("one", Ok(Outcome::Transmitted))]);
    assert_eq!(schedule.pending(DEVICE), 0);
}

#[test]
fn a_command_that_comes_while_the_window_is_open_goes_at_once() {
    let (mut schedule, now) = (schedule(), Instant::now());
    assert_eq!(uplink(&mut schedule, now), None);
    let in_time = now + WINDOW - Duration::from_millis(30);
    assert!(
        push(&mut schedule, command(1, now), "in time", in_time)
            .send
            .is_some()
    );
    assert_eq!(schedule.margins().before[1], 1);
    assert_eq!(schedule.margins().after, [0; 10]);
}

#[test]
fn a_command_that_comes_after_the_window_waits_and_is_counted_as_late() {
    let (mut schedule, now) = (schedule(), Instant::now());
    assert_eq!(uplink(&mut schedule, now), None);
    let late = now + WINDOW + Duration::from_millis(5);
    assert!(
        push(&mut schedule, command(1, now), "late", late)
            .send
            .is_none()
    );
    assert_eq!(schedule.margins().after[0], 1);
    assert!(uplink(&mut schedule, late).is_some());
}

#[test]
fn a_window_takes_one_command_and_says_that_more_wait() {
    let (mut schedule, now) = (schedule(), Instant::now());
    for ticket in ["one", "two"] {
        drop(push(&mut schedule, command(1, now), ticket, now));
    }
    let first = uplink(&mut schedule, now).unwrap();
    assert!(first.more_pending);
    let actions = schedule.transmitted(&transmitted(&first.id), now);
    assert!(actions.send.is_none(), "a window was used twice");
    assert!(!uplink(&mut schedule, now).unwrap().more_pending);
}

#[test]
fn a_confirmed_command_is_done_only_when_the_device_confirmed_it() {
    let (mut schedule, now) = (schedule(), Instant::now());
    drop(push(
        &mut schedule,
        command(1, now).confirmed(),
        "asked",
        now,
    ));
    drop(push(&mut schedule, command(2, now), "next", now));
    let sent = uplink(&mut schedule, now).unwrap();
    assert!(sent.confirmed);
    let actions = schedule.transmitted(&transmitted(&sent.id), now);
    assert!(actions.ended.is_empty());
    // The uplink that brings the acknowledgement opens a window, in which the next one goes.
    assert_eq!(uplink(&mut schedule, now), None);
    let actions = schedule.acknowledged(&DeviceAck::new(DEVICE, sent.id, true), now);
    assert_eq!(actions.ended, [("asked", Ok(Outcome::Acknowledged))]);
    assert_eq!(actions.send.unwrap().port, 2);
}

#[test]
fn what_was_not_acknowledged_or_was_given_up_has_failed() {
    let (mut schedule, now) = (schedule(), Instant::now());
    for ticket in ["silent", "refused"] {
        drop(push(
            &mut schedule,
            command(1, now).confirmed(),
            ticket,
            now,
        ));
    }
    let sent = uplink(&mut schedule, now).unwrap();
    let actions = schedule.acknowledged(&DeviceAck::new(DEVICE, sent.id, false), now);
    assert_eq!(actions.ended, [("silent", Err(Failure::NotAcknowledged))]);
    let sent = uplink(&mut schedule, now).unwrap();
    let failed = DownlinkFailed::new(DEVICE, sent.id, FailureReason::BadPort);
    let outcome = Err(Failure::Network(FailureReason::BadPort));
    assert_eq!(schedule.failed(&failed, now).ended, [("refused", outcome)]);
}

#[test]
fn a_window_that_was_used_stays_used_whatever_is_given_up() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let failed = |id: &DownlinkId| DownlinkFailed::new(DEVICE, id.clone(), FailureReason::Other);
    drop(push(
        &mut schedule,
        command(1, now).confirmed(),
        "in it",
        now,
    ));
    let sent = uplink(&mut schedule, now).unwrap();
    drop(schedule.transmitted(&transmitted(&sent.id), now));
    drop(schedule.push(command(2, now), "beside it", Class::C, now));
    let beside = schedule.failed(&failed(&sent.id), now).send.unwrap();
    assert_eq!(beside.timing, Timing::Immediate);
    drop(push(&mut schedule, command(3, now), "late", now));
    assert_eq!(schedule.failed(&failed(&beside.id), now).send, None);
}

#[test]
fn a_command_that_was_too_late_goes_first_in_the_next_window() {
    let (mut schedule, now) = (schedule(), Instant::now());
    drop(push(&mut schedule, command(1, now), "late", now));
    drop(push(&mut schedule, command(2, now), "behind", now));
    let sent = uplink(&mut schedule, now).unwrap();
    let late = TransmitAck::new(DEVICE, sent.id.clone(), Err(TransmitError::TooLate));
    let actions = schedule.transmitted(&late, now);
    assert!(actions.ended.is_empty() && actions.send.is_none());
    assert_eq!(schedule.margins().too_late, 1);
    assert_eq!(uplink(&mut schedule, now).unwrap().id, sent.id);
}

#[test]
fn a_higher_priority_goes_first_and_equals_keep_their_order() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let urgent = command(3, now).with_priority(Priority::High);
    drop(push(&mut schedule, command(1, now), "one", now));
    drop(push(&mut schedule, command(2, now), "two", now));
    drop(push(&mut schedule, urgent, "urgent", now));
    let mut order = Vec::new();
    while let Some(sent) = uplink(&mut schedule, now) {
        order.push(sent.port);
        drop(schedule.transmitted(&transmitted(&sent.id), now));
    }
    assert_eq!(order, [3, 1, 2]);
}

#[test]
fn an_expired_command_is_never_sent() {
    let (mut schedule, now) = (schedule(), Instant::now());
    drop(push(&mut schedule, command(1, now), "old", now));
    let late = now + LOCK;
    let actions = schedule.uplink(DEVICE, late, late + WINDOW);
    assert!(actions.send.is_none());
    assert_eq!(actions.ended, [("old", Err(Failure::Expired))]);
}

#[test]
fn what_was_transmitted_ends_by_its_device_and_what_was_not_is_withdrawn_in_time() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let late = now + LOCK;
    drop(push(
        &mut schedule,
        command(1, now).confirmed(),
        "asked",
        now,
    ));
    let sent = uplink(&mut schedule, now).unwrap();
    drop(schedule.transmitted(&transmitted(&sent.id), now));
    // A network server may tell of the uplink before what it confirms.
    let actions = schedule.uplink(DEVICE, late, late + WINDOW);
    assert_eq!(actions.ended, []);
    let actions = schedule.acknowledged(&DeviceAck::new(DEVICE, sent.id, true), late);
    assert_eq!(actions.ended, [("asked", Ok(Outcome::Acknowledged))]);

    let sent = push(&mut schedule, command(1, late), "kept", late)
        .send
        .unwrap();
    let later = late + LOCK;
    let actions = schedule.uplink(DEVICE, later, later + WINDOW);
    assert_eq!(actions.ended, [("kept", Err(Failure::Expired))]);
    assert_eq!(actions.withdraw, Some((DEVICE, sent.id)));
}

#[test]
fn uplinks_that_had_to_wait_say_nothing_of_what_was_sent_since() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let asked = command(1, now).confirmed();
    let actions = schedule.push(asked, "asked", Class::C, now);
    let sent = actions.send.unwrap();
    drop(schedule.transmitted(&transmitted(&sent.id), now));
    for before in 1..=5 {
        let heard = now - Duration::from_secs(before);
        let actions = schedule.uplink_heard(DEVICE, heard, now, now);
        assert_eq!(actions.ended, []);
    }
    let actions = schedule.acknowledged(&DeviceAck::new(DEVICE, sent.id, true), now);
    assert_eq!(actions.ended, [("asked", Ok(Outcome::Acknowledged))]);
}

#[test]
fn a_full_queue_refuses_and_a_replacement_makes_room() {
    let (mut schedule, now) = (schedule(), Instant::now());
    for ticket in ["one", "two", "three"] {
        drop(push(&mut schedule, command(1, now), ticket, now));
    }
    let actions = push(&mut schedule, command(2, now), "four", now);
    assert_eq!(actions.ended, [("four", Err(Failure::QueueFull))]);
    let newest = command(1, now).with_mode(QueueMode::Replace);
    let actions = push(&mut schedule, newest, "newest", now);
    let replaced = |ticket| (ticket, Err(Failure::Replaced));
    assert_eq!(actions.ended, ["one", "two", "three"].map(replaced));
    assert_eq!(schedule.pending(DEVICE), 1);
}

#[test]
fn a_flush_ends_all_that_waits_and_reaches_the_network_server() {
    let (mut schedule, now) = (schedule(), Instant::now());
    drop(push(&mut schedule, command(1, now), "one", now));
    let flush = command(2, now).with_mode(QueueMode::Flush);
    let actions = push(&mut schedule, flush, "flush", now);
    assert_eq!(actions.ended, [("one", Err(Failure::Replaced))]);
    let sent = uplink(&mut schedule, now).unwrap();
    assert!(sent.flush && sent.port == 2);
}

#[test]
fn a_device_of_class_c_gets_its_commands_at_once_one_after_the_other() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let first = schedule.push(command(1, now), "one", Class::C, now).send;
    let first = first.unwrap();
    assert_eq!(first.timing, Timing::Immediate);
    let second = schedule.push(command(2, now), "two", Class::C, now);
    assert!(second.send.is_none());
    let actions = schedule.transmitted(&transmitted(&first.id), now);
    assert_eq!(actions.send.unwrap().port, 2);
}

#[test]
fn what_no_device_can_be_sent_is_refused_at_once() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let mut long = command(1, now);
    long.payload = vec![0; 243].into();
    let mut deaf = command(1, now);
    deaf.completion = Completion::Acknowledged;
    for (command, failure) in [
        (command(0, now), Failure::BadPort(0)),
        (command(224, now), Failure::BadPort(224)),
        (long, Failure::TooLong),
        (deaf, Failure::NeverConfirmed),
    ] {
        let actions = push(&mut schedule, command, "never", now);
        assert_eq!(actions.ended, [("never", Err(failure))]);
    }
}

#[test]
fn a_command_taken_back_in_flight_makes_way_for_the_next() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let first = command(1, now);
    let id = first.id.clone();
    drop(schedule.push(first, "one", Class::C, now));
    drop(schedule.push(command(2, now), "two", Class::C, now));
    match schedule.withdraw(DEVICE, &id, now) {
        Withdrawn::InFlight(actions) => assert_eq!(actions.send.unwrap().port, 2),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        schedule.withdraw(DEVICE, &id, now),
        Withdrawn::Ended
    ));
}

#[test]
fn nothing_waits_for_ever_behind_a_command_that_nobody_tells_of() {
    let (mut schedule, now) = (schedule(), Instant::now());
    drop(push(
        &mut schedule,
        command(1, now).confirmed(),
        "mute",
        now,
    ));
    let mut later = command(2, now);
    later.expires = now + 3 * LOCK;
    drop(push(&mut schedule, later, "next", now));
    let sent = uplink(&mut schedule, now).unwrap();
    drop(schedule.transmitted(&transmitted(&sent.id), now));
    assert_eq!(uplink(&mut schedule, now), None, "it may be told of late");
    let actions = schedule.uplink(DEVICE, now, now + WINDOW);
    assert_eq!(actions.ended, [("mute", Err(Failure::NotAcknowledged))]);
    let sent = actions.send.unwrap();
    assert_eq!(sent.port, 2);
    // Of this one nobody says that it was transmitted.
    let much_later = now + 3 * LOCK;
    let actions = push(&mut schedule, command(3, much_later), "last", much_later);
    assert_eq!(actions.ended, [("next", Err(Failure::Expired))]);
}

#[test]
fn a_command_of_which_nothing_is_told_ends_after_as_many_uplinks_as_it_says() {
    let (mut schedule, now) = (schedule(), Instant::now());
    let untold = command(1, now).with_untold(NonZeroU8::MIN.saturating_add(2));
    drop(push(&mut schedule, untold, "untold", now));
    drop(push(&mut schedule, command(2, now), "next", now));
    let sent = uplink(&mut schedule, now).unwrap();
    let late = TransmitAck::new(DEVICE, sent.id, Err(TransmitError::TooLate));
    assert_eq!(uplink(&mut schedule, now), None);
    // What is told of it counts, and it goes again.
    let sent = schedule.transmitted(&late, now).send.unwrap();
    for _ in 0..2 {
        assert_eq!(uplink(&mut schedule, now), None);
    }
    let actions = schedule.uplink(DEVICE, now, now + WINDOW);
    assert_eq!(actions.ended, [("untold", Err(Failure::Untold))]);
    assert_eq!(actions.withdraw, Some((DEVICE, sent.id)));
    assert_eq!(actions.send.unwrap().port, 2);
}

#[test]
fn the_device_unused_for_longest_makes_room_and_its_commands_end() {
    let (mut schedule, now) = (schedule(), Instant::now());
    drop(push(&mut schedule, command(1, now), "pushed out", now));
    let others = (2..6).map(|n| DevEui::new([n; 8]));
    let ended: Vec<_> = others
        .flat_map(|other| schedule.uplink(other, now, now + WINDOW).ended)
        .collect();
    assert_eq!(ended, [("pushed out", Err(Failure::Flushed))]);
}

#[test]
fn the_next_uplink_is_expected_after_the_usual_time() {
    let (mut schedule, now) = (schedule(), Instant::now());
    assert_eq!(schedule.expected(DEVICE), None);
    for n in 0..5 {
        uplink(&mut schedule, now + n * LOCK);
    }
    assert_eq!(schedule.expected(DEVICE), Some(now + 5 * LOCK));
}

#[derive(Debug, Clone)]
enum Step {
    Uplink,
    Push {
        mode: QueueMode,
        confirmed: bool,
        class: Class,
    },
    Transmit(TransmitResult),
    Acknowledge(bool),
    Fail,
    Withdraw,
    Pass(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![
        4 => Just(QueueMode::Append),
        1 => Just(QueueMode::Replace),
        1 => Just(QueueMode::Flush),
    ];
    let class = prop_oneof![3 => Just(Class::A), 1 => Just(Class::C)];
    let result = prop_oneof![
        Just(Ok(())),
        Just(Err(TransmitError::TooLate)),
        Just(Err(TransmitError::Power)),
    ];
    prop_oneof![
        3 => Just(Step::Uplink),
        3 => (mode, any::<bool>(), class)
            .prop_map(|(mode, confirmed, class)| Step::Push { mode, confirmed, class }),
        2 => result.prop_map(Step::Transmit),
        1 => any::<bool>().prop_map(Step::Acknowledge),
        1 => Just(Step::Fail),
        1 => Just(Step::Withdraw),
        2 => (0_u64..40_000).prop_map(|ms| Step::Pass(Duration::from_millis(ms))),
    ]
}

proptest! {
    /// Each command ends once or is pending, one is in flight at most, and a window takes one.
    #[test]
    fn no_command_is_lost_or_sent_beside_another(
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let mut schedule = Schedule::<usize>::new(NonZeroUsize::MIN, 3);
        let (mut now, mut pushed, mut withdrawn) = (Instant::now(), 0, 0);
        let mut ended = HashMap::new();
        let mut last: Option<DownlinkId> = None;
        let mut sent_in_window = None;
        for step in steps {
            let id = last.clone().unwrap_or_else(DownlinkId::random);
            let mut actions = match step {
                Step::Uplink => {
                    sent_in_window = None;
                    schedule.uplink(DEVICE, now, now + WINDOW)
                }
                Step::Push { mode, confirmed, class } => {
                    let mut command = command(1 + (pushed % 3) as u8, now).with_mode(mode);
                    command.untold = NonZeroU8::new((pushed % 4) as u8);
                    if confirmed {
                        let origin = (pushed % 2).to_string();
                        command = command.confirmed().with_origin(origin, pushed > 9);
                    }
                    pushed += 1;
                    schedule.push(command, pushed, class, now)
                }
                Step::Transmit(result) => {
                    schedule.transmitted(&TransmitAck::new(DEVICE, id, result), now)
                }
                Step::Acknowledge(acknowledged) => {
                    schedule.acknowledged(&DeviceAck::new(DEVICE, id, acknowledged), now)
                }
                Step::Fail => {
                    // What the network server gave up has not used its window.
                    sent_in_window = None;
                    let failed = DownlinkFailed::new(DEVICE, id, FailureReason::Other);
                    schedule.failed(&failed, now)
                }
                Step::Withdraw => match schedule.withdraw(DEVICE, &id, now) {
                    Withdrawn::Ended => Actions::new(),
                    Withdrawn::Waiting => {
                        withdrawn += 1;
                        Actions::new()
                    }
                    Withdrawn::InFlight(actions) | Withdrawn::Transmitted(actions) => {
                        withdrawn += 1;
                        actions
                    }
                },
                Step::Pass(time) => {
                    now += time;
                    Actions::new()
                }
            };
            if let Some(sent) = actions.send.take() {
                prop_assert!(now < sent.expires);
                if let Timing::Window { closes } = sent.timing {
                    prop_assert!(now < closes);
                    prop_assert_eq!(sent_in_window.replace(closes), None);
                }
                last = Some(sent.id);
            }
            for (ticket, outcome) in actions.ended {
                prop_assert_eq!(ended.insert(ticket, outcome), None, "{} ended twice", ticket);
            }
            prop_assert_eq!(ended.len() + withdrawn + schedule.pending(DEVICE), pushed);
            // One that was too late comes back to those that wait.
            prop_assert!(schedule.pending(DEVICE) <= 3 + 1 + 1);
        }
    }
}
