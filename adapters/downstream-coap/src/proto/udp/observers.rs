//! Who wants to be told of changes (RFC 7641).

use crate::proto::block::Wanted;
use crate::proto::message::Token;

/// The observations of one peer.
#[derive(Debug, Default)]
pub(super) struct Observers {
    list: Vec<Observer>,
    /// The observation of which a notification is not acknowledged.
    pub(super) notifying: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct Observer {
    pub(super) serial: u64,
    pub(super) token: Token,
    pub(super) wanted: Wanted,
}

impl Observers {
    pub(super) fn add(&mut self, observer: Observer) {
        self.list.push(observer);
    }

    pub(super) fn find(&mut self, serial: u64) -> Option<&mut Observer> {
        let mut list = self.list.iter_mut();
        list.find(|observer| observer.serial == serial)
    }

    /// The observation that a registration or deregistration means: that of its token (section 4.1),
    /// or of the same resource, as of a device that has lost its token.
    pub(super) fn meant(&self, token: Token, wanted: &Wanted) -> Option<u64> {
        let mut list = self.list.iter();
        list.find(|one| one.token == token || one.wanted.is_same(wanted))
            .map(|one| one.serial)
    }

    pub(super) fn of_token(&self, token: Token) -> Option<u64> {
        let mut list = self.list.iter();
        list.find(|one| one.token == token).map(|one| one.serial)
    }

    pub(super) fn remove(&mut self, serial: u64) -> bool {
        let before = self.list.len();
        self.list.retain(|observer| observer.serial != serial);
        self.list.len() < before
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.list.first().map(|observer| observer.serial)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }
}
