//! The listener: takes connections in, within bounds, and never ends for anything they do.

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use gateway_core::{Ingress, ServeContext};
use gateway_net::{Listener, Sources};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::config::{PROBE_INTERVAL, PROBES, TimeoutConfig};
use crate::connection::Connection;
use crate::proto::{Actions, CloseReason, Peer};
use crate::registry::Stop;
use crate::tls;

const DEFECT: &str = "a defect in its protocol";

pub(super) struct Server {
    shared: Arc<Shared>,
    ingress: Ingress,
    shutdown: CancellationToken,
    connections: JoinSet<()>,
    sources: Sources,
    refused: u64,
    /// Connections that the system does not watch.
    unwatched: u64,
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, context: ServeContext) -> Self {
        Self {
            shared,
            ingress: context.ingress,
            shutdown: context.shutdown,
            connections: JoinSet::new(),
            sources: Sources::default(),
            refused: 0,
            unwatched: 0,
        }
    }

    pub(super) async fn serve(mut self, mut listener: Listener) {
        let shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = self.connections.join_next() => report(ended),
                (stream, address) = listener.accept() => self.accepted(stream, address),
            }
        }
        drop(listener);
        while let Some(ended) = self.connections.join_next().await {
            report(ended);
        }
    }

    fn accepted(&mut self, stream: TcpStream, address: SocketAddr) {
        let limits = &self.shared.config.limits;
        let place = match self.connections.len() < limits.max_connections {
            true => self
                .sources
                .enter(address, limits.max_connections_per_address),
            false => None,
        };
        let peer = Peer::new(address);
        let Some(place) = place else {
            self.refused += 1;
            // Not a line for each: whoever floods connections must not flood the log.
            if self.refused.is_power_of_two() {
                tracing::warn!(count = self.refused, %address, "Connections refused: too many");
            }
            return self.turn_away(stream, &peer);
        };
        if let Err(error) = prepare(&stream, &self.shared.config.timeouts) {
            // It is served all the same, and if it is gone, reading says so.
            self.unwatched += 1;
            if self.unwatched.is_power_of_two() {
                let count = self.unwatched;
                tracing::warn!(count, error = %error, "A dead peer will show late: no options set");
            }
        }
        let stop = Stop::new(&self.shutdown);
        let (shared, ingress) = (self.shared.clone(), self.ingress.clone());
        let served = converse(shared, ingress, peer, stream, stop);
        self.connections.spawn(async move {
            served.await;
            drop(place);
        });
    }

    /// Says why, if that costs nothing: not over TLS, and not to a peer that does not read.
    fn turn_away(&self, stream: TcpStream, peer: &Peer) {
        if self.shared.tls.is_some() {
            return;
        }
        // This is the task of the listener and of all connections.
        let told = catch_unwind(AssertUnwindSafe(|| {
            let (mut actions, reason) = (Actions::new(), CloseReason::TooManyConnections);
            self.shared
                .factory
                .protocol(peer)
                .on_close(reason, &mut actions);
            actions
        }));
        match (told, stream.into_std()) {
            (Ok(mut actions), Ok(mut stream)) => {
                drop(io::Write::write(&mut stream, actions.output()));
            }
            (Err(_), _) => tracing::error!("Turning a connection away panicked: {DEFECT}"),
            (Ok(_), Err(_)) => {}
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(error = %error, "A connection panicked: {DEFECT}");
    }
}

/// Sets what makes dead peers show.
fn prepare(stream: &TcpStream, timeouts: &TimeoutConfig) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(timeouts.keepalive)
        .with_interval(PROBE_INTERVAL)
        .with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(timeouts.tcp_user))?;
    Ok(())
}

/// Speaks with one device to the end.
async fn converse(
    shared: Arc<Shared>,
    ingress: Ingress,
    peer: Peer,
    stream: TcpStream,
    stop: Stop,
) {
    let deadline = Instant::now() + shared.config.timeouts.hello;
    let Some(acceptor) = shared.tls.clone() else {
        Connection::new(shared, ingress, peer, stream, stop, deadline)
            .run()
            .await;
        return;
    };
    let handshake = tokio::select! {
        _ = stop.stopped() => return,
        handshake = timeout_at(deadline, acceptor.accept(stream)) => handshake,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let name = certificates.and_then(|chain| tls::name_of(chain.first()?));
            let peer = Peer {
                certificate_name: name,
                ..peer
            };
            // On the heap: it is larger than its like without TLS.
            Box::pin(Connection::new(shared, ingress, peer, stream, stop, deadline).run()).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(error = %error, peer = %peer.address, "TLS handshake failed");
        }
        Err(_) => tracing::debug!(peer = %peer.address, "TLS handshake took too long"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn stream() -> TcpStream {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        TcpStream::connect(listener.local_addr()).await.unwrap()
    }

    #[tokio::test]
    async fn a_connection_is_watched_by_the_system_for_a_dead_peer() {
        let stream = stream().await;
        prepare(&stream, &TimeoutConfig::default()).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap() && stream.nodelay().unwrap());
        // Below that, one question that is lost ends a connection.
        #[cfg(target_os = "linux")]
        assert!(
            socket.tcp_user_timeout().unwrap().unwrap()
                >= socket.tcp_keepalive_time().unwrap()
                    + socket.tcp_keepalive_retries().unwrap()
                        * socket.tcp_keepalive_interval().unwrap()
        );
    }

    #[tokio::test]
    async fn the_system_takes_the_greatest_times_that_are_allowed() {
        let timeouts = TimeoutConfig {
            keepalive: Duration::from_secs(9 * 3600),
            tcp_user: Duration::from_secs(24 * 3600),
            ..TimeoutConfig::default()
        };
        prepare(&stream().await, &timeouts).unwrap();
    }
}
