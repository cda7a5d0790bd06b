//! Where a reader starts.

/// A place in a partition: behind what it names, or at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) by: By,
    pub(crate) inclusive: bool,
}

/// What a position names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// An event, by offset; -1 is before all of them.
    Offset(i64),
    /// An event, by sequence number.
    Sequence(i64),
    /// A time, in milliseconds since the Unix epoch.
    Enqueued(i64),
    /// The event that came last.
    Latest,
}

impl Position {
    /// Before all events.
    pub(crate) const START: Self = Self {
        by: By::Offset(-1),
        inclusive: false,
    };
}
