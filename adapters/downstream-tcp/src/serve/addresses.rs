//! How many connections come from where.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::task::Id;

/// Counts connections by address, the network of one customer in IPv6 being one address.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    counts: HashMap<IpAddr, usize>,
    connections: HashMap<Id, IpAddr>,
}

/// The part of an address that its owner cannot change at will.
fn source(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

impl Addresses {
    pub(super) fn count(&self, address: SocketAddr) -> usize {
        self.counts
            .get(&source(address))
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn add(&mut self, connection: Id, address: SocketAddr) {
        let source = source(address);
        *self.counts.entry(source).or_default() += 1;
        self.connections.insert(connection, source);
    }

    pub(super) fn remove(&mut self, connection: Id) {
        let Some(source) = self.connections.remove(&connection) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_one_ipv6_network_are_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:9"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("[::ffff:10.0.0.1]:1"), of("10.0.0.1:2"));
    }
}
