//! The order of ranked jobs and the next plain one.

use std::collections::{BTreeMap, BTreeSet};

/// A job's place: smaller is sooner. A plain job's rank is its birth, in nanoseconds of any one
/// clock. To favour a job, make its rank smaller than its birth. It then goes before jobs born up
/// to that much earlier, and no job waits without limit.
pub type Rank = i64;

/// A job's class, higher is better; a plain job's is zero.
pub type Level = i32;

/// Rank, then arrival.
type Place = (Rank, u64);

/// Ranked jobs, and at most one plain job, taken out of the FIFO to see its birth.
pub(crate) struct PriorityQueue<J> {
    ranked: BTreeMap<Place, (Level, J)>,
    /// The same by level, for [`PriorityQueue::lowest`].
    levels: BTreeSet<(Level, Place)>,
    head: Option<(Rank, J)>,
    /// Ranked jobs that ever came.
    arrived: u64,
}

impl<J> PriorityQueue<J> {
    pub(crate) const fn new() -> Self {
        Self {
            ranked: BTreeMap::new(),
            levels: BTreeSet::new(),
            head: None,
            arrived: 0,
        }
    }

    pub(crate) fn add(&mut self, job: J, level: Level, rank: Rank) {
        let place = (rank, self.arrived);
        self.arrived += 1;
        self.ranked.insert(place, (level, job));
        self.levels.insert((level, place));
    }

    pub(crate) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    pub(crate) fn set_head(&mut self, job: J, birth: Rank) {
        debug_assert!(self.head.is_none(), "a job is dropped");
        self.head = Some((birth, job));
    }

    /// Takes out the next job.
    pub(crate) fn first(&mut self) -> Option<J> {
        let first = self.ranked.first_key_value();
        let ranked = first.map(|(&place, &(level, _))| (level, place));
        match (&self.head, ranked) {
            (Some((birth, _)), Some((_, (rank, _)))) if *birth <= rank => self.take_head(),
            (_, Some(ranked)) => self.take(ranked),
            (_, None) => self.take_head(),
        }
    }

    /// Takes out the oldest job of the lowest level.
    pub(crate) fn lowest(&mut self) -> Option<J> {
        let ranked = self.levels.first().copied();
        match (&self.head, ranked) {
            (Some((birth, _)), Some((level, (rank, _)))) if (0, *birth) <= (level, rank) => {
                self.take_head()
            }
            (_, Some(ranked)) => self.take(ranked),
            (_, None) => self.take_head(),
        }
    }

    /// The ranked jobs in their order.
    pub(crate) fn ranked(&self) -> impl Iterator<Item = &J> {
        self.ranked.values().map(|(_, job)| job)
    }

    pub(crate) fn len(&self) -> usize {
        self.ranked.len() + usize::from(self.head.is_some())
    }

    /// Whether a ranked job ever came.
    pub(crate) fn is_used(&self) -> bool {
        self.arrived > 0
    }

    fn take_head(&mut self) -> Option<J> {
        self.head.take().map(|(_, job)| job)
    }

    fn take(&mut self, ranked: (Level, Place)) -> Option<J> {
        self.levels.remove(&ranked);
        self.ranked.remove(&ranked.1).map(|(_, job)| job)
    }
}
