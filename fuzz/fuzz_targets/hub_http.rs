//! The hub's HTTPS side, with the provisioning service's and what is spoken over WebSockets: it
//! answers whatever comes, in any pieces, and not without measure.
#![no_main]

use hub_simulator::fuzzing::{Between, feed_http};
use libfuzzer_sys::fuzz_target;

const STATUS: &[u8] = b"HTTP/1.1 ";

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    // Odd: nothing happens between the pieces, and where they end changes no answer.
    let between = Between::from_bits(if piece % 2 == 1 { 0 } else { piece / 2 | 16 });
    let answered = feed_http(bytes, piece.into(), between);
    assert!(answered.is_empty() || answered.starts_with(b"HTTP/1."));
    let turns = match between {
        Between::Nothing => {
            let whole = feed_http(bytes, bytes.len(), between);
            // As far as there are answers: in pieces a request that is none may be found out later, and the line ends
            // behind an answer to one whose body has not come by then.
            assert!(statuses(&answered).zip(statuses(&whole)).all(|(piecewise, at_once)| piecewise == at_once));
            0
        }
        Between::Turn { .. } => bytes.len() / usize::from(piece.max(1)) + 1,
    };
    // The longest answers are errors, with an id and a time each; a turn brings what waits in queues.
    let bound = 4096 + bytes.len() * 64 + turns * 64 * 1024;
    assert!(answered.len() <= bound, "{} bytes for {}", answered.len(), bytes.len());
});

/// The status of each answer; the rest of it may have ids and times.
fn statuses(answered: &[u8]) -> impl Iterator<Item = &[u8]> {
    answered.windows(STATUS.len() + 3).filter(|text| text.starts_with(STATUS))
}
