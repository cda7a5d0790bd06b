//! Runs of the model that are made up, and those that give up at any step.

use proptest::prelude::*;

use super::{Act, World, any};

proptest! {
    #[test]
    fn whatever_comes_in_whatever_order_each_message_has_its_own_verdict_and_nothing_waits_for_ever(
        run in any::run(false), acts in any::plausible(),
    ) {
        run.play(acts);
    }

    #[test]
    fn a_hub_that_keeps_no_rule_makes_nobody_accept_what_it_did_not(
        run in any::run(true), acts in any::hostile(),
    ) {
        run.play(acts);
    }
}

/// Found by a fuzzer, in the model: at the end nobody waited on a receiver beside one that was gone.
#[test]
fn a_receiver_beside_one_that_is_detached_gets_credit_for_what_it_has_received() {
    let mut world = World::new(1, false);
    world.open(&[1], 0);
    for credit in [1, 17, 1] {
        world.act(Act::AttachReceiver(0, credit));
        world.act(Act::Serve(0));
    }
    world.act(Act::Message {
        link: 2,
        frames: 3,
        settled: true,
        abort: false,
    });
    world.act(Act::Detach {
        link: 0,
        error: false,
    });
    world.wind_up();
}

/// Found by a fuzzer, in the model: its end was over before all frames were written, one a round.
#[test]
fn messages_that_wait_for_room_frame_by_frame_are_all_sent_in_the_end() {
    let mut world = World::new(1, false);
    world.open(&[0], 5);
    for act in [Act::Begin, Act::Begin, Act::Serve(31)] {
        world.act(act);
    }
    for act in [Act::AttachSender(1), Act::AttachSender(1), Act::Serve(37)] {
        world.act(act);
    }
    for (link, size) in [(37, 2120), (212, 2120), (7, 1500), (150, 1500), (150, 1500)] {
        world.act(Act::SendSettled(link, size));
    }
    world.wind_up();
}

/// Whatever is asked, at any step of the hub's answer to it.
#[test]
fn what_is_given_up_at_any_step_leaves_no_trace_and_harms_nobody() {
    let asked = [
        Act::Begin,
        Act::AttachSender(0),
        Act::AttachReceiver(0, 2),
        Act::Send(0, 0),
        Act::Send(0, 2000),
        Act::SendSettled(0, 2000),
        Act::Receive(0),
        Act::Hold(0),
        Act::Stop(0),
        Act::CloseLink(0),
        Act::CloseLink(2),
        Act::WatchSession(0),
    ];
    let credit = Act::Credit {
        link: 0,
        credit: 2,
        lag: 0,
        drain: false,
        echo: false,
    };
    let judge = Act::Judge {
        session: 0,
        which: 0,
        span: 0,
        verdict: 5,
        settled: true,
    };
    let message = Act::Message {
        link: 0,
        frames: 2,
        settled: true,
        abort: false,
    };
    let steps = [
        credit,
        Act::Serve(1),
        Act::Poll(0),
        message,
        Act::Hear(1),
        Act::Write,
        Act::Run,
        judge,
        Act::Hear(2),
        Act::Detach {
            link: 0,
            error: true,
        },
        Act::Serve(3),
    ];
    for (ask, given_up) in asked
        .iter()
        .flat_map(|ask| (0..=2 * steps.len()).map(move |n| (ask, n)))
    {
        let mut world = World::new(600, false);
        world.open(&[1, 3], 4);
        world.act(ask.clone());
        let steps = steps.iter().cycle().take(given_up);
        steps.for_each(|step| world.act(step.clone()));
        world.act(Act::Cancel(0));
        world.act(Act::Send(0, 0));
        world.wind_up();
    }
}
