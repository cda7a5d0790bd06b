//! Compares what devices were told with what the hub has.

use std::collections::HashMap;

/// What a device was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) device: String,
    /// The sequence numbers of acknowledged messages.
    pub(crate) acked: Vec<u32>,
}

/// What the comparison finds, counted in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Acknowledged and recorded.
    pub(crate) accepted: u64,
    /// Acknowledged and not recorded.
    pub(crate) lost: u64,
    /// Recorded once more than needed.
    pub(crate) duplicated: u64,
    /// Recorded for the first time after a later message of the same device.
    pub(crate) out_of_order: u64,
    /// Recorded, but no message of that device.
    pub(crate) foreign: u64,
}

/// The message id that carries the device and its sequence number.
pub(crate) fn message_id(device: &str, sequence: u32) -> String {
    format!("{device}-{sequence}")
}

fn sequence_of(device: &str, message_id: &str) -> Option<u32> {
    message_id
        .strip_prefix(device)?
        .strip_prefix('-')?
        .parse()
        .ok()
}

/// Compares message by message. `recorded` holds device and message id, in the hub's order for
/// each device; every device sends sequence numbers from 1 to `messages`.
pub(crate) fn compare<'a>(
    fleet: &[Told],
    messages: u32,
    recorded: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut sequences: HashMap<&str, Vec<u32>> = fleet
        .iter()
        .map(|told| (told.device.as_str(), Vec::new()))
        .collect();
    for (device, message_id) in recorded {
        let sequence = message_id
            .and_then(|id| sequence_of(device, id))
            .filter(|sequence| (1..=messages).contains(sequence));
        match (sequences.get_mut(device), sequence) {
            (Some(sequences), Some(sequence)) => sequences.push(sequence),
            _ => verdict.foreign += 1,
        }
    }
    let mut seen = vec![false; messages as usize + 1];
    for told in fleet {
        seen.fill(false);
        let mut latest = 0;
        for &sequence in sequences.get(told.device.as_str()).into_iter().flatten() {
            if std::mem::replace(&mut seen[sequence as usize], true) {
                verdict.duplicated += 1;
            } else if sequence < latest {
                verdict.out_of_order += 1;
            }
            latest = latest.max(sequence);
        }
        for &sequence in &told.acked {
            match seen.get(sequence as usize) {
                Some(true) => verdict.accepted += 1,
                _ => verdict.lost += 1,
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(acked: &[u32], recorded: &[&str]) -> Verdict {
        let fleet = [
            Told {
                device: "d1".into(),
                acked: acked.to_vec(),
            },
            Told {
                device: "d2".into(),
                acked: vec![],
            },
        ];
        compare(&fleet, 5, recorded.iter().map(|id| ("d1", Some(*id))))
    }

    #[test]
    fn what_was_acknowledged_and_recorded_is_accepted() {
        let expected = Verdict {
            accepted: 3,
            ..Verdict::default()
        };
        assert_eq!(verdict(&[1, 2, 3], &["d1-1", "d1-2", "d1-3"]), expected);
        assert_eq!(message_id("d1", 3), "d1-3");
    }

    #[test]
    fn what_was_acknowledged_and_not_recorded_is_lost() {
        let expected = Verdict {
            accepted: 1,
            lost: 2,
            ..Verdict::default()
        };
        assert_eq!(verdict(&[1, 2, 3], &["d1-2"]), expected);
    }

    #[test]
    fn what_was_recorded_and_not_acknowledged_is_nobodys_fault() {
        let expected = Verdict {
            accepted: 1,
            ..Verdict::default()
        };
        assert_eq!(verdict(&[1], &["d1-1", "d1-2"]), expected);
    }

    #[test]
    fn a_message_sent_again_is_a_duplicate_and_not_out_of_order() {
        let expected = Verdict {
            accepted: 2,
            duplicated: 2,
            ..Verdict::default()
        };
        assert_eq!(
            verdict(&[1, 2], &["d1-1", "d1-2", "d1-1", "d1-2"]),
            expected
        );
    }

    #[test]
    fn a_message_overtaken_by_a_later_one_is_out_of_order() {
        let expected = Verdict {
            accepted: 4,
            out_of_order: 2,
            ..Verdict::default()
        };
        assert_eq!(
            verdict(&[1, 2, 3, 4], &["d1-1", "d1-4", "d1-2", "d1-3"]),
            expected
        );
    }

    #[test]
    fn what_no_device_of_the_fleet_sent_is_foreign() {
        let fleet = [Told {
            device: "d1".into(),
            acked: vec![],
        }];
        let recorded = [
            ("d1", None),
            ("d1", Some("d1-6")),
            ("d1", Some("d1-0")),
            ("d1", Some("d2-1")),
            ("d1", Some("junk")),
            ("d3", Some("d3-1")),
        ];
        let expected = Verdict {
            foreign: 6,
            ..Verdict::default()
        };
        assert_eq!(compare(&fleet, 5, recorded), expected);
    }
}
