//! The pool: who is awake, who sleeps, and who is called when a job arrives.
//!
//! `README.md` beside this file argues why no wake-up is lost.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::io;
// Not from `sync`: what is only logged needs no model.
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use log::{Level as LogLevel, log};

use crate::park::Parker;
use crate::priority::{Level, Rank};
use crate::queue::Queue;
use crate::sync::{Arc, AtomicU32, Condvar, Mutex, Ordering, fence, spawn};
use crate::worker::Worker;

/// A worker has been called and has not yet looked at the queue; no second one is called.
pub(crate) const SEARCHING: u32 = 1;
/// Fewer workers are active than allowed: a new job may call or start one.
pub(crate) const HAS_CAPACITY: u32 = 1 << 1;
/// More workers are active than allowed: the next one to ask for a job sleeps instead.
pub(crate) const OVER_CAPACITY: u32 = 1 << 2;
/// No job is taken any more; workers leave once the queue is empty.
pub(crate) const CLOSED: u32 = 1 << 3;
/// There is a thread: a submit need not start one before it queues its job.
pub(crate) const HAS_THREAD: u32 = 1 << 4;

/// How a pool is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Worker `n` is named `{name}_{n}`.
    pub name: String,
    /// How many workers may be active at once, at least one; a worker that waits for
    /// another job does not count.
    pub max_workers: usize,
    /// A worker that found nothing to do for this long leaves; the last one stays.
    pub idle_timeout: Duration,
    /// A worker spins for this long before it parks, if its last job came within
    /// that time. Zero: never.
    pub spin: Duration,
    /// Bytes of stack for each thread.
    pub stack_size: usize,
}

/// Counts of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs in the queue.
    pub queued: usize,
    /// Threads alive, whatever they do.
    pub threads: usize,
    /// Threads asleep for want of jobs.
    pub idle: usize,
    /// Threads that run a job which waits for another job.
    pub waiting: usize,
}

/// Why a job was not taken; gives it back.
#[derive(Debug)]
pub enum SubmitError<J> {
    /// The pool is closed.
    Closed(J),
    /// The pool has no thread and the system would not start one.
    Spawn(J, io::Error),
}

/// Everything that changes when a worker wakes, sleeps, comes or goes; never on a job's way.
pub(crate) struct Roster {
    /// Last asleep is first called: its caches are warm, and the cold ones time out.
    pub(crate) idle: Vec<Arc<Parker>>,
    /// Workers that run a job or look for one, or have been called to do so.
    pub(crate) active: usize,
    /// Workers whose job waits for another job.
    pub(crate) waiting: usize,
    /// Workers whose job nobody waits for; see [`Handle::stuck`].
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
    /// [`Pool::join`] has told that the pool has ended: no thread starts any more.
    pub(crate) ended: bool,
}

impl Roster {
    /// Counts a thread that is about to start; gives its number.
    fn enlist(&mut self) -> usize {
        self.threads += 1;
        self.started += 1;
        self.started - 1
    }

    /// Nobody works but those that nobody waits for, wherever they are counted.
    fn quiet(&self) -> bool {
        self.active + self.waiting <= self.stuck && self.held == 0
    }
}

/// What a thread that was started is to be logged with. Apart, because a logger may wait for
/// whatever the threads that wait for our locks hold.
#[must_use]
struct Report(LogLevel, String);

impl Report {
    fn log(self) {
        log!(target: "flask_delay::engine", self.0, "{}", self.1);
    }
}

/// What is left to be done once no lock is held.
#[must_use]
pub struct Woken(Option<Report>);

impl Woken {
    pub(crate) fn nobody() -> Self {
        Self(None)
    }

    /// Logs what became of the thread, if one was started.
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
    /// The roster in five bits, so that a submit needs no lock. Written under the
    /// roster's lock, but for `SEARCHING`.
    pub(crate) flags: AtomicU32,
    pub(crate) roster: Mutex<Roster>,
    /// Held while the first thread starts, so that whoever needs one learns the outcome.
    /// Taken before the roster's lock.
    pub(crate) starting: Mutex<()>,
    /// Rung when a thread has left and when the pool has become quiet.
    pub(crate) bell: Condvar,
    /// The last thread could not be started, which has been logged.
    short: AtomicBool,
    pub(crate) main: Box<Main<J>>,
}

impl<J: Send + 'static> Shared<J> {
    /// Brings the flags up to date with the roster; called under its lock.
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
        // Relaxed: the lock orders the writers, and a reader that must not miss a
        // change has a SeqCst fence between its own write and its read.
        let old = self.flags.load(Ordering::Relaxed);
        if set & !old != 0 {
            self.flags.fetch_or(set, Ordering::Relaxed);
        }
        if clear & old != 0 {
            self.flags.fetch_and(!clear, Ordering::Relaxed);
        }
    }

    /// A job is in the queue: calls a sleeping worker or starts one, unless one is on its
    /// way already or all that are allowed are active.
    ///
    /// If a thread cannot be started, those there are go on.
    pub(crate) fn wake_one(self: &Arc<Self>) -> Woken {
        // Relaxed: an RMW sees the latest value; what it guards is under the lock.
        if self.flags.fetch_or(SEARCHING, Ordering::Relaxed) & SEARCHING != 0 {
            return Woken::nobody();
        }
        let mut roster = self.roster.lock();
        if roster.active >= self.config.max_workers || roster.ended {
            // Every active worker looks at the queue, under this lock, before it sleeps.
            self.flags.fetch_and(!SEARCHING, Ordering::Relaxed);
            return Woken::nobody();
        }
        // The caller, not the called, moves the worker to the active ones: otherwise
        // the next submit would see it asleep and call it again.
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

    /// Calls a worker for jobs that nobody has been called for because no thread could be
    /// started.
    pub(crate) fn look_after(self: &Arc<Self>) -> Woken {
        // Relaxed: who has just missed something looks again.
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & (SEARCHING | HAS_CAPACITY) != HAS_CAPACITY || self.queue.is_empty() {
            return Woken::nobody();
        }
        self.wake_one()
    }

    /// No thread is there: starts one before the job is queued, so that a failure has
    /// exactly that job to give back.
    #[cold]
    fn start(self: &Arc<Self>) -> io::Result<()> {
        let alone = self.starting.lock();
        let mut roster = self.roster.lock();
        // In a closed pool, `Pool::submit` finds out what became of its job.
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

    /// Takes a thread that could not be started off the books.
    fn forgo(&self) {
        let mut roster = self.roster.lock();
        roster.threads -= 1;
        // Somebody may have gone to sleep since, and submits that saw SEARCHING called
        // nobody: the sleeper takes the place of the thread that is not to be.
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

    /// What is to be logged of a thread: that it has started, or could not be, which is said
    /// once until a thread can be started again.
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

    /// A job was queued after the pool had been closed: a job to give back if the pool
    /// has ended, so that nobody would run it.
    #[cold]
    fn take_back(&self) -> Option<J> {
        // All that is queued by then was pushed by threads that come here, each of which
        // takes one job.
        let ended = self.roster.lock().ended;
        if ended { self.queue.pop() } else { None }
    }

    /// Tells those who wait for quiet; called under the roster's lock.
    pub(crate) fn tell_if_quiet(&self, roster: &Roster) {
        if roster.quiet() {
            self.bell.notify_all();
        }
    }

    pub(crate) fn is_quiet(&self, roster: &Roster) -> bool {
        roster.quiet() && self.queue.is_empty()
    }
}

/// A queue of jobs and the threads that run them. Threads start at the first submit.
///
/// Dropping the pool closes it: jobs already taken still run.
pub struct Pool<J: Send + 'static> {
    pub(crate) shared: Arc<Shared<J>>,
}

impl<J: Send + 'static> Pool<J> {
    /// A pool whose threads run `main`, which asks its [`Worker`] for jobs until there
    /// are no more. Starts no thread.
    ///
    /// # Panics
    ///
    /// When `max_workers` is zero.
    pub fn new(config: Config, main: impl Fn(Worker<J>) + Send + Sync + 'static) -> Self {
        Self::with_birth(config, |_| 0, main)
    }

    /// As [`Pool::new`]; `birth` says where a plain job stands among ranked ones. It is called
    /// under a lock: it must do no more than read.
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

    /// How the pool was made.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Takes `job`: it will run. No lock is taken unless a worker must be called.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Closed`] after [`Pool::close`]; a submit that races with it may
    /// still be taken, and is then run. [`SubmitError::Spawn`] when there is no thread
    /// and none can be started.
    pub fn submit(&self, job: J) -> Result<(), SubmitError<J>> {
        self.submit_by(job, Queue::push)
    }

    /// As [`Pool::submit`], for a job that goes before those of a larger rank; of equal ones,
    /// in order of arrival. `level` is for [`Pool::steal_last`].
    ///
    /// # Errors
    ///
    /// As [`Pool::submit`].
    pub fn submit_ranked(&self, job: J, level: Level, rank: Rank) -> Result<(), SubmitError<J>> {
        self.submit_by(job, |queue, job| queue.push_ranked(job, level, rank))
    }

    fn submit_by(&self, job: J, push: impl FnOnce(&Queue<J>, J)) -> Result<(), SubmitError<J>> {
        let shared = &self.shared;
        // Acquire: whoever sees the pool closed sees what happened before.
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

    /// As [`Pool::submit`], also when the pool is closed: for a job that was taken before, and
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
        // Pairs with the fences of those who clear SEARCHING, set HAS_CAPACITY or end the pool:
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

    /// Queues `job` for [`Pool::steal`] alone: no thread is called or started for it. For a
    /// pool whose jobs are run by whoever asks, and that never gets another kind.
    pub fn push_unstaffed(&self, job: J) {
        self.shared.queue.push(job);
    }

    /// As [`Pool::push_unstaffed`], with the order of [`Pool::submit_ranked`].
    pub fn push_ranked_unstaffed(&self, job: J, level: Level, rank: Rank) {
        self.shared.queue.push_ranked(job, level, rank);
    }

    /// Takes the job that is next out of the queue, to be run or given up by the caller.
    #[must_use]
    pub fn steal(&self) -> Option<J> {
        self.shared.queue.pop()
    }

    /// Takes out the job that can best be spared: of the lowest level, the oldest. That of a
    /// plain job is zero.
    #[must_use]
    pub fn steal_last(&self) -> Option<J> {
        self.shared.queue.pop_lowest()
    }

    /// Notes that a job is being done elsewhere until the guard is dropped: the pool is not
    /// quiet before, nor joined.
    #[must_use]
    pub fn hold(&self) -> Hold<J> {
        self.shared.roster.lock().held += 1;
        Hold(Arc::clone(&self.shared))
    }

    /// Tries again to start a thread, if jobs wait because none could be started. For those
    /// who have nothing else to do: without them such a job is called for at the next submit.
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
        // Both those who wait for quiet and those who join may have waited for this.
        self.0.bell.notify_all();
    }
}
