//! Bodies in blocks (RFC 7959), whatever carries the blocks.

mod assembly;
mod serving;
mod transfer;
mod value;

#[cfg(test)]
mod tests;

pub(crate) use assembly::{Assemblies, Taken, unavailable};
pub(crate) use serving::{Bodies, Found, Source, Wanted};
pub(crate) use transfer::{Step, Transfer};
pub use value::Block;

use crate::proto::message::{Message, Options, option};
use crate::proto::random::Random;

/// The largest message that every network's datagrams carry (RFC 7252, section 4.6), and that every
/// stream's peer takes that has not said anything else (RFC 8323, section 5.3.1).
pub(crate) const BASE_MESSAGE_SIZE: usize = 1152;
/// What a message takes at most beside its payload and the options that it is made with: header and
/// token, what observation and blocks add, and the marker.
const HEAD: usize = 48;
/// The smallest block.
const SMALLEST: usize = 16;

/// Bytes of a payload that fit in a message of this size beside such options.
pub(crate) fn room(message_size: usize, options: &Options) -> usize {
    message_size.saturating_sub(HEAD + options.encoded_len())
}

/// Bytes of options beside which a message of this size has room for the smallest block.
pub(crate) fn options_room(message_size: usize) -> usize {
    message_size.saturating_sub(HEAD + SMALLEST)
}

/// Names what a message is about: its method and the options that a cache would compare. Blocks of
/// one body have the same name; `with_tag` tells whether bodies sent at a time are told apart.
fn name(message: &Message, with_tag: bool, random: &Random) -> u64 {
    use option::{BLOCK1, BLOCK2, ECHO, ETAG, NO_RESPONSE, OBSERVE, REQUEST_TAG, SIZE1, SIZE2};
    let is_named = |number: u16| match number {
        BLOCK1 | BLOCK2 | SIZE1 | SIZE2 | OBSERVE | ETAG | ECHO | NO_RESPONSE => false,
        REQUEST_TAG => with_tag,
        _ => true,
    };
    let options: Vec<_> = message
        .options
        .iter()
        .filter(|(number, _)| is_named(*number))
        .collect();
    random.sign(&(message.code.byte(), options))
}
