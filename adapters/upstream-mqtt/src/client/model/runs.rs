//! Runs of the model that are made up, and long ones.

use proptest::prelude::*;

use super::{Act, Run, any};
use crate::client::options::Version;

/// A broker of version 3.1.1 that takes four messages at a time.
fn run() -> Run {
    Run {
        version: Version::V4,
        ordered_acks: true,
        in_flight: [4, 4],
        receive: 3,
        buffer: 1000,
        queued: 8,
        keep_alive: [None, None],
        patience: 30,
        is_cut: false,
        is_strange: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Identifiers mean one packet at a time, packets go out in order, what came is acknowledged in
    /// the order that was asked for, and all is done when it is due.
    #[test]
    fn every_packet_is_settled_once_and_by_its_answer_whatever_the_broker_does_and_nothing_is_stuck(
        run in any::run(false), acts in any::plausible(),
    ) {
        run.play(acts);
    }

    #[test]
    fn a_broker_that_keeps_no_rule_settles_nothing_that_it_did_not_answer(
        run in any::run(true), acts in any::hostile(),
    ) {
        run.play(acts);
    }
}

#[test]
fn those_who_give_up_waiting_leave_no_trace_in_the_queue() {
    let mut world = run().world();
    for _ in 0..4 {
        world.act(Act::Publish(0));
    }
    for _ in 0..10_000 {
        world.act(Act::Publish(0));
        world.act(Act::Run);
        assert_eq!(world.tasks.len(), 5, "there is room");
        world.act(Act::Cancel(4));
    }
    assert!(world.shared.lock().ledger().queue_len() < 50);
    assert_eq!(world.shared.lock().ledger().held(), 4);
}

#[test]
fn identifiers_go_round_without_zero_and_without_one_in_use() {
    let mut world = run().world();
    world.act(Act::Publish(0));
    world.act(Act::Write);
    for _ in 0..65_534 {
        world.act(Act::Publish(0));
        assert_eq!(world.book.in_flight(), 2);
        // The first is stuck.
        for act in [Act::Write, Act::Answer(1, 0), Act::Hear(u8::MAX), Act::Run] {
            world.act(act);
        }
    }
    // All others are used up: nothing is sent rather than one twice.
    world.act(Act::Publish(0));
    assert_eq!(world.book.in_flight(), 1);
    world.wind_up();
}
