//! A hub that acknowledges every packet and says nothing else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;

/// Ends with this value.
#[derive(Debug)]
pub(crate) struct MuteHub {
    pub(crate) address: SocketAddr,
    _task: JoinSet<()>,
}

impl MuteHub {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(async move { drop(serve(socket).await) });
            }
        });
        Self {
            address,
            _task: task,
        }
    }
}

async fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    loop {
        let kind = socket.read_u8().await? >> 4;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = socket.read_u8().await?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        socket.read_exact(&mut body).await?;
        let answer = match kind {
            CONNECT => vec![0x20, 2, 0, 0],
            PUBLISH => {
                // Behind the topic.
                let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                vec![0x40, 2, body[at], body[at + 1]]
            }
            // One filter, granted at least once.
            SUBSCRIBE => vec![0x90, 3, body[0], body[1], 1],
            _ => continue,
        };
        socket.write_all(&answer).await?;
    }
}
