//! How many connections come from where.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts connections by source, the network of one customer in IPv6 being one source.
#[derive(Debug, Clone, Default)]
pub struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection's place among those of its source; dropped, it is free again.
#[derive(Debug)]
pub struct Place {
    sources: Sources,
    source: IpAddr,
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // The map is whole between statements, whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from there, if there are not as many already.
    pub fn enter(&self, address: SocketAddr, most: usize) -> Option<Place> {
        let source = source(address);
        let mut counts = self.lock();
        let count = counts.entry(source).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        let sources = self.clone();
        Some(Place { sources, source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.sources.lock();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// The part of an address that its owner cannot change at will.
fn source(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_so_many_places_and_gets_them_back() {
        let sources = Sources::default();
        let enter = |text: &str| sources.enter(text.parse().unwrap(), 2);
        let (first, second) = (enter("[2001:db8::1]:1"), enter("[2001:db8::ffff:2]:9"));
        assert!(first.is_some() && second.is_some());
        assert!(enter("[2001:db8::3]:1").is_none());
        assert!(enter("[2001:db8:0:1::1]:1").is_some());
        assert!(enter("10.0.0.1:1").is_some());
        drop(first);
        assert!(enter("[2001:db8::3]:1").is_some());
        drop(second);
        assert!(sources.lock().is_empty());
    }
}
