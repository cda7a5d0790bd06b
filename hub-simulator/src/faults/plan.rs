//! Faults at times that a seed draws: the same seed, the same faults at the same times.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::{Fault, Faults};

/// Most faults that a plan comes to.
const MAX_FAULTS: usize = 100_000;
/// Longest pause, and longest spread of one.
const MAX_PAUSE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Faults to be made one after the other; in JSON:
///
/// ```json
/// {
///   "seed": 7,
///   "repeat": 20,
///   "steps": [
///     { "after": "1s", "spread": "4s", "one_of": [{ "fault": "cut_one" }, { "fault": "maintenance" }] },
///     { "after": "500ms", "chance": 0.5, "make": [{ "fault": "throttle", "count": 10 }] }
///   ]
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Plan {
    /// What everything random is drawn from; 0 by default.
    #[serde(default)]
    pub seed: u64,
    /// How often the steps are gone through; once by default.
    #[serde(default = "once")]
    pub repeat: u32,
    /// What is done, in this order.
    pub steps: Vec<Step>,
}

/// A pause, and what is made to go wrong after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Step {
    /// The pause; none by default.
    #[serde(default, with = "humantime_serde")]
    pub after: Duration,
    /// How much longer the pause may be, drawn evenly; not at all by default.
    #[serde(default, with = "humantime_serde")]
    pub spread: Duration,
    /// How likely the faults are made at all, 0 to 1; 1 by default.
    #[serde(default = "certain")]
    pub chance: f64,
    /// Faults that are all made.
    #[serde(default)]
    pub make: Vec<Fault>,
    /// Faults of which one is drawn and made.
    #[serde(default)]
    pub one_of: Vec<Fault>,
}

fn once() -> u32 {
    1
}

fn certain() -> f64 {
    1.0
}

/// A fault and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Planned {
    /// When, counted from the start of the plan.
    #[serde(with = "humantime_serde")]
    pub at: Duration,
    /// What.
    pub fault: Fault,
}

/// A plan cannot be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It is no JSON, or something in it has no meaning.
    #[error("the plan cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// The chance of a step is no probability.
    #[error("the chance of step {0} is not within 0 to 1")]
    Chance(usize),
    /// A pause of a step is longer than anybody can wait.
    #[error("a pause of step {0} is over 30 days")]
    Pause(usize),
    /// It comes to more faults than anybody can want.
    #[error("the plan has more than {MAX_FAULTS} faults; let it repeat less often")]
    TooLong,
}

impl Plan {
    /// Reads a plan in JSON.
    ///
    /// # Errors
    /// Fails if the text is no plan.
    pub fn from_json(text: &str) -> Result<Self, PlanError> {
        serde_json::from_str::<Self>(text)?.checked()
    }

    pub(crate) fn checked(self) -> Result<Self, PlanError> {
        let odd = |step: &Step| !(0.0..=1.0).contains(&step.chance);
        if let Some(at) = self.steps.iter().position(odd) {
            return Err(PlanError::Chance(at + 1));
        }
        let slow = |step: &Step| step.after.max(step.spread) > MAX_PAUSE;
        if let Some(at) = self.steps.iter().position(slow) {
            return Err(PlanError::Pause(at + 1));
        }
        let of_step = |step: &Step| step.make.len() + usize::from(!step.one_of.is_empty());
        // A step that makes nothing is still gone through.
        let a_round: usize = self.steps.iter().map(|step| of_step(step).max(1)).sum();
        let rounds = usize::try_from(self.repeat).unwrap_or(usize::MAX);
        if a_round.saturating_mul(rounds) > MAX_FAULTS {
            return Err(PlanError::TooLong);
        }
        Ok(self)
    }

    /// Draws what happens when; the same for the same seed, always.
    #[must_use]
    pub fn schedule(&self) -> Vec<Planned> {
        let mut random = SplitMix64(self.seed);
        let mut at = Duration::ZERO;
        let mut schedule = Vec::new();
        for _ in 0..self.repeat {
            for step in &self.steps {
                at += step.after + random.up_to(step.spread);
                // Drawn whether needed or not, so that one step does not change what others draw.
                let (chance, which) = (random.fraction(), random.next());
                if chance >= step.chance {
                    continue;
                }
                let which = which.checked_rem(step.one_of.len() as u64);
                let drawn = which
                    .and_then(|which| usize::try_from(which).ok())
                    .and_then(|which| step.one_of.get(which));
                for fault in step.make.iter().chain(drawn) {
                    let fault = match fault {
                        Fault::CutOne { pick: None } => Fault::CutOne {
                            pick: Some(random.next()),
                        },
                        fault => fault.clone(),
                    };
                    schedule.push(Planned { at, fault });
                }
            }
        }
        schedule
    }
}

impl Faults {
    /// Makes the faults of a plan, each at its time, and returns after the last one.
    ///
    /// # Cancel safety
    /// Dropping the future ends the plan; what it has made go wrong stays so.
    pub async fn play(&self, plan: &Plan) {
        let start = Instant::now();
        for planned in plan.schedule() {
            sleep_until(start + planned.at).await;
            self.apply(&planned.fault);
        }
    }
}

/// A generator of pseudo-random numbers (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014): small, and the same on every machine and in every version.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A pause in whole milliseconds, which read better than exact ones.
    fn up_to(&mut self, most: Duration) -> Duration {
        let pause = most.mul_f64(self.fraction());
        Duration::from_millis(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
    }

    /// At least 0, less than 1.
    fn fraction(&mut self) -> f64 {
        // 53 bits are what a double holds.
        #[expect(clippy::cast_precision_loss, reason = "the bits fit")]
        let bits = (self.next() >> 11) as f64;
        bits / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"{
        "seed": 7, "repeat": 50,
        "steps": [
            {"after": "1s", "spread": "4s", "one_of": [{"fault": "cut_one"}, {"fault": "maintenance"}]},
            {"after": "500ms", "chance": 0.5, "make": [{"fault": "throttle", "count": 10}]}
        ]
    }"#;

    #[test]
    fn the_generator_gives_the_published_numbers() {
        let mut random = SplitMix64(1_234_567);
        let numbers: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule_and_another_one_another() {
        let plan = Plan::from_json(PLAN).unwrap();
        let schedule = plan.schedule();
        assert_eq!(schedule, Plan::from_json(PLAN).unwrap().schedule());
        let other = Plan { seed: 8, ..plan };
        assert_ne!(schedule, other.schedule());

        let count = |wanted: fn(&Fault) -> bool| {
            schedule
                .iter()
                .filter(|planned| wanted(&planned.fault))
                .count()
        };
        let cuts = count(|fault| matches!(fault, Fault::CutOne { pick: Some(_) }));
        let throttles = count(|fault| matches!(fault, Fault::Throttle { count: 10, .. }));
        assert_eq!(cuts + count(|fault| *fault == Fault::Maintenance {}), 50);
        assert!((10..40).contains(&cuts) && (10..40).contains(&throttles));
        assert!(schedule.is_sorted_by_key(|planned| planned.at));
        let end = schedule.last().map(|planned| planned.at).unwrap();
        assert!((Duration::from_secs(75)..Duration::from_secs(275)).contains(&end));
    }

    #[test]
    fn what_is_no_plan_is_refused_with_the_reason() {
        let refusal = |text: &str| Plan::from_json(text).unwrap_err().to_string();
        assert!(refusal("{}").contains("steps"));
        assert!(refusal(r#"{"steps": [], "sed": 7}"#).contains("sed"));
        let unknown = r#"{"steps": [{"make": [{"fault": "explode"}]}]}"#;
        assert!(refusal(unknown).contains("explode"));
        let odd = r#"{"steps": [{}, {"chance": 1.5}]}"#;
        assert!(refusal(odd).contains("step 2"));
        let slow = r#"{"steps": [{"after": "900 years"}]}"#;
        assert!(refusal(slow).contains("step 1"));
        let endless = r#"{"repeat": 4000000000, "steps": [{}]}"#;
        assert!(refusal(endless).contains("more than"));
    }

    #[test]
    fn a_fault_reads_as_it_is_written() {
        for (text, fault) in [
            (r#"{"fault":"hold"}"#, Fault::Hold {}),
            (r#"{"fault":"cut"}"#, Fault::Cut { connection: None }),
            (
                r#"{"fault":"delay","by":"250ms"}"#,
                Fault::Delay {
                    by: Duration::from_millis(250),
                },
            ),
            (
                r#"{"fault":"refuse_token","device":"d","status":404,"text":"gone"}"#,
                Fault::RefuseToken {
                    device: "d".to_owned(),
                    status: 404,
                    text: "gone".to_owned(),
                },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Fault>(text).unwrap(), fault);
            let written = serde_json::to_string(&fault).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&written).unwrap(), fault);
        }
        let unknown = r#"{"fault":"hold","for":"1s"}"#;
        assert!(serde_json::from_str::<Fault>(unknown).is_err());
    }
}
