//! How far bringing devices back has come.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lock;

/// Counts devices that were lost and are not back.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Option<Spell>>);

/// The time from the first loss until nobody is missing.
#[derive(Debug)]
struct Spell {
    begun: Instant,
    left: usize,
    back: usize,
}

/// Is a device that is not back. Dropped when it is, or is no longer waited for.
#[derive(Debug)]
pub struct Missing<'a>(&'a Progress);

impl Drop for Missing<'_> {
    fn drop(&mut self) {
        let mut spell = lock(&self.0.0);
        if let Some(now) = &mut *spell {
            now.left -= 1;
            now.back += 1;
            if now.left == 0 {
                *spell = None;
            }
        }
    }
}

impl Progress {
    /// Counts one more device as lost, until what this gives is dropped.
    #[must_use]
    pub fn missing(&self) -> Missing<'_> {
        let mut spell = lock(&self.0);
        let spell = spell.get_or_insert_with(|| Spell {
            begun: Instant::now(),
            left: 0,
            back: 0,
        });
        spell.left += 1;
        Missing(self)
    }

    /// Tells how many are missing.
    #[must_use]
    pub fn left(&self) -> usize {
        lock(&self.0).as_ref().map_or(0, |spell| spell.left)
    }

    /// Tells when the last will be back at the speed of this spell; none before the first is.
    #[must_use]
    pub fn forecast(&self) -> Option<Duration> {
        let spell = lock(&self.0);
        let spell = spell.as_ref().filter(|spell| spell.back > 0)?;
        Some(
            spell
                .begun
                .elapsed()
                .mul_f64(spell.left as f64 / spell.back as f64),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_forecast_follows_the_speed_of_this_spell() {
        let progress = Progress::default();
        let mut missing: Vec<_> = (0..100).map(|_| progress.missing()).collect();
        assert_eq!(progress.forecast(), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        missing.truncate(80);
        assert_eq!(progress.left(), 80);
        assert_eq!(progress.forecast(), Some(Duration::from_secs(40)));
        drop(missing);
        assert_eq!((progress.left(), progress.forecast()), (0, None));
    }
}
