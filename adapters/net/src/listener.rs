//! Listening for connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use gateway_core::Backoff;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::bind::BindError;

/// Connections that the system completes before they are taken in.
const BACKLOG: i32 = 1024;

/// Takes connections in, whatever becomes of them.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    failures: u32,
}

impl Listener {
    /// Listens; port 0 takes a free one. A restarted gateway takes its address back while old
    /// connections fade away.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let listen = || {
            let socket = listen(address)?;
            let address = socket.local_addr()?;
            Ok((socket, address))
        };
        let (socket, address) = listen().map_err(|source| BindError::Listen { address, source })?;
        Ok(Self {
            socket,
            address,
            failures: 0,
        })
    }

    /// The address, with the port that was taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Gives the next connection. Where none can be taken in, most likely for want of file
    /// descriptors, it tries again after up to a second: connections that end free some.
    ///
    /// # Cancel safety
    /// Safe; the next call tries at once.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => {
                    self.failures = 0;
                    return accepted;
                }
                // The peer gave up already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    let wait = backoff(self.failures);
                    self.failures = self.failures.saturating_add(1);
                    // Not a line for each: it may go on for long.
                    if self.failures.is_power_of_two() {
                        let count = self.failures;
                        tracing::warn!(error = %error, count, "Cannot take connections in");
                    }
                    sleep(wait).await;
                }
            }
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// The wait after a failure: short, since it also holds up the next healthy connection.
fn backoff(failures: u32) -> Duration {
    Backoff::new(Duration::from_millis(10), Duration::from_secs(1))
        .unwrap_or_default()
        .delay(failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_taken_in_on_the_port_that_was_free() {
        let mut listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr();
        let (peer, (_, from)) = tokio::join!(TcpStream::connect(address), listener.accept());
        assert_eq!(peer.unwrap().local_addr().unwrap(), from);
        let taken = Listener::bind(address).unwrap_err();
        assert!(matches!(taken, BindError::Listen { address: a, .. } if a == address));
    }
}
