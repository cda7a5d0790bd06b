//! Requests as a network server makes them.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Posts JSON on a connection of its own, and gives the status.
pub(crate) async fn post(address: SocketAddr, path: &str, token: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let sent = stream.write_all(head.as_bytes()).await;
    sent.expect("the head is read");
    // One that is refused early is not read to its end.
    drop(stream.write_all(body).await);
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.expect("an answer");
    let status = answer.split(' ').nth(1).expect("a status");
    status.parse().expect("a number")
}

/// Takes one request, answers it, and gives what [`read_request`] does.
pub(crate) async fn take_request(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    status: &str,
) -> Option<(String, Value)> {
    let request = read_request(stream).await?;
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    Some(request)
}

/// Reads one request, and gives its head in lower case and its body; none when the connection ends
/// instead.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Value)> {
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&request);
        // The body is whole when it is JSON.
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            return Some((head.to_lowercase(), body));
        }
    }
}
