use std::time::Duration;

/// The least and the longest wait before a token that could not be renewed is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Says when in its life a token is renewed: for an [`Upstream`](crate::Upstream) that signs tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Renewals {
    at: f64,
    jitter: f64,
}

impl Renewals {
    /// Renews after the part `at` of a life at the latest, and up to the part `jitter` sooner, so that
    /// tokens that came together are not renewed together.
    #[must_use]
    pub const fn new(at: f64, jitter: f64) -> Self {
        Self { at, jitter }
    }

    /// Tells how far into such a life a token is renewed; `random` is from 0, the latest, to 1.
    #[must_use]
    pub fn after(&self, life: Duration, random: f64) -> Duration {
        life.mul_f64((self.at - self.jitter * random).max(0.0))
    }

    /// Picks how far into such a life a token is renewed, by chance.
    #[must_use]
    pub fn by_chance(&self, life: Duration) -> Duration {
        // Without a random source all go at the latest.
        let random = getrandom::u32().unwrap_or_default();
        self.after(life, f64::from(random) / f64::from(u32::MAX))
    }

    /// Tells the wait before a token that could not be renewed is tried again, while so much of its
    /// life is left: ever shorter, so that there are tries to the end, and long when there is nothing
    /// to lose. From 100 ms to 60 s.
    #[must_use]
    pub fn again(left: Duration) -> Duration {
        let (least, most) = AGAIN;
        match left.is_zero() {
            true => most,
            false => (left / 4).clamp(least, most),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_spread_over_the_part_of_a_life_that_is_said() {
        let renewals = Renewals::new(0.8, 0.2);
        let life = Duration::from_secs(1000);
        assert_eq!(renewals.after(life, 0.0), Duration::from_secs(800));
        assert_eq!(renewals.after(life, 1.0).as_secs_f64().round(), 600.0);
    }

    #[test]
    fn a_renewal_that_fails_is_tried_again_and_again_while_the_token_lives() {
        let (mut left, mut tries) = (Duration::from_secs(720), 0);
        while !left.is_zero() {
            left = left.saturating_sub(Renewals::again(left));
            tries += 1;
        }
        assert!((20..100).contains(&tries), "{tries}");
        assert_eq!(Renewals::again(left), AGAIN.1);
    }
}
