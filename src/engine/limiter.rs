//! The jobs of one key: how many may run at once, and how often one may start.
//!
//! A limiter has no lock and no clock; its owner provides both.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// At most `count` starts in any span of `per`, counted since the limiter first saw such a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The number of starts, at least one.
    pub count: usize,
    /// The length of the span.
    pub per: Duration,
}

/// The conditions under which a job may start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many jobs of the limiter may run at once, this one included; at least one.
    pub limit: Option<usize>,
    /// How often jobs of the limiter may start, this one included.
    pub rate: Option<Rate>,
    /// Smaller is sooner.
    pub rank: i64,
}

/// Running jobs, and jobs that are held until their limits allow them to start.
///
/// Held jobs are ordered by rank, then by arrival. The first that may not start holds up those
/// behind it, whatever their limits.
#[derive(Debug)]
pub struct Limiter<J> {
    held: BTreeMap<Place, Held<J>>,
    /// Jobs ever held.
    arrived: u64,
    running: usize,
    /// The last starts, oldest first: as many and as old as the rates seen so far need.
    starts: VecDeque<Instant>,
    /// The largest count and the longest span of the rates seen so far.
    seen: Option<Rate>,
}

/// The order of held jobs: by rank, then by number.
type Place = (i64, u64);

#[derive(Debug)]
struct Held<J> {
    job: J,
    limits: Limits,
}

/// Why a job may not start yet.
enum Obstacle {
    /// Too many jobs run.
    Limit,
    /// Too many jobs have started; with the time of the next start, if there is one.
    Rate(Option<Instant>),
}

impl<J> Limiter<J> {
    /// A limiter without jobs.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            held: BTreeMap::new(),
            arrived: 0,
            running: 0,
            starts: VecDeque::new(),
            seen: None,
        }
    }

    /// Returns the job, which then counts as running, or holds it.
    #[must_use]
    pub fn offer(&mut self, job: J, limits: Limits, now: Instant) -> Option<J> {
        if let Some(rate) = limits.rate {
            self.see(rate);
        }
        let first = self.held.first_key_value();
        let behind = first.is_some_and(|(&(rank, _), _)| rank <= limits.rank);
        if !behind && self.obstacle(limits, now).is_none() {
            self.start(now);
            return Some(job);
        }
        self.held
            .insert((limits.rank, self.arrived), Held { job, limits });
        self.arrived += 1;
        None
    }

    /// Notes that a running job has ended. Others may start now: see [`Limiter::release`].
    pub fn finished(&mut self) {
        debug_assert!(self.running > 0, "nothing runs");
        self.running = self.running.saturating_sub(1);
    }

    /// Takes out the held jobs that may start now; they count as running.
    #[must_use]
    pub fn release(&mut self, now: Instant) -> Vec<J> {
        let mut released = Vec::new();
        while let Some((&place, first)) = self.held.first_key_value()
            && self.obstacle(first.limits, now).is_none()
        {
            self.start(now);
            released.extend(self.held.remove(&place).map(|held| held.job));
        }
        released
    }

    /// When [`Limiter::release`] will next release a job without other changes; `None` when no job
    /// is held, or when the first waits for the end of another.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let (_, first) = self.held.first_key_value()?;
        match self.obstacle(first.limits, now) {
            None => Some(now),
            Some(Obstacle::Limit) => None,
            Some(Obstacle::Rate(over)) => over,
        }
    }

    /// How many running jobs must end before a job can start. The job is the held one that matches
    /// `is`, or otherwise a new one with this limit.
    pub fn must_end(&self, limit: Option<usize>, mut is: impl FnMut(&J) -> bool) -> usize {
        let over = |limit: Option<usize>| match limit {
            Some(limit) => (self.running + 1).saturating_sub(limit.max(1)),
            None => 0,
        };
        let mut most = 0;
        for held in self.held.values() {
            most = most.max(over(held.limits.limit));
            if is(&held.job) {
                return most;
            }
        }
        over(limit)
    }

    /// Takes out the first held job of this rank that matches `is`. The jobs behind it may start
    /// now: see [`Limiter::release`].
    pub fn remove(&mut self, rank: i64, mut is: impl FnMut(&J) -> bool) -> Option<J> {
        let mut held = self.held.range((rank, 0)..=(rank, u64::MAX));
        let (&place, _) = held.find(|(_, held)| is(&held.job))?;
        self.held.remove(&place).map(|held| held.job)
    }

    /// The held jobs, in order.
    pub fn jobs(&self) -> impl Iterator<Item = &J> {
        self.held.values().map(|held| &held.job)
    }

    /// Takes out all held jobs, in order.
    #[must_use]
    pub fn drain(&mut self) -> Vec<J> {
        let held = std::mem::take(&mut self.held);
        held.into_values().map(|held| held.job).collect()
    }

    /// How many jobs are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many jobs run: they were released and have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Whether a new limiter would do as well: there are no jobs, and no start counts any more.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        self.idle_at(now).is_some_and(|at| at <= now)
    }

    /// When a new limiter would do as well, without other changes; `None` while there are jobs.
    #[must_use]
    pub fn idle_at(&self, now: Instant) -> Option<Instant> {
        if !self.held.is_empty() || self.running > 0 {
            return None;
        }
        match (self.starts.back(), self.seen) {
            (Some(last), Some(seen)) => last.checked_add(seen.per),
            _ => Some(now),
        }
    }

    fn obstacle(&self, limits: Limits, now: Instant) -> Option<Obstacle> {
        if limits
            .limit
            .is_some_and(|limit| self.running >= limit.max(1))
        {
            return Some(Obstacle::Limit);
        }
        let rate = limits.rate?;
        // If this start is still within the span, one more would exceed the rate.
        let oldest = self.starts.len().checked_sub(rate.count.max(1))?;
        let over = self.starts.get(oldest)?.checked_add(rate.per);
        let fits = over.is_some_and(|over| over <= now);
        (!fits).then_some(Obstacle::Rate(over))
    }

    fn see(&mut self, rate: Rate) {
        let seen = self.seen.get_or_insert(rate);
        seen.count = seen.count.max(rate.count);
        seen.per = seen.per.max(rate.per);
    }

    fn start(&mut self, now: Instant) {
        self.running += 1;
        let Some(seen) = self.seen else {
            return;
        };
        // Threads that read the clock at once may arrive in another order.
        let now = self.starts.back().map_or(now, |&last| last.max(now));
        self.starts.push_back(now);
        while let Some(&oldest) = self.starts.front()
            && (self.starts.len() > seen.count.max(1) || !self.matters(oldest, now))
        {
            self.starts.pop_front();
        }
    }

    /// Whether a start still counts for the rates seen so far.
    fn matters(&self, start: Instant, now: Instant) -> bool {
        self.seen.is_some_and(|seen| {
            let over = start.checked_add(seen.per);
            over.is_none_or(|over| over > now)
        })
    }
}

impl<J> Default for Limiter<J> {
    fn default() -> Self {
        Self::new()
    }
}
