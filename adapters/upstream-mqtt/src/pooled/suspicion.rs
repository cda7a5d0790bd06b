//! What connections are lost for: a broker of version 3.1.1 that does not like a message closes the
//! connection, which is everybody's.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// Connections that may be lost with something offered, one soon after the other, before it counts as
/// what they are lost for.
const LOSSES: u32 = 3;
/// How soon, besides what lies between two tries by configuration.
const SOON: Duration = Duration::from_secs(30);
/// Topics of callers that are known to be good; of more, the one that was used longest ago is
/// forgotten.
const GOOD_TOPICS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// Small things to tell the broker about commands, by their kinds: one that it takes or closes for
/// speaks for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Chore {
    DeadLetter,
    HandedOver,
    /// On the gateway's own topics.
    Answer,
    /// On a topic that the caller names.
    AnswerElsewhere,
}

/// What may be the reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Suspect {
    /// All of a kind.
    All(Chore),
    Topic(Chore, String),
}

impl Suspect {
    const fn chore(&self) -> Chore {
        match self {
            Self::All(chore) | Self::Topic(chore, _) => *chore,
        }
    }
}

/// How soon one loss follows another that has the same reason.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The longest wait between two connections.
    pub(super) reconnect: Duration,
    /// How long a message is tried before it is a dead letter, each time that the broker gives it.
    pub(super) keep: Duration,
}

impl Pace {
    fn soon(&self, chore: Chore) -> Duration {
        let tried = match chore {
            Chore::DeadLetter => self.keep,
            _ => Duration::ZERO,
        };
        SOON + self.reconnect + tried
    }
}

#[derive(Debug)]
struct Losses {
    count: u32,
    last: Instant,
    soon: Duration,
}

impl Losses {
    fn is_young(&self) -> bool {
        self.last.elapsed() < self.soon
    }
}

/// What is on its way to the broker, and what connections were lost with.
#[derive(Debug)]
pub(super) struct Suspicion {
    pace: Pace,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// On its way on this connection, and how many of it.
    offered: HashMap<Suspect, usize>,
    lost_with: HashMap<Suspect, Losses>,
    /// Topics of callers that the broker takes.
    good: LruCache<String, ()>,
    /// When one of which nothing is known was last let go though others are suspected.
    trial: Option<Instant>,
}

impl Suspicion {
    pub(super) fn new(pace: Pace) -> Self {
        let state = Mutex::new(State {
            offered: HashMap::new(),
            lost_with: HashMap::new(),
            good: LruCache::new(GOOD_TOPICS),
            trial: None,
        });
        Self { pace, state }
    }

    /// Takes note that the connection is lost, with all that is on its way; it must be down.
    pub(super) fn note_loss(&self) {
        let mut state = lock(&self.state);
        let State {
            offered, lost_with, ..
        } = &mut *state;
        lost_with.retain(|_, losses| losses.is_young());
        for (suspect, _) in offered.drain() {
            let (now, soon) = (Instant::now(), self.pace.soon(suspect.chore()));
            let losses = lost_with.entry(suspect);
            let losses = losses.or_insert(Losses {
                count: 0,
                last: now,
                soon,
            });
            (losses.count, losses.last) = (losses.count + 1, now);
        }
    }

    /// Tells whether connections are lost for this. Callers choose their topics, each perhaps a new one
    /// for each call: what is lost for some says nothing of those that the broker takes, and of
    /// others one is tried now and then.
    pub(super) fn stands(&self, chore: Chore, topic: &str) -> bool {
        let mut state = lock(&self.state);
        let [all, this] = suspects(chore, topic).map(|suspect| {
            let losses = state.lost_with.get(&suspect);
            losses.map_or(0, |losses| losses.count * u32::from(losses.is_young()))
        });
        if this >= LOSSES || all < LOSSES || chore != Chore::AnswerElsewhere {
            return this.max(all) >= LOSSES;
        }
        if this > 0 {
            return true;
        }
        if state.good.contains(topic) {
            return false;
        }
        let is_over = state.trial.is_none_or(|trial| trial.elapsed() >= SOON);
        if is_over {
            state.trial = Some(Instant::now());
        }
        !is_over
    }

    /// Takes note of what goes to the broker, until it has come to an end; none if the connection is
    /// lost already.
    pub(super) fn offer<'a>(
        &'a self,
        chore: Chore,
        topic: &'a str,
        down: &'a CancellationToken,
    ) -> Option<Offered<'a>> {
        let mut state = lock(&self.state);
        if down.is_cancelled() {
            return None;
        }
        for suspect in suspects(chore, topic) {
            *state.offered.entry(suspect).or_default() += 1;
        }
        Some(Offered {
            suspicion: self,
            chore,
            topic,
            down,
        })
    }
}

fn suspects(chore: Chore, topic: &str) -> [Suspect; 2] {
    [Suspect::All(chore), Suspect::Topic(chore, topic.to_owned())]
}

/// Something on its way to the broker.
#[derive(Debug)]
pub(super) struct Offered<'a> {
    suspicion: &'a Suspicion,
    chore: Chore,
    topic: &'a str,
    down: &'a CancellationToken,
}

impl Offered<'_> {
    /// The broker has taken it, so it closes for nothing of the like.
    pub(super) fn taken(self) {
        let mut state = lock(&self.suspicion.state);
        for suspect in suspects(self.chore, self.topic) {
            state.lost_with.remove(&suspect);
        }
        if self.chore == Chore::AnswerElsewhere {
            state.good.put(self.topic.to_owned(), ());
        }
    }
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.suspicion.state);
        // What a connection is lost with is left to whoever notes the loss.
        if self.down.is_cancelled() {
            return;
        }
        for suspect in suspects(self.chore, self.topic) {
            if let Some(count) = state.offered.get_mut(&suspect) {
                *count -= 1;
                if *count == 0 {
                    state.offered.remove(&suspect);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        reconnect: Duration::from_secs(10),
        keep: Duration::from_secs(120),
    };
    const LETTER: (Chore, &str) = (Chore::DeadLetter, "dead/a");
    const ANSWER: (Chore, &str) = (Chore::Answer, "answers/a");

    fn elsewhere(topic: &str) -> (Chore, &str) {
        (Chore::AnswerElsewhere, topic)
    }

    /// Loses a connection with these on their way.
    fn lose(suspicion: &Suspicion, offers: &[(Chore, &str)]) {
        let down = CancellationToken::new();
        let offer = |(chore, topic)| suspicion.offer(chore, topic, &down).expect("it is up");
        let offered: Vec<_> = offers.iter().copied().map(offer).collect();
        down.cancel();
        assert!(suspicion.offer(LETTER.0, LETTER.1, &down).is_none());
        suspicion.note_loss();
        drop(offered);
    }

    fn stands(suspicion: &Suspicion, (chore, topic): (Chore, &str)) -> bool {
        suspicion.stands(chore, topic)
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_lost_for_what_was_on_its_way_with_each_of_three_and_for_its_like() {
        let suspicion = Suspicion::new(PACE);
        lose(&suspicion, &[LETTER, LETTER, ANSWER]);
        lose(&suspicion, &[LETTER, ANSWER]);
        assert!(!stands(&suspicion, LETTER));
        lose(&suspicion, &[LETTER]);
        assert!(stands(&suspicion, LETTER));
        assert!(stands(&suspicion, (Chore::DeadLetter, "dead/b")));
        assert!(!stands(&suspicion, ANSWER));
        tokio::time::advance(PACE.soon(Chore::DeadLetter)).await;
        assert!(!stands(&suspicion, LETTER));
        lose(&suspicion, &[LETTER]);
        assert!(!stands(&suspicion, LETTER), "the first of new ones");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_broker_takes_or_is_given_up_on_the_way_is_no_reason() {
        let suspicion = Suspicion::new(PACE);
        let other = (Chore::DeadLetter, "dead/b");
        for _ in 0..3 {
            lose(&suspicion, &[LETTER]);
            let down = CancellationToken::new();
            suspicion.offer(other.0, other.1, &down).unwrap().taken();
            drop(suspicion.offer(ANSWER.0, ANSWER.1, &down));
            down.cancel();
            suspicion.note_loss();
        }
        assert!(stands(&suspicion, LETTER), "by its own topic");
        assert!(!stands(&suspicion, other));
        assert!(!stands(&suspicion, ANSWER));
    }

    #[tokio::test(start_paused = true)]
    async fn a_letter_that_is_written_only_when_its_time_is_over_is_found_out_too() {
        let suspicion = Suspicion::new(PACE);
        for _ in 0..3 {
            assert!(!stands(&suspicion, LETTER));
            lose(&suspicion, &[LETTER]);
            tokio::time::advance(PACE.reconnect + PACE.keep).await;
        }
        assert!(stands(&suspicion, LETTER));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_caller_chooses_says_nothing_of_what_others_choose() {
        let suspicion = Suspicion::new(PACE);
        (0..3).for_each(|_| lose(&suspicion, &[elsewhere("foul")]));
        assert!(stands(&suspicion, elsewhere("foul")));
        assert!(!stands(&suspicion, elsewhere("good")));
    }

    #[tokio::test(start_paused = true)]
    async fn topics_that_are_new_each_time_cost_a_connection_now_and_then_and_no_good_one() {
        let suspicion = Suspicion::new(PACE);
        let (good, down) = (elsewhere("good"), CancellationToken::new());
        let offered = suspicion.offer(good.0, good.1, &down);
        offered.expect("it is up").taken();
        let mut lost = 0;
        for number in 0..100 {
            assert!(!stands(&suspicion, good));
            let topic = format!("replies/{number}");
            if !stands(&suspicion, elsewhere(&topic)) {
                lose(&suspicion, &[elsewhere(&topic)]);
                lost += 1;
                assert!(lost < 3 || stands(&suspicion, elsewhere(&topic)));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lost, 3 + 4, "the first, and one in 30 s");
        tokio::time::advance(SOON).await;
        let new = elsewhere("new");
        assert!(!stands(&suspicion, new));
        let offered = suspicion.offer(new.0, new.1, &down);
        offered.expect("it is up").taken();
        assert!(
            !stands(&suspicion, elsewhere("newer")),
            "the broker takes them"
        );
    }
}
