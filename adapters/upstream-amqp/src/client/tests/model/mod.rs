//! Any order of what a client does and what a hub says, held against the hub's own books.

mod acts;
mod book;
mod world;

use acts::Act;
use proptest::prelude::*;
use world::World;

/// How a run begins, and how it ends.
#[derive(Debug, Clone)]
struct Frame {
    /// Bytes that gather before messages wait.
    room: usize,
    /// Windows of the sessions that there are.
    windows: Vec<u32>,
    links: usize,
    is_cut: bool,
}

impl Frame {
    fn world(&self, is_strange: bool) -> World {
        let mut world = World::new(self.room, is_strange);
        world.open(&self.windows, self.links);
        world
    }
}

fn frames() -> impl Strategy<Value = Frame> {
    let room = prop_oneof![Just(1_usize), Just(600), Just(1 << 20)];
    let windows = proptest::collection::vec(acts::few(), 1..=2);
    (room, windows, 0..6_usize, any::<bool>()).prop_map(|(room, windows, links, is_cut)| Frame {
        room,
        windows,
        links,
        is_cut,
    })
}

fn plausible() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        50 => acts::client(),
        50 => acts::hub(),
        1 => acts::last(),
    ];
    proptest::collection::vec(act, 0..300)
}

fn hostile() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        50 => acts::client(),
        50 => acts::hub(),
        8 => acts::strange(),
        1 => acts::last(),
    ];
    proptest::collection::vec(act, 0..200)
}

proptest! {
    #[test]
    fn whatever_comes_in_whatever_order_each_message_has_its_own_verdict_and_nothing_waits_for_ever(
        frame in frames(), acts in plausible(),
    ) {
        let mut world = frame.world(false);
        for act in acts {
            world.act(act);
        }
        match frame.is_cut {
            true => world.cut(),
            false => world.wind_up(),
        }
    }

    #[test]
    fn a_hub_that_keeps_no_rule_makes_nobody_accept_what_it_did_not(
        frame in frames(), acts in hostile(),
    ) {
        let mut world = frame.world(true);
        for act in acts {
            world.act(act);
        }
        world.cut();
    }
}
