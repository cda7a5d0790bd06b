//! The downlink deadline engine: in whatever order devices speak, commands come and the network
//! server tells, each command ends once or is withdrawn, as has what the network server is to drop;
//! a device has one in flight and a window takes one; nothing goes when its time is up; what waits is
//! bounded; and in the end nothing is left.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use gateway_downstream_lorawan::event::{
    DevEui, DeviceAck, Downlink, DownlinkFailed, DownlinkId, FailureReason, Priority, Timing,
    TransmitAck, TransmitError,
};
use gateway_downstream_lorawan::schedule::{
    Actions, Class, Command, QueueMode, Schedule, Withdrawn,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(1);
const LOCK: Duration = Duration::from_secs(60);
/// One more device than there is room for.
const DEVICES: u8 = 4;
const MAX_QUEUED: usize = 3;
/// How many commands back a step may speak of.
const REACH: usize = 8;

#[derive(Debug, Arbitrary)]
enum Step {
    Uplink { device: u8 },
    Push { device: u8, mode: u8, confirmed: bool, hears_always: bool, urgent: bool, port: u8 },
    /// Of a command some places back, or of one that never was.
    Transmitted { command: u8, result: u8 },
    Acknowledged { command: u8, is: bool },
    Failed { command: u8 },
    Withdraw { command: u8 },
    Clear { device: u8 },
    /// Tenths of a second.
    Pass(u8),
}

struct World {
    schedule: Schedule<usize>,
    now: Instant,
    /// The commands by their tickets.
    pushed: Vec<(DevEui, DownlinkId)>,
    ended: HashSet<usize>,
    withdrawn: HashSet<usize>,
    /// Devices whose window is used up, and by which command.
    used: HashMap<DevEui, usize>,
    /// Commands that a concentrator has told of since they went.
    told: HashSet<usize>,
}

fn device(number: u8) -> DevEui {
    DevEui::new([number % DEVICES; 8])
}

impl World {
    fn command(&self, back: u8) -> (usize, DevEui, DownlinkId) {
        let back = usize::from(back) % REACH;
        match self.pushed.len().checked_sub(back + 1) {
            Some(ticket) => {
                let (device, id) = self.pushed[ticket].clone();
                (ticket, device, id)
            }
            None => (usize::MAX, device(back as u8), DownlinkId::random()),
        }
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        let actions = match step {
            Step::Uplink { device: number } => {
                self.used.remove(&device(number));
                self.schedule.uplink(device(number), now, now + WINDOW)
            }
            Step::Push { device: number, mode, confirmed, hears_always, urgent, port } => {
                let ticket = self.pushed.len();
                let mode = match mode % 6 {
                    0 => QueueMode::Flush,
                    1 => QueueMode::Replace,
                    _ => QueueMode::Append,
                };
                let mut command = Command::new(device(number), port, [port].to_vec(), now + LOCK)
                    .with_mode(mode)
                    .with_origin((port % 4).to_string(), ticket % 2 == 1);
                if confirmed {
                    command = command.confirmed();
                }
                command.untold = NonZeroU8::new(port % 4);
                if urgent {
                    command = command.with_priority(Priority::High);
                }
                self.pushed.push((command.dev_eui, command.id.clone()));
                let class = if hears_always { Class::C } else { Class::A };
                self.schedule.push(command, ticket, class, now)
            }
            Step::Transmitted { command, result } => {
                let (ticket, device, id) = self.command(command);
                self.told.insert(ticket);
                let result = match result % 4 {
                    0 => Err(TransmitError::TooLate),
                    1 => Err(TransmitError::Power),
                    _ => Ok(()),
                };
                self.schedule.transmitted(&TransmitAck::new(device, id, result), now)
            }
            Step::Acknowledged { command, is } => {
                let (_, device, id) = self.command(command);
                self.schedule.acknowledged(&DeviceAck::new(device, id, is), now)
            }
            Step::Failed { command } => {
                let (ticket, device, id) = self.command(command);
                // What the network server gave up before it was on air has not used its window.
                let is_over = [&self.ended, &self.withdrawn, &self.told].iter().any(|over| over.contains(&ticket));
                if self.used.get(&device) == Some(&ticket) && !is_over {
                    self.used.remove(&device);
                }
                let failed = DownlinkFailed::new(device, id, FailureReason::Other);
                self.schedule.failed(&failed, now)
            }
            Step::Withdraw { command } => {
                let (ticket, device, id) = self.command(command);
                let actions = match self.schedule.withdraw(device, &id, now) {
                    Withdrawn::Ended => return,
                    Withdrawn::Waiting => None,
                    Withdrawn::InFlight(actions) | Withdrawn::Transmitted(actions) => Some(actions),
                };
                assert!(!self.ended.contains(&ticket) && self.withdrawn.insert(ticket));
                match actions {
                    Some(actions) => actions,
                    None => return,
                }
            }
            Step::Clear { device: number } => self.schedule.clear(device(number)),
            Step::Pass(tenths) => {
                self.now += Duration::from_millis(u64::from(tenths) * 100);
                return;
            }
        };
        self.take(actions);
    }

    fn take(&mut self, actions: Actions<usize>) {
        for (ticket, _) in actions.ended {
            assert!(ticket < self.pushed.len());
            assert!(!self.withdrawn.contains(&ticket), "{ticket} was withdrawn");
            assert!(self.ended.insert(ticket), "{ticket} ended twice");
        }
        if let Some((device, id)) = actions.withdraw {
            let ticket = self.pushed.iter().position(|pushed| *pushed == (device, id.clone()));
            let ticket = ticket.expect("a command");
            assert!(self.ended.contains(&ticket) || self.withdrawn.contains(&ticket));
        }
        if let Some(sent) = actions.send {
            self.goes(&sent);
        }
        let pending = (0..DEVICES).map(|number| self.schedule.pending(device(number)));
        let pending: Vec<_> = pending.collect();
        // One is in flight, and one that was too late has come back to those that wait.
        assert!(pending.iter().all(|pending| *pending <= MAX_QUEUED + 2));
        let all = pending.iter().sum::<usize>() + self.ended.len() + self.withdrawn.len();
        assert_eq!(all, self.pushed.len());
    }

    fn goes(&mut self, sent: &Downlink) {
        assert!(self.now < sent.expires);
        assert!(self.schedule.is_in_flight(sent.dev_eui));
        let is_it = |(device, id): &(DevEui, DownlinkId)| (*device, id) == (sent.dev_eui, &sent.id);
        let ticket = self.pushed.iter().position(is_it).expect("a command");
        assert!(!self.ended.contains(&ticket) && !self.withdrawn.contains(&ticket));
        self.told.remove(&ticket);
        if let Timing::Window { closes } = sent.timing {
            assert!(self.now < closes);
            let before = self.used.insert(sent.dev_eui, ticket);
            assert_eq!(before, None, "a window was used twice");
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let room = NonZeroUsize::new(usize::from(DEVICES) - 1).expect("some");
    let mut world = World {
        schedule: Schedule::new(room, MAX_QUEUED),
        now: Instant::now(),
        pushed: Vec::new(),
        ended: HashSet::new(),
        withdrawn: HashSet::new(),
        used: HashMap::new(),
        told: HashSet::new(),
    };
    for step in steps.into_iter().take(300) {
        world.step(step);
    }
    let rest = world.schedule.clear_all();
    world.take(rest);
    assert_eq!(world.ended.len() + world.withdrawn.len(), world.pushed.len());
});
