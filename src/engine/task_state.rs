//! The phase of a job, and whether its end must notify: one atomic word.
//!
//! The owner of the job keeps two things beside the word. It stores the outcome before the phase
//! changes. It keeps rare data in `extra`, under a separate lock; the bit `WATCHED` means that the
//! end must look there. Without the bit a job ends with one compare-and-swap. With it, the end
//! takes that lock and, if there is one, the condition. The condition is a lock of the owner's,
//! which a thread may hold while it reads the phase and registers to be notified.
//!
//! Lock order: the condition, then `extra`.

use crate::sync::{AtomicU32, Mutex, Ordering};

const PHASE: u32 = 0b111;
/// The end must look into `extra`.
const WATCHED: u32 = 1 << 3;

/// The phase of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// No thread has begun it.
    Pending = 0,
    /// A thread runs it.
    Running = 1,
    /// Cancelled; its runner has not noticed yet.
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

    /// Whether the phase is final.
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

/// The result of [`TaskState::advance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// The phase has changed.
    Done,
    /// The job was in another phase.
    Refused,
    /// The job is watched: use [`TaskState::advance_watched`].
    Watched,
}

/// The word. Any thread may call any method at any time.
#[derive(Debug)]
pub struct TaskState(AtomicU32);

impl TaskState {
    /// The first bit that the owner may use for its own marks.
    pub const MARK: u32 = WATCHED << 1;

    /// The state of a job that no thread has begun.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU32::new(Phase::Pending as u32))
    }

    /// The phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        // Acquire: a thread that sees a job done sees its outcome.
        Phase::of(self.0.load(Ordering::Acquire))
    }

    /// Sets a mark of the owner.
    pub fn mark(&self, mark: u32) {
        // Relaxed, as in `has`: a mark publishes nothing.
        self.0.fetch_or(mark, Ordering::Relaxed);
    }

    /// Sets a mark; returns whether this call set it. Of concurrent callers one gets `true`.
    #[must_use]
    pub fn mark_first(&self, mark: u32) -> bool {
        // Relaxed, as in `mark`.
        self.0.fetch_or(mark, Ordering::Relaxed) & mark == 0
    }

    /// Whether the mark is set.
    #[must_use]
    pub fn has(&self, mark: u32) -> bool {
        self.0.load(Ordering::Relaxed) & mark != 0
    }

    /// Clears a mark; returns whether it was set. Only one of several callers finds it, so what it
    /// stands for is done once.
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

    /// Makes a running job pending again; `false` if it does not run any more.
    ///
    /// Marks and watchers stay: watchers are notified at the end.
    #[must_use]
    pub fn again(&self) -> bool {
        self.swap(Phase::Running, Phase::Pending, true).is_ok()
    }

    /// Calls `change` with the job's phase until it has ended the job (`true`) or the job is done.
    /// A job that starts meanwhile is ended all the same.
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

    /// Changes the phase, unless the job is watched.
    #[must_use]
    pub fn advance(&self, from: Phase, to: Phase) -> Advance {
        match self.swap(from, to, false) {
            Ok(()) => Advance::Done,
            Err(word) if Phase::of(word) == from => Advance::Watched,
            Err(_) => Advance::Refused,
        }
    }

    /// Changes the phase of a watched job; `false` if it is in another phase.
    ///
    /// `holding` gets the `condition`, if there is one, and calls the given function while it holds
    /// that.
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

    /// Stores something where the end of the job looks; `false`, without storing it, if the job is
    /// done.
    pub fn leave<X>(&self, extra: &Mutex<X>, put: impl FnOnce(&mut X)) -> bool {
        let mut extra = extra.lock();
        // A thread that ends the job from here on finds WATCHED and waits for this lock.
        if self.watch().is_done() {
            return false;
        }
        put(&mut extra);
        true
    }

    /// Stores something where the end of the job looks, done or not: the phase tells afterwards
    /// whether the end still looks.
    pub fn watch_with<X, R>(&self, extra: &Mutex<X>, put: impl FnOnce(&mut X) -> R) -> R {
        let mut extra = extra.lock();
        let put = put(&mut extra);
        self.watch();
        put
    }

    /// The phase, for a thread that stored something where the end of the job looks without
    /// `extra`: either the end finds it there, or this thread sees the end here.
    #[must_use]
    pub fn look_after_putting(&self) -> Phase {
        // A read-modify-write, so that it comes before or after the end's; AcqRel, as in `watch`.
        Phase::of(self.0.fetch_or(0, Ordering::AcqRel))
    }

    fn watch(&self) -> Phase {
        // AcqRel: a thread that ends the job sees what was stored, or this thread sees the outcome.
        Phase::of(self.0.fetch_or(WATCHED, Ordering::AcqRel))
    }

    /// Changes the phase. Fails with the present word if the job is in another phase or `WATCHED`
    /// was in the way.
    fn swap(&self, from: Phase, to: Phase, watched: bool) -> Result<(), u32> {
        // Acquire, here and on failure: as in `phase`.
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            if Phase::of(word) != from || (word & WATCHED != 0 && !watched) {
                return Err(word);
            }
            let next = word & !PHASE | to as u32;
            // AcqRel: publishes the outcome to threads that see the new phase, and sees what
            // threads stored that set WATCHED.
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
