//! What all sessions' engines share: settings, the key of the moment, the cookie of the moment.

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use dimpl::crypto::{CryptoProvider, Dtls12CipherSuite, HashAlgorithm, HmacProvider, rust_crypto};
use dimpl::{Config, CryptoError, PskResolver};

use super::config::DtlsConfig;
use super::session::MAX_HELD;
use super::store::PskKey;
use super::wire::COOKIE_LENGTH;

/// Makes the engine of a session.
#[derive(Clone)]
pub(super) struct Engines {
    pub(super) config: Arc<Config>,
    pub(super) keys: Arc<KeyOfTheMoment>,
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engines(..)")
    }
}

impl Engines {
    pub(super) fn new(config: &DtlsConfig) -> Result<Self, dimpl::Error> {
        let keys = Arc::new(KeyOfTheMoment::default());
        let provider = CryptoProvider {
            hmac_provider: &CookieOfTheMoment,
            ..rust_crypto::default_provider()
        };
        let config = Config::builder()
            .with_crypto_provider(provider)
            .with_psk_server(None, keys.clone())
            .dtls12_cipher_suites(&[Dtls12CipherSuite::PSK_AES128_CCM_8])
            .dtls13_cipher_suites(&[])
            .flight_start_rto(config.retransmission_timeout)
            .flight_retries(config.max_retransmit)
            .handshake_timeout(config.handshake_timeout)
            .max_queue_rx(MAX_HELD)
            .build()?;
        Ok(Self {
            config: Arc::new(config),
            keys,
        })
    }
}

/// Answers engines that ask for the key of an identity, while one of them is at work.
///
/// An engine asks through its settings, which would have to be made and checked anew for every
/// session if each had its own key there.
#[derive(Default)]
pub(super) struct KeyOfTheMoment(Mutex<Option<(String, PskKey)>>);

impl KeyOfTheMoment {
    /// Has the engine at work get this key, if the client names this identity to the engine too.
    pub(super) fn during<R>(&self, identity: String, key: PskKey, work: impl FnOnce() -> R) -> R {
        self.set(Some((identity, key)));
        let result = work();
        self.set(None);
        result
    }

    fn set(&self, known: Option<(String, PskKey)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

impl PskResolver for KeyOfTheMoment {
    fn resolve(&self, identity: &[u8]) -> Option<Vec<u8>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, key) = known.as_ref()?;
        (name.as_bytes() == identity).then(|| key.expose().to_vec())
    }
}

thread_local! {
    static COOKIE: Cell<Option<[u8; COOKIE_LENGTH]>> = const { Cell::new(None) };
}

/// Has the engine at work take this cookie, which was checked before there was an engine.
///
/// An engine knows only cookies that it has made itself, and to make one it has to exist: that
/// would be memory for every forged address. It computes them by HMAC-SHA256 through its
/// [`CryptoProvider`], so that is where it is told. Its key schedule uses
/// [`hmac`](HmacProvider::hmac) and is not touched.
pub(super) fn with_cookie<R>(cookie: [u8; COOKIE_LENGTH], work: impl FnOnce() -> R) -> R {
    COOKIE.set(Some(cookie));
    let result = work();
    COOKIE.set(None);
    result
}

#[derive(Debug)]
struct CookieOfTheMoment;

impl HmacProvider for CookieOfTheMoment {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        match COOKIE.get() {
            Some(cookie) => Ok(cookie),
            None => rust_crypto::default_provider()
                .hmac_provider
                .hmac_sha256(key, data),
        }
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        rust_crypto::default_provider()
            .hmac_provider
            .hmac(hash, key, data, out)
    }
}
