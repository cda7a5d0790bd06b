//! The first messages of a DTLS client, written by hand (RFC 6347, section 4.2).

/// Where a request for a cookie has it, and its length.
const COOKIE: std::ops::Range<usize> = 28..60;

/// A hello of a client with this random, for TLS_PSK_WITH_AES_128_CCM_8 and the extended master
/// secret.
pub(crate) fn hello(number: u32, cookie: &[u8]) -> Vec<u8> {
    let mut random = [7; 32];
    random[..4].copy_from_slice(&number.to_be_bytes());
    let body = [
        &[0xfe, 0xfd][..],
        &random,
        &[0],
        &[cookie.len() as u8],
        cookie,
        &[0, 2, 0xc0, 0xa8],
        &[1, 0],
        &[0, 4, 0, 0x17, 0, 0],
    ]
    .concat();
    let message_seq = u8::from(!cookie.is_empty());
    let length = [0, 0, body.len() as u8];
    let handshake = [
        &[1][..],
        &length,
        &[0, message_seq],
        &[0; 3],
        &length,
        &body,
    ]
    .concat();
    let head = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, message_seq];
    [&head[..], &[0, handshake.len() as u8], &handshake].concat()
}

/// The cookie that a server asks for.
pub(crate) fn cookie_of(request: &[u8]) -> &[u8] {
    &request[COOKIE]
}
