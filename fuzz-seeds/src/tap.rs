//! Listening in on connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::{io, thread};

use crate::{Conversation, are_kept};

/// Gives an address whose connections go to another one, where both sides are listened to; that other
/// one if seeds are not kept. `up` and `down` are a target and what it is told before the bytes.
///
/// # Panics
/// Panics if no port is free.
#[must_use]
pub fn tap(
    address: SocketAddr,
    up: (&'static str, &'static [u8]),
    down: (&'static str, &'static [u8]),
) -> SocketAddr {
    if !are_kept() {
        return address;
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let tapped = listener.local_addr().expect("the port is bound");
    thread::spawn(move || {
        for near in listener.incoming() {
            let Ok((near, far)) = near.and_then(|near| Ok((near, TcpStream::connect(address)?)))
            else {
                continue;
            };
            let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else {
                continue;
            };
            thread::spawn(move || copy(near, far, Conversation::new(up.0, up.1)));
            thread::spawn(move || copy(far_too, near_too, Conversation::new(down.0, down.1)));
        }
    });
    tapped
}

/// Copies until either side is gone, and takes the other one along.
fn copy(mut from: TcpStream, mut to: TcpStream, mut heard: Conversation) {
    let mut buffer = [0; 16 * 1024];
    let mut pass = || -> io::Result<usize> {
        let length = from.read(&mut buffer)?;
        to.write_all(&buffer[..length])?;
        heard.say(&buffer[..length]);
        Ok(length)
    };
    while matches!(pass(), Ok(1..)) {}
    for side in [from, to] {
        // It may be gone already.
        drop(side.shutdown(Shutdown::Both));
    }
}
