//! Where a job stands, and who must be told when it ends: one atomic word.
//!
//! The owner of the job keeps two things beside the word. The outcome is in its place
//! before the phase says so. What few jobs need, `extra`, lies under a lock of its own; the
//! bit `WATCHED` says that somebody has put something there that the end must look at.
//! Without it a job ends with one compare-and-swap. With it, the end takes that lock and, if
//! there is one, the condition: a lock of the owner's that somebody may hold while it looks
//! at the phase and enters itself to be told.
//!
//! Lock order: the condition, then `extra`.

use crate::sync::{AtomicU32, Mutex, Ordering};

const PHASE: u32 = 0b111;
/// The end must look into `extra`.
const WATCHED: u32 = 1 << 3;

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Nobody has begun it.
    Pending = 0,
    /// Somebody runs it.
    Running = 1,
    /// Cancelled; whoever would run it has not noticed yet.
    Cancelled = 2,
    /// Cancelled, and noticed.
    Notified = 3,
    /// It has a result.
    Finished = 4,
    /// It has an error.
    Failed = 5,
}

impl Phase {
    fn of(word: u32) -> Self {
        match word & PHASE {
            0 => Self::Pending,
            1 => Self::Running,
            2 => Self::Cancelled,
            3 => Self::Notified,
            4 => Self::Finished,
            _ => Self::Failed,
        }
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(self) -> bool {
        matches!(self, Self::Cancelled | Self::Notified)
    }

    /// Whether nothing can change it any more.
    #[must_use]
    pub fn is_settled(self) -> bool {
        self.is_done() && self != Self::Cancelled
    }

    /// Whether the job need not be waited for.
    #[must_use]
    pub fn is_done(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// What [`TaskState::advance`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The phase has changed.
    Done,
    /// It was another one.
    Refused,
    /// Somebody watches, so it takes [`TaskState::advance_watched`].
    Watched,
}

/// The word. Any thread may do anything with it at any time.
#[derive(Debug)]
pub struct TaskState(AtomicU32);

impl TaskState {
    /// The first bit that the owner may use for marks of its own.
    pub const MARK: u32 = WATCHED << 1;

    /// Of a job that nobody has begun.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU32::new(Phase::Pending as u32))
    }

    /// Where the job stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        // Acquire: whoever sees a job done sees its outcome.
        Phase::of(self.0.load(Ordering::Acquire))
    }

    /// Sets marks of the owner's; whether one of them was set.
    pub fn mark(&self, mark: u32) -> bool {
        // Relaxed, as in `has`: a mark publishes nothing.
        self.0.fetch_or(mark, Ordering::Relaxed) & mark != 0
    }

    /// Whether the mark was set.
    #[must_use]
    pub fn has(&self, mark: u32) -> bool {
        self.0.load(Ordering::Relaxed) & mark != 0
    }

    /// Takes a mark away; whether it was set. Of those who do so one finds it, so what it stands
    /// for is done once.
    #[must_use]
    pub fn unmark(&self, mark: u32) -> bool {
        // Relaxed, as in `mark`.
        self.0.fetch_and(!mark, Ordering::Relaxed) & mark != 0
    }

    /// Notes that the job runs; `false` if it is not pending any more.
    #[must_use]
    pub fn start(&self) -> bool {
        self.swap(Phase::Pending, Phase::Running, true).is_ok()
    }

    /// Puts a job that runs back, to be begun once more; `false` if it does not run any more.
    ///
    /// Marks stay, and so does who watches: it is told at the end.
    #[must_use]
    pub fn again(&self) -> bool {
        self.swap(Phase::Running, Phase::Pending, true).is_ok()
    }

    /// Has `change` end the job from the phase it is in, until it says that it has (`true`)
    /// or the job was done. A job that starts meanwhile is ended all the same.
    #[inline]
    pub fn end(&self, mut change: impl FnMut(Phase) -> bool) -> bool {
        loop {
            let from = self.phase();
            if from.is_done() {
                return false;
            }
            if change(from) {
                return true;
            }
        }
    }

    /// Moves the job on, if nobody watches.
    #[must_use]
    pub fn advance(&self, from: Phase, to: Phase) -> Advance {
        match self.swap(from, to, false) {
            Ok(()) => Advance::Done,
            Err(word) if Phase::of(word) == from => Advance::Watched,
            Err(_) => Advance::Refused,
        }
    }

    /// Moves the job on while somebody watches; `false` if its phase is another one.
    ///
    /// With a `condition`, `holding` gets it, and has to call what it is given while it
    /// holds it.
    pub fn advance_watched<X, C>(
        &self,
        extra: &Mutex<X>,
        from: Phase,
        to: Phase,
        condition: impl FnOnce(&X) -> Option<C>,
        holding: impl FnOnce(C, &dyn Fn() -> bool) -> bool,
    ) -> bool {
        let swap = || self.swap(from, to, true).is_ok();
        let condition = {
            let extra = extra.lock();
            match condition(&extra) {
                // Under the lock, so that no condition is made meanwhile.
                None => return swap(),
                Some(condition) => condition,
            }
        };
        holding(condition, &swap)
    }

    /// Puts something where the end of the job looks; `false`, without having put it there,
    /// if the job is done.
    pub fn leave<X>(&self, extra: &Mutex<X>, put: impl FnOnce(&mut X)) -> bool {
        let mut extra = extra.lock();
        // Whoever ends the job from here on finds WATCHED and waits for this lock.
        if self.watch().is_done() {
            return false;
        }
        put(&mut extra);
        true
    }

    /// Puts something where the end of the job looks, done or not: the phase tells
    /// afterwards whether it still looks.
    pub fn watch_with<X, R>(&self, extra: &Mutex<X>, put: impl FnOnce(&mut X) -> R) -> R {
        let mut extra = extra.lock();
        let put = put(&mut extra);
        self.watch();
        put
    }

    /// The phase, for who has put something where the end of the job looks without `extra`:
    /// either the end finds it there, or it sees the end here.
    #[must_use]
    pub fn look_after_putting(&self) -> Phase {
        // A read-modify-write, so that it comes before or after the end's; AcqRel, as in
        // `watch`.
        Phase::of(self.0.fetch_or(0, Ordering::AcqRel))
    }

    fn watch(&self) -> Phase {
        // AcqRel: what was put there is seen by whoever ends the job, or the outcome is
        // seen here.
        Phase::of(self.0.fetch_or(WATCHED, Ordering::AcqRel))
    }

    /// Moves from one phase to another; the word that was found, if it was not the one or
    /// if `WATCHED` was in the way.
    fn swap(&self, from: Phase, to: Phase, watched: bool) -> Result<(), u32> {
        // Acquire, here and on failure: as in `phase`.
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            if Phase::of(word) != from || (word & WATCHED != 0 && !watched) {
                return Err(word);
            }
            let next = word & !PHASE | to as u32;
            // AcqRel: gives the outcome to those who see the new phase, and takes what
            // those who set WATCHED have put there.
            match self
                .0
                .compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Ok(()),
                Err(found) => word = found,
            }
        }
    }
}

impl Default for TaskState {
    fn default() -> Self {
        Self::new()
    }
}
