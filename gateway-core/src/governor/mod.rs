//! How much a hub is asked for, by whom and when: what every upstream that comes back by itself needs,
//! whatever it speaks.
//!
//! A [`Door`] lets requests through under one [budget](BudgetConfig) for all devices: who finds it used
//! up queues by [`Priority`], and a throttle answer to one slows all. [`Breakers`] keep a device that
//! the hub refuses again and again from costing the others anything. [`Reach`] has everybody wait
//! for a hub that one could not reach, and [`Progress`] tells how far bringing devices back has come.
//!
//! Nothing here speaks to anybody: an upstream says what the hub said.

mod breaker;
mod buckets;
mod budget;
mod door;
mod progress;
mod reach;

pub use breaker::{BreakerConfig, Breakers, Held, Trial};
pub use buckets::{Class, Operation, Priority};
pub use budget::{BudgetConfig, HubTier, Rate};
pub use door::{Door, Turn};
pub use progress::{Missing, Progress};
pub use reach::Reach;
