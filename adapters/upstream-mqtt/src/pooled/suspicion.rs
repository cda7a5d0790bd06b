//! What connections are lost for: a broker of version 3.1.1 that does not like a message closes the
//! connection, which is everybody's.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// Connections that may be lost with something offered, one soon after the other, before it counts as
/// what they are lost for.
const LOSSES: u32 = 3;
/// How soon.
const SOON: Duration = Duration::from_secs(30);

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
    /// All of a kind, unless callers choose what they are.
    All(Chore),
    Topic(String),
}

#[derive(Debug)]
struct Losses {
    count: u32,
    last: Instant,
}

impl Losses {
    fn is_young(&self) -> bool {
        self.last.elapsed() < SOON
    }
}

/// What is on its way to the broker, and what connections were lost with.
#[derive(Debug, Default)]
pub(super) struct Suspicion(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// On its way on this connection, and how many of it.
    offered: HashMap<Suspect, usize>,
    lost_with: HashMap<Suspect, Losses>,
}

impl Suspicion {
    /// Takes note that the connection is lost, with all that is on its way; it must be down.
    pub(super) fn note_loss(&self) {
        let mut state = lock(&self.0);
        let State { offered, lost_with } = &mut *state;
        lost_with.retain(|_, losses| losses.is_young());
        for (suspect, _) in offered.drain() {
            let now = Instant::now();
            let losses = lost_with.entry(suspect);
            let losses = losses.or_insert(Losses {
                count: 0,
                last: now,
            });
            (losses.count, losses.last) = (losses.count + 1, now);
        }
    }

    /// Tells whether connections are lost for this.
    pub(super) fn stands(&self, chore: Chore, topic: &str) -> bool {
        let state = lock(&self.0);
        let lost_for = |suspect: &Suspect| {
            let losses = state.lost_with.get(suspect);
            losses.is_some_and(|losses| losses.count >= LOSSES && losses.is_young())
        };
        suspects(chore, topic).any(|suspect| lost_for(&suspect))
    }

    /// Takes note of what goes to the broker, until it has come to an end; none if the connection is
    /// lost already.
    pub(super) fn offer<'a>(
        &'a self,
        chore: Chore,
        topic: &'a str,
        down: &'a CancellationToken,
    ) -> Option<Offered<'a>> {
        let mut state = lock(&self.0);
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

fn suspects(chore: Chore, topic: &str) -> impl Iterator<Item = Suspect> {
    let all = (chore != Chore::AnswerElsewhere).then_some(Suspect::All(chore));
    all.into_iter().chain([Suspect::Topic(topic.to_owned())])
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
        let mut state = lock(&self.suspicion.0);
        for suspect in suspects(self.chore, self.topic) {
            state.lost_with.remove(&suspect);
        }
    }
}

impl Drop for Offered<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.suspicion.0);
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

    const LETTER: (Chore, &str) = (Chore::DeadLetter, "dead/a");
    const ANSWER: (Chore, &str) = (Chore::Answer, "answers/a");

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
        let suspicion = Suspicion::default();
        lose(&suspicion, &[LETTER, LETTER, ANSWER]);
        lose(&suspicion, &[LETTER, ANSWER]);
        assert!(!stands(&suspicion, LETTER));
        lose(&suspicion, &[LETTER]);
        assert!(stands(&suspicion, LETTER));
        assert!(stands(&suspicion, (Chore::DeadLetter, "dead/b")));
        assert!(!stands(&suspicion, ANSWER));
        tokio::time::advance(SOON).await;
        assert!(!stands(&suspicion, LETTER));
        lose(&suspicion, &[LETTER]);
        assert!(!stands(&suspicion, LETTER), "the first of new ones");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_broker_takes_or_is_given_up_on_the_way_is_no_reason() {
        let suspicion = Suspicion::default();
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
    async fn what_a_caller_chooses_says_nothing_of_what_others_choose() {
        let suspicion = Suspicion::default();
        (0..3).for_each(|_| lose(&suspicion, &[(Chore::AnswerElsewhere, "foul")]));
        assert!(stands(&suspicion, (Chore::AnswerElsewhere, "foul")));
        assert!(!stands(&suspicion, (Chore::AnswerElsewhere, "good")));
    }
}
