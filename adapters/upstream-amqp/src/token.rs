//! When to renew a token.

use std::time::Duration;

/// Waits until 10 to 20 % of the token's life are left: many tokens put at once, as after a
/// reconnect, are not renewed at once.
pub(crate) fn renewal(ttl: Duration) -> Duration {
    let random = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    // An expiry is a whole second, rounded down: up to one second of the life is not there.
    let life = ttl.saturating_sub(Duration::from_secs(1));
    life.mul_f64(0.8 + 0.1 * random)
}
