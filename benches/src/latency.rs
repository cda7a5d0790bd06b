//! Quantiles of what was waited for.

use std::time::Duration;

/// Waits, each of them kept.
#[derive(Debug, Clone, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Adds one.
    pub fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The latency that this share of all does not exceed, in microseconds; 0 if there is none.
    #[must_use]
    pub fn quantile_us(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let place = (self.0.len() as f64 * share).ceil() as usize;
        let place = place.clamp(1, self.0.len().max(1));
        self.0
            .get(place - 1)
            .map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_latencies() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_us(0.99), 0.0);
        (1..=100)
            .rev()
            .for_each(|n| latencies.push(Duration::from_micros(n)));
        assert_eq!(latencies.quantile_us(0.5).round(), 50.0);
        assert_eq!(latencies.quantile_us(0.99).round(), 99.0);
        assert_eq!(latencies.quantile_us(1.0).round(), 100.0);
    }
}
