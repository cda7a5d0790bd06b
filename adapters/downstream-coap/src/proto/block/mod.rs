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

use crate::proto::message::{Message, option};
use crate::proto::random::Random;

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
