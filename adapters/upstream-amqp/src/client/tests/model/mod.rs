//! Any order of what a client does and what a hub says, held against the hub's own books.

mod acts;
#[cfg(test)]
mod any;
mod book;
#[cfg(test)]
mod runs;
mod world;

pub(in crate::client) use acts::Act;
use world::World;

/// How a run begins, and how it ends.
#[derive(Debug, Clone)]
pub(in crate::client) struct Run {
    /// Bytes that gather before messages wait.
    room: usize,
    /// Windows of the sessions that there are.
    windows: Vec<u32>,
    links: usize,
    /// Whether the connection breaks at the end. Otherwise a good hub answers all there is.
    is_cut: bool,
    /// Whether the hub may do what it must not. Then the connection breaks at the end.
    is_strange: bool,
}

impl Run {
    /// Has all this happen.
    pub(in crate::client) fn play(&self, acts: impl IntoIterator<Item = Act>) {
        let mut world = World::new(self.room, self.is_strange);
        world.open(&self.windows, self.links);
        for act in acts {
            // What no hub should do, only a strange one does.
            if self.is_strange || !matches!(act, Act::Strange(_)) {
                world.act(act);
            }
        }
        match self.is_cut || self.is_strange {
            true => world.cut(),
            false => world.wind_up(),
        }
    }
}

#[cfg(feature = "fuzzing")]
impl<'a> arbitrary::Arbitrary<'a> for Run {
    fn arbitrary(from: &mut arbitrary::Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut windows = vec![acts::few(from)?];
        if from.arbitrary()? {
            windows.push(acts::few(from)?);
        }
        Ok(Self {
            room: *from.choose(&[1, 600, 1 << 20])?,
            windows,
            links: from.int_in_range(0..=5)?,
            is_cut: from.arbitrary()?,
            is_strange: from.arbitrary()?,
        })
    }
}
