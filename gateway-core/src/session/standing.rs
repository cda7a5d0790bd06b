//! How one device stands with the hub.

use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::credential::SasToken;
use crate::error::{ErrorKind, UpstreamError};
use crate::explain::{CredentialKind, LastError, RefusalExplanation};
use crate::upstream::Interest;

/// What is kept of an error's text, in characters: it may come from the hub.
const LONGEST_TEXT: usize = 200;

/// How the device stands with the hub. Changed only by whoever holds the device's gate.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// What it is attached with, and wants to hear as far as the hub knows.
    pub(super) attached: Option<(CredentialKind, Interest)>,
    /// What the device wants to hear now; the hub may not have been told yet.
    pub(super) wanted: Interest,
    /// Whether the upstream may know the device: from before an attach is asked for, since one that
    /// fails or is given up may have come through, until a detach.
    pub(super) is_held: bool,
    /// The number of the last attach that the hub accepted. The end of an earlier one is stale.
    pub(super) attach: u64,
    /// What most devices have none of: they are many.
    rare: Option<Box<Rare>>,
}

#[derive(Debug, Default)]
struct Rare {
    /// The token that the device presented last among those that the hub took.
    token: Option<SasToken>,
    /// The last of the device's own credential, and the last of any other token: anybody may present
    /// one, and neither pushes the other out.
    refusals: [Option<Box<Refusal>>; 2],
    failure: Option<Failure>,
}

/// A refusal by the hub, and of what: a bad token says nothing about a good one.
#[derive(Debug)]
struct Refusal {
    until: Instant,
    kind: ErrorKind,
    token: Option<Digested>,
    /// Refusals of the same, one after another.
    count: u32,
}

/// Stands for a token's text, which whoever presents it may make long: SHA-256.
type Digested = [u8; 32];

fn digest(token: &SasToken) -> Digested {
    Sha256::digest(token.secret_text()).into()
}

impl Refusal {
    /// The refusal while it is young.
    fn stands(&self) -> Option<RefusalExplanation> {
        let left = self.until.saturating_duration_since(Instant::now());
        let kind = self.kind;
        (!left.is_zero()).then_some(RefusalExplanation { kind, left })
    }
}

/// The last error that became a settlement.
#[derive(Debug)]
struct Failure {
    kind: ErrorKind,
    at: Instant,
    text: Box<str>,
}

impl Standing {
    /// Tells whether the device is attached, its token not expired.
    pub(super) fn is_attached(&self) -> bool {
        let is_valid = |token: &SasToken| SystemTime::now() < token.expires();
        self.attached.is_some() && self.token().is_none_or(is_valid)
    }

    /// Tells whether the device is attached with this interest.
    pub(super) fn stands(&self, interest: Interest) -> bool {
        self.attached.is_some_and(|(_, has)| has == interest) && self.is_attached()
    }

    /// Tells whether the hub may have something to say to the device: one that refuses it another
    /// interest leaves it what it had.
    pub(super) fn may_be_subscribed(&self) -> bool {
        self.is_held && !self.attached.is_some_and(|(_, has)| has == Interest::NONE)
    }

    pub(super) fn token(&self) -> Option<&SasToken> {
        self.rare.as_ref()?.token.as_ref()
    }

    fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        let refusals = self.rare.iter().flat_map(|rare| &rare.refusals);
        refusals.filter_map(Option::as_deref)
    }

    /// The refusal that stands, and for how long it does; the device's own before another's.
    pub(super) fn refused(&self) -> Option<RefusalExplanation> {
        self.refusals().find_map(Refusal::stands)
    }

    /// Fails while the hub's refusal of this token, or of the device without one, is young.
    pub(super) fn check(&self, token: Option<&SasToken>) -> Result<(), UpstreamError> {
        let mut refusals = self.refusals().peekable();
        // Most devices have none.
        let token = refusals.peek().and(token).map(digest);
        let of_this = refusals.find(|refusal| refusal.token == token);
        match of_this.and_then(Refusal::stands) {
            Some(RefusalExplanation { kind, left }) => {
                Err(UpstreamError::new(kind, "attach").with_retry_after(left))
            }
            None => Ok(()),
        }
    }

    pub(super) fn accept(
        &mut self,
        attach: u64,
        token: Option<SasToken>,
        credential: CredentialKind,
        interest: Interest,
    ) {
        self.attach = attach;
        self.attached = Some((credential, interest));
        self.wanted = interest;
        match (&mut self.rare, token) {
            (None, None) => {}
            (rare, token) => {
                let rare = rare.get_or_insert_default();
                (rare.token, rare.refusals) = (token, Default::default());
            }
        }
    }

    /// Remembers a refusal for a while, so that a bad device costs the hub little.
    pub(super) fn refuse(&mut self, token: Option<SasToken>, kind: ErrorKind, backoff: &Backoff) {
        let is_own = token.as_ref() == self.token();
        if is_own {
            self.attached = None;
        }
        let token = token.as_ref().map(digest);
        let [own, others] = &mut self.rare.get_or_insert_default().refusals;
        let last = if is_own { own } else { others };
        let of_this = last.as_ref().filter(|refusal| refusal.token == token);
        let before = of_this.map_or(0, |refusal| refusal.count);
        *last = Some(Box::new(Refusal {
            until: Instant::now() + backoff.delay(before),
            kind,
            token,
            count: before.saturating_add(1),
        }));
    }

    /// Notes that the hub does not know the device any more.
    pub(super) fn forget(&mut self) {
        self.attached = None;
    }

    /// Remembers why a message was not accepted.
    pub(super) fn fail(&mut self, error: &UpstreamError) {
        let text = match std::error::Error::source(error) {
            Some(source) => source.to_string(),
            None => error.to_string(),
        };
        self.rare.get_or_insert_default().failure = Some(Failure {
            kind: error.kind(),
            at: Instant::now(),
            text: text.chars().take(LONGEST_TEXT).collect(),
        });
    }

    pub(super) fn last_error(&self) -> Option<LastError> {
        let failure = self.rare.as_ref()?.failure.as_ref()?;
        let ago = failure.at.elapsed();
        Some(LastError::new(failure.kind, &*failure.text, ago))
    }
}

/// Tells whether the hub would say the same again.
pub(super) fn is_lasting(kind: ErrorKind) -> bool {
    use ErrorKind::{Rejected, Unauthorized, UnknownDevice, Unsupported};
    matches!(kind, Rejected | Unauthorized | UnknownDevice | Unsupported)
}
