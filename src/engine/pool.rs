//! The pool: which workers are awake, which are parked, and which to wake for a new job.
//!
//! `README.md` beside this file argues why no wake-up is lost.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::io;
// Not from `sync`: what only affects logging needs no model.
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use log::{Level as LogLevel, log};

use crate::park::Parker;
use crate::priority::{Level, Rank};
use crate::queue::Queue;
use crate::sync::{Arc, AtomicU32, Condvar, Mutex, Ordering, fence, spawn};
use crate::worker::Worker;

/// A worker was woken and has not yet looked at the queue; no second one is woken.
pub(crate) const SEARCHING: u32 = 1;
/// Fewer workers are active than allowed: a new job may wake or start one.
pub(crate) const HAS_CAPACITY: u32 = 1 << 1;
/// More workers are active than allowed: the next one to ask for a job parks instead.
pub(crate) const OVER_CAPACITY: u32 = 1 << 2;
/// The pool takes no more jobs; workers leave once the queue is empty.
pub(crate) const CLOSED: u32 = 1 << 3;
/// There is a thread: `submit` need not start one before it queues its job.
pub(crate) const HAS_THREAD: u32 = 1 << 4;

/// The settings of a pool.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker `n` is named `{name}_{n}`.
    pub name: String,
    /// How many workers may be active at once, at least one; a worker that waits for another job
    /// does not count.
    pub max_workers: usize,
    /// A worker without a job for this long leaves; the last one stays.
    pub idle_timeout: Duration,
    /// A worker spins for this long before it parks, if its last job came within that time. Zero:
    /// never.
    pub spin: Duration,
    /// Bytes of stack for each thread.
    pub stack_size: usize,
}

/// Counts of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs in the queue.
    pub queued: usize,
    /// Threads alive, in any state.
    pub threads: usize,
    /// Threads parked without a job.
    pub idle: usize,
    /// Threads that run a job which waits for another job.
    pub waiting: usize,
}

/// Why a job was not taken; returns the job.
#[derive(Debug)]
pub enum SubmitError<J> {
    /// The pool is closed.
    Closed(J),
    /// The pool has no thread and the system would not start one.
    Spawn(J, io::Error),
}

/// The state that changes when a worker wakes, parks, starts or leaves, but not when a job is
/// taken.
pub(crate) struct Roster {
    /// The last parked is woken first: its caches are warm, and the others time out.
    pub(crate) idle: Vec<Arc<Parker>>,
    /// Workers that run a job or look for one, or were woken to do so.
    pub(crate) active: usize,
    /// Workers with a job that waits for another job.
    pub(crate) waiting: usize,
    /// Workers with an abandoned job; see [`Handle::stuck`].
    ///
    /// [`Handle::stuck`]: crate::Handle::stuck
    pub(crate) stuck: usize,
    /// Jobs that are done elsewhere; see [`Pool::hold`].
    pub(crate) held: usize,
    /// Threads that look for jobs or may do so again.
    pub(crate) threads: usize,
    /// Threads that have stopped looking and have not ended yet.
    pub(crate) leaving: usize,
    /// Threads ever started: the next one's number.
    pub(crate) started: usize,
    /// [`Pool::join`] has reported the end of the pool: no thread starts any more.
    pub(crate) ended: bool,
}

impl Roster {
    /// Counts a thread that is about to start; returns its number.
    fn enlist(&mut self) -> usize {
        self.threads += 1;
        self.started += 1;
        self.started - 1
    }

    /// Whether only stuck workers are active or waiting, and no job is held.
    fn quiet(&self) -> bool {
        self.active + self.waiting <= self.stuck && self.held == 0
    }
}

/// The log message about a started thread. Separate, because a logger may wait for something that a
/// thread holds which waits for our locks.
#[must_use]
struct Report(LogLevel, String);

impl Report {
    fn log(self) {
        log!(target: "flask_delay::engine", self.0, "{}", self.1);
    }
}

/// What is left to do once no lock is held.
#[must_use]
pub struct Woken(Option<Report>);

impl Woken {
    pub(crate) fn nobody() -> Self {
        Self(None)
    }

    /// Logs whether the thread started, if there was one to start.
    pub fn log(self) {
        if let Some(report) = self.0 {
            report.log();
        }
    }
}

pub(crate) type Main<J> = dyn Fn(Worker<J>) + Send + Sync;

pub(crate) struct Shared<J: Send + 'static> {
    pub(crate) config: Config,
    pub(crate) queue: Queue<J>,
    /// The roster in five bits, so that `submit` needs no lock. Written under the roster's lock,
    /// except `SEARCHING`.
    pub(crate) flags: AtomicU32,
    pub(crate) roster: Mutex<Roster>,
    /// Held while the first thread starts, so that every thread that needs it learns the outcome.
    /// Taken before the roster's lock.
    pub(crate) starting: Mutex<()>,
    /// Notified when a thread has left and when the pool has become quiet.
    pub(crate) bell: Condvar,
    /// The last thread could not be started, which was logged.
    short: AtomicBool,
    pub(crate) main: Box<Main<J>>,
}

impl<J: Send + 'static> Shared<J> {
    /// Updates the flags from the roster; called under its lock.
    pub(crate) fn publish(&self, roster: &Roster) {
        let limit = self.config.max_workers;
        let (set, clear) = match roster.active.cmp(&limit) {
            Less => (HAS_CAPACITY, OVER_CAPACITY),
            Equal => (0, HAS_CAPACITY | OVER_CAPACITY),
            Greater => (OVER_CAPACITY, HAS_CAPACITY),
        };
        // `HAS_THREAD` is set only where a thread is known to have started.
        let clear = if roster.threads == 0 {
            clear | HAS_THREAD
        } else {
            clear
        };
        // Relaxed: the lock orders the writers, and a reader that must not miss a change has a
        // SeqCst fence between its own write and its read.
        let old = self.flags.load(Ordering::Relaxed);
        if set & !old != 0 {
            self.flags.fetch_or(set, Ordering::Relaxed);
        }
        if clear & old != 0 {
            self.flags.fetch_and(!clear, Ordering::Relaxed);
        }
    }

    /// Wakes a parked worker or starts one for a queued job. Does nothing if a worker is searching
    /// already or as many as allowed are active.
    ///
    /// If a thread cannot be started, the existing ones go on.
    pub(crate) fn wake_one(self: &Arc<Self>) -> Woken {
        // Relaxed: an RMW sees the latest value; what it guards is under the lock.
        if self.flags.fetch_or(SEARCHING, Ordering::Relaxed) & SEARCHING != 0 {
            return Woken::nobody();
        }
        let mut roster = self.roster.lock();
        if roster.active >= self.config.max_workers || roster.ended {
            // Every active worker looks at the queue, under this lock, before it parks.
            self.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
            return Woken::nobody();
        }
        // The waking thread, not the woken one, counts the worker as active. Otherwise the next
        // `submit` would see it parked and wake it again.
        roster.active += 1;
        if let Some(parker) = roster.idle.pop() {
            self.publish(&roster);
            drop(roster);
            parker.unpark();
            Woken::nobody()
        } else {
            let number = roster.enlist();
            self.publish(&roster);
            drop(roster);
            let started = self.spawn(number);
            Woken(Some(self.report(number, &started)))
        }
    }

    /// Wakes a worker for jobs for which no thread could be started.
    pub(crate) fn look_after(self: &Arc<Self>) -> Woken {
        // Relaxed: a caller that has just missed a change calls again.
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & (SEARCHING | HAS_CAPACITY) != HAS_CAPACITY || self.queue.is_empty() {
            return Woken::nobody();
        }
        self.wake_one()
    }

    /// Starts the first thread before the job is queued, so that a failure returns exactly that
    /// job.
    #[cold]
    fn start(self: &Arc<Self>) -> io::Result<()> {
        let alone = self.starting.lock();
        let mut roster = self.roster.lock();
        // In a closed pool, `Pool::submit` decides what to do with its job.
        let closed = self.flags.load(Ordering::Relaxed) & CLOSED != 0;
        let mut first = None;
        if roster.threads == 0 && !closed {
            roster.active += 1;
            let number = roster.enlist();
            self.flags.fetch_or(SEARCHING, Ordering::Relaxed);
            self.publish(&roster);
            drop(roster);
            first = Some((number, self.spawn(number)));
            roster = self.roster.lock();
        }
        let staffed = roster.threads > 0;
        if staffed {
            self.flags.fetch_or(HAS_THREAD, Ordering::Relaxed);
        }
        drop(roster);
        drop(alone);
        let Some((number, started)) = first else {
            return Ok(());
        };
        self.report(number, &started).log();
        if staffed { Ok(()) } else { started }
    }

    fn thread_name(&self, number: usize) -> String {
        format!("{}_{number}", self.config.name)
    }

    /// Starts the thread that the roster already counts as active and searching.
    fn spawn(self: &Arc<Self>, number: usize) -> io::Result<()> {
        let name = self.thread_name(number);
        let shared = Arc::clone(self);
        let worker_name = name.clone();
        let started = spawn(name, self.config.stack_size, move || {
            let worker = Worker::new(Arc::clone(&shared), worker_name);
            (shared.main)(worker);
        });
        if started.is_err() {
            self.forgo();
        }
        started
    }

    /// Removes a thread that could not be started from the roster.
    fn forgo(&self) {
        let mut roster = self.roster.lock();
        roster.threads -= 1;
        // A worker may have parked since, and submitters that saw SEARCHING woke none: the parked
        // worker takes the place of the missing thread.
        let sleeper = roster.idle.pop();
        if sleeper.is_none() {
            roster.active -= 1;
            self.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
        }
        self.publish(&roster);
        drop(roster);
        self.bell.notify_all();
        if let Some(parker) = sleeper {
            parker.unpark();
        }
    }

    /// The message that a thread has started, or could not be. Repeated failures are logged at
    /// DEBUG until a thread can be started again.
    fn report(&self, number: usize, started: &io::Result<()>) -> Report {
        // Relaxed: it guards nothing but the number of lines.
        let was_short = self.short.swap(started.is_err(), Ordering::Relaxed);
        let name = self.thread_name(number);
        match started {
            Ok(()) => Report(LogLevel::Debug, format!("thread {name} started")),
            Err(error) => Report(
                if was_short {
                    LogLevel::Debug
                } else {
                    LogLevel::Warn
                },
                format!("thread {name} could not be started: {error}"),
            ),
        }
    }

    /// For a job queued after the pool was closed: returns a job if the pool has ended, so that no
    /// worker would run it.
    #[cold]
    fn take_back(&self) -> Option<J> {
        // Everything queued by then was pushed by threads that come here, and each of them takes
        // one job.
        let ended = self.roster.lock().ended;
        if ended { self.queue.pop() } else { None }
    }

    /// Wakes threads that wait for quiet; called under the roster's lock.
    pub(crate) fn tell_if_quiet(&self, roster: &Roster) {
        if roster.quiet() {
            self.bell.notify_all();
        }
    }

    pub(crate) fn is_quiet(&self, roster: &Roster) -> bool {
        roster.quiet() && self.queue.is_empty()
    }
}

/// A queue of jobs and the threads that run them. Threads start at the first `submit`.
///
/// Dropping the pool closes it: jobs already taken still run.
pub struct Pool<J: Send + 'static> {
    pub(crate) shared: Arc<Shared<J>>,
}

impl<J: Send + 'static> Pool<J> {
    /// A pool with threads that run `main`, which asks its [`Worker`] for jobs until there are no
    /// more. Starts no thread.
    ///
    /// # Panics
    ///
    /// When `max_workers` is zero.
    pub fn new(config: Config, main: impl Fn(Worker<J>) + Send + Sync + 'static) -> Self {
        Self::with_birth(config, |_| 0, main)
    }

    /// As [`Pool::new`]; `birth` gives a plain job's place among ranked ones. It is called under a
    /// lock: it must do no more than read.
    ///
    /// # Panics
    ///
    /// When `max_workers` is zero.
    pub fn with_birth(
        config: Config,
        birth: fn(&J) -> Rank,
        main: impl Fn(Worker<J>) + Send + Sync + 'static,
    ) -> Self {
        assert!(config.max_workers > 0, "a pool needs a worker");
        Self {
            shared: Arc::new(Shared {
                config,
                queue: Queue::new(birth),
                flags: AtomicU32::new(HAS_CAPACITY),
                roster: Mutex::new(Roster {
                    idle: Vec::new(),
                    active: 0,
                    waiting: 0,
                    stuck: 0,
                    held: 0,
                    threads: 0,
                    leaving: 0,
                    started: 0,
                    ended: false,
                }),
                starting: Mutex::new(()),
                bell: Condvar::new(),
                short: AtomicBool::new(false),
                main: Box::new(main),
            }),
        }
    }

    /// The settings of the pool.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Takes `job`: it will run. No lock is taken unless a worker must be woken.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Closed`] after [`Pool::close`]; a call that races with it may still be taken,
    /// and its job then runs. [`SubmitError::Spawn`] when there is no thread and none can be
    /// started.
    pub fn submit(&self, job: J) -> Result<(), SubmitError<J>> {
        self.submit_by(job, Queue::push)
    }

    /// As [`Pool::submit`], for a job that goes before those of a larger rank; jobs of equal rank
    /// go in order of arrival. `level` is for [`Pool::steal_last`].
    ///
    /// # Errors
    ///
    /// As [`Pool::submit`].
    pub fn submit_ranked(&self, job: J, level: Level, rank: Rank) -> Result<(), SubmitError<J>> {
        self.submit_by(job, |queue, job| queue.push_ranked(job, level, rank))
    }

    fn submit_by(&self, job: J, push: impl FnOnce(&Queue<J>, J)) -> Result<(), SubmitError<J>> {
        let shared = &self.shared;
        // Acquire: a thread that sees the pool closed sees what happened before.
        let flags = shared.flags.load(Ordering::Acquire);
        if flags & CLOSED != 0 {
            return Err(SubmitError::Closed(job));
        }
        if flags & HAS_THREAD == 0
            && let Err(error) = shared.start()
        {
            return Err(SubmitError::Spawn(job, error));
        }
        self.enqueue(job, push)
    }

    /// As [`Pool::submit`], but also when the pool is closed: for a job that was taken before and
    /// comes back from elsewhere. The caller holds the pool; see [`Pool::hold`].
    ///
    /// # Errors
    ///
    /// [`SubmitError::Spawn`], as [`Pool::submit`].
    pub fn resubmit(&self, job: J) -> Result<(), SubmitError<J>> {
        self.enqueue(job, Queue::push)
    }

    /// As [`Pool::resubmit`], with the order of [`Pool::submit_ranked`].
    ///
    /// # Errors
    ///
    /// As [`Pool::resubmit`].
    pub fn resubmit_ranked(&self, job: J, level: Level, rank: Rank) -> Result<(), SubmitError<J>> {
        self.enqueue(job, |queue, job| queue.push_ranked(job, level, rank))
    }

    fn enqueue(&self, job: J, push: impl FnOnce(&Queue<J>, J)) -> Result<(), SubmitError<J>> {
        let shared = &self.shared;
        push(&shared.queue, job);
        // Pairs with the fences of threads that clear SEARCHING, set HAS_CAPACITY or end the pool:
        // either this thread sees the new flag, or they see the job.
        fence(Ordering::SeqCst);
        let flags = shared.flags.load(Ordering::Relaxed);
        if flags & CLOSED != 0
            && let Some(job) = shared.take_back()
        {
            return Err(SubmitError::Closed(job));
        }
        if flags & (SEARCHING | HAS_CAPACITY) == HAS_CAPACITY {
            shared.wake_one().log();
        }
        Ok(())
    }

    /// Queues `job` for [`Pool::steal`] only: no thread is woken or started for it. For a pool
    /// without threads, which never gets another kind of job.
    pub fn push_unstaffed(&self, job: J) {
        self.shared.queue.push(job);
    }

    /// As [`Pool::push_unstaffed`], with the order of [`Pool::submit_ranked`].
    pub fn push_ranked_unstaffed(&self, job: J, level: Level, rank: Rank) {
        self.shared.queue.push_ranked(job, level, rank);
    }

    /// Takes the next job out of the queue, for the caller to run or drop.
    #[must_use]
    pub fn steal(&self) -> Option<J> {
        self.shared.queue.pop()
    }

    /// Takes out the most expendable job: of the lowest level, the oldest. A plain job's level is
    /// zero.
    #[must_use]
    pub fn steal_last(&self) -> Option<J> {
        self.shared.queue.pop_lowest()
    }

    /// Calls `look` with up to `most` of the waiting jobs that have a rank, in their order. It is
    /// called under a lock: it must do no more than read.
    pub fn look_at_ranked(&self, most: usize, look: impl FnMut(&J)) {
        self.shared.queue.look(most, look);
    }

    /// Notes that a job is being done elsewhere until the guard is dropped: before that, the pool
    /// is not quiet and [`Pool::join`] waits.
    #[must_use]
    pub fn hold(&self) -> Hold<J> {
        self.shared.roster.lock().held += 1;
        Hold(Arc::clone(&self.shared))
    }

    /// Tries again to start a thread, if jobs wait because none could be started. For threads that
    /// have nothing else to do; without this, the next `submit` tries again.
    pub fn look_after(&self) {
        self.shared.look_after().log();
    }

    /// Counts of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let roster = self.shared.roster.lock();
        Stats {
            queued: self.shared.queue.len(),
            threads: roster.threads + roster.leaving,
            idle: roster.idle.len(),
            waiting: roster.waiting,
        }
    }
}

impl<J: Send + 'static> Drop for Pool<J> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A job is being done elsewhere; see [`Pool::hold`].
pub struct Hold<J: Send + 'static>(Arc<Shared<J>>);

impl<J: Send + 'static> Drop for Hold<J> {
    fn drop(&mut self) {
        self.0.roster.lock().held -= 1;
        // Both `wait_quiet` and `join` may have waited for this.
        self.0.bell.notify_all();
    }
}
