//! The end of a connection.

use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long a closed connection waits for the peer to take the last bytes.
const LINGER: Duration = Duration::from_secs(1);

/// Writes the last bytes, says goodbye, and waits up to a second for the peer to do the same: a
/// socket closed with bytes unread resets the connection, and with it what was just written.
///
/// A peer that does not take the last bytes within `patience` is not waited for.
pub async fn close<S>(mut stream: S, mut last: impl Buf, patience: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let goodbye = async {
        stream.write_all_buf(&mut last).await?;
        stream.shutdown().await
    };
    if !matches!(timeout(patience, goodbye).await, Ok(Ok(()))) {
        return;
    }
    let mut scrap = [0; 512];
    let unread = async { while matches!(stream.read(&mut scrap).await, Ok(1..)) {} };
    // Whatever comes, or does not: nothing more can be done for it.
    drop(timeout(LINGER, unread).await);
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_last_bytes_arrive_though_the_peer_was_still_speaking() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut peer = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        peer.write_all(&[b'x'; 10_000]).await.unwrap();
        stream.readable().await.unwrap();
        let heard = async {
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).await.unwrap();
            drop(peer);
            heard
        };
        let closed = close(stream, &b"bye"[..], Duration::from_secs(30));
        let ((), heard) = tokio::join!(closed, heard);
        assert_eq!(heard, b"bye");
    }
}
