//! Addresses of the Event Hubs side, and of the hub's own address that leads there.

/// What an address means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// A partition, for one consumer group.
    Partition {
        entity: &'a str,
        group: &'a str,
        partition: &'a str,
    },
    /// The node that tells about the event hub and its partitions.
    Management,
    /// The event hub or a partition of it, as a producer would use it.
    Producer { entity: &'a str },
    /// `messages/events` with what follows, from where readers are sent on.
    BuiltIn { suffix: &'a [&'a str] },
}

/// Resolves an address for one direction; `None` if it is none of these. A producer's address is
/// known only with the name of this event hub.
pub(crate) fn resolve<'a>(
    path: &'a [&'a str],
    peer_receives: bool,
    entity: &str,
) -> Option<Place<'a>> {
    let is = |word: &str, keyword: &str| word.eq_ignore_ascii_case(keyword);
    match *path {
        ["$management"] => Some(Place::Management),
        [own, "$management"] if is(own, entity) => Some(Place::Management),
        [messages, events, ref suffix @ ..]
            if is(messages, "messages")
                && is(events, "events")
                && (peer_receives || *suffix == ["$management"]) =>
        {
            Some(Place::BuiltIn { suffix })
        }
        [entity, groups, group, partitions, partition]
            if is(groups, "ConsumerGroups") && is(partitions, "Partitions") =>
        {
            Some(if peer_receives {
                Place::Partition {
                    entity,
                    group,
                    partition,
                }
            } else {
                Place::Producer { entity }
            })
        }
        [own] if is(own, entity) => Some(Place::Producer { entity: own }),
        [own, partitions, _] if is(own, entity) && is(partitions, "Partitions") => {
            Some(Place::Producer { entity: own })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_where_the_sdks_expect() {
        let at = |path: &[&str], receives| {
            resolve(path, receives, "hub").map(|place| format!("{place:?}"))
        };
        let partition = ["hub", "ConsumerGroups", "$Default", "Partitions", "3"];
        assert!(at(&partition, true).unwrap().starts_with("Partition"));
        assert!(at(&partition, false).unwrap().starts_with("Producer"));
        assert!(at(&["Hub"], false).unwrap().starts_with("Producer"));
        assert!(at(&["hub", "Partitions", "0"], false).is_some());
        assert_eq!(at(&["other"], false), None);
        assert_eq!(at(&["$management"], true), Some("Management".to_owned()));
        assert_eq!(
            at(&["hub", "$management"], false),
            Some("Management".to_owned())
        );
        assert!(at(&["messages", "events"], true).is_some());
        assert!(at(&["messages", "events", ""], true).is_some());
        assert!(at(&["messages", "events", "$management"], false).is_some());
        assert_eq!(at(&["messages", "events"], false), None);
        assert_eq!(at(&["messages", "devicebound"], true), None);
    }
}
