//! Cookies that show that a client receives at its address, with nothing remembered for them.

use std::net::SocketAddr;
use std::time::Duration;

use super::wire::{COOKIE_LENGTH, Hello};
use crate::proto::{Random, Seed};

/// How long a cookie is taken, at least; at most it is twice as long. A client brings it back at
/// once, or after a few retransmissions.
const LIFETIME: u64 = 60;

/// Makes and checks cookies: signatures of the client's address, its random and the time.
#[derive(Debug)]
pub(super) struct Cookies(Random);

impl Cookies {
    pub(super) fn new(seed: Seed) -> Self {
        Self(Random::new(seed))
    }

    pub(super) fn make(
        &self,
        now: Duration,
        from: SocketAddr,
        hello: &Hello,
    ) -> [u8; COOKIE_LENGTH] {
        self.make_in(now.as_secs() / LIFETIME, from, hello)
    }

    pub(super) fn is_good(&self, now: Duration, from: SocketAddr, hello: &Hello) -> bool {
        let Some(cookie) = hello.cookie else {
            return false;
        };
        let window = now.as_secs() / LIFETIME;
        let windows = [Some(window), window.checked_sub(1)];
        let mut windows = windows.into_iter().flatten();
        windows.any(|window| self.make_in(window, from, hello) == cookie)
    }

    fn make_in(&self, window: u64, from: SocketAddr, hello: &Hello) -> [u8; COOKIE_LENGTH] {
        let mut cookie = [0; COOKIE_LENGTH];
        for (part, bytes) in cookie.chunks_exact_mut(8).enumerate() {
            let signed = ("dtls cookie", part, window, from, hello.random);
            bytes.copy_from_slice(&self.0.sign(&signed).to_be_bytes());
        }
        cookie
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_holds_for_its_address_and_hello_and_time_only() {
        let cookies = Cookies::new(Seed([1, 2]));
        let [here, there] = ["192.0.2.1:5", "192.0.2.1:6"].map(|text| text.parse().unwrap());
        let at = Duration::from_secs;
        let mut hello = Hello {
            message_seq: 1,
            random: [3; 32],
            cookie: None,
        };
        assert!(!cookies.is_good(at(59), here, &hello));
        hello.cookie = Some(cookies.make(at(59), here, &hello));
        assert!(cookies.is_good(at(59), here, &hello));
        assert!(cookies.is_good(at(119), here, &hello));
        assert!(!cookies.is_good(at(120), here, &hello));
        assert!(!cookies.is_good(at(59), there, &hello));
        assert!(!Cookies::new(Seed([1, 3])).is_good(at(59), here, &hello));
        hello.random = [4; 32];
        assert!(!cookies.is_good(at(59), here, &hello));
    }
}
