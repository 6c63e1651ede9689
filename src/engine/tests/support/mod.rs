//! Shared parts of the tests: pools of closures, waiting with a deadline, random numbers.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its part, and a failed test has to panic"
)]

mod jobs;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use flask_delay_engine::{Config, Pool};
pub(crate) use jobs::{Job, work};

/// More than any test needs; reached only when something is lost.
pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn config(max_workers: usize) -> Config {
    Config {
        name: "test".to_owned(),
        max_workers,
        idle_timeout: LONG * 10,
        spin: Duration::from_micros(50),
        stack_size: 256 * 1024,
    }
}

pub(crate) fn pool(max_workers: usize) -> Arc<Pool<Job>> {
    Arc::new(Pool::new(config(max_workers), work))
}

pub(crate) fn soon() -> Instant {
    Instant::now() + LONG
}

/// Ends a thread as a panic does, without its message.
pub(crate) fn panic_quietly() -> ! {
    std::panic::resume_unwind(Box::new("a test's panic"))
}

/// A one-time event that threads can wait for.
#[derive(Clone, Default)]
pub(crate) struct Event(Arc<(Mutex<bool>, Condvar)>);

impl Event {
    pub(crate) fn set(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub(crate) fn wait(&self) {
        let happened = self.0.0.lock().unwrap();
        let (happened, _) = self
            .0
            .1
            .wait_timeout_while(happened, LONG, |happened| !*happened)
            .unwrap();
        assert!(*happened, "never happened");
    }
}

/// How many jobs run at once, and how many at most did.
#[derive(Clone, Default)]
pub(crate) struct Gauge(Arc<(AtomicUsize, AtomicUsize, AtomicUsize)>);

impl Gauge {
    /// A job that is counted while it runs.
    pub(crate) fn job(&self) -> Job {
        let gauge = self.clone();
        Job::new(move |_| gauge.measure(std::thread::yield_now))
    }

    pub(crate) fn measure(&self, work: impl FnOnce()) {
        let (now, most, runs) = &*self.0;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        work();
        now.fetch_sub(1, Ordering::SeqCst);
        runs.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }

    pub(crate) fn runs(&self) -> usize {
        self.0.2.load(Ordering::SeqCst)
    }
}

/// A job that runs until `go`; returns when it runs.
pub(crate) fn block(pool: &Pool<Job>, go: &Event) {
    let (runs, go) = (Event::default(), go.clone());
    let runs_now = runs.clone();
    pool.submit(Job::new(move |_| {
        runs_now.set();
        go.wait();
    }))
    .unwrap();
    runs.wait();
}

/// Submits a job that submits another one and waits for it, and so on; returns when the pool is
/// quiet again.
pub(crate) fn nest(pool: &Arc<Pool<Job>>, depth: usize) {
    let end = Event::default();
    submit_nested(pool, depth, end.clone());
    end.wait();
    assert!(pool.wait_quiet(Some(soon())));
}

/// `end` is set when the outermost is done.
fn submit_nested(pool: &Arc<Pool<Job>>, depth: usize, end: Event) {
    let inner = Arc::clone(pool);
    let job = Job::new(move |worker| {
        if depth > 0 {
            let done = Event::default();
            submit_nested(&inner, depth - 1, done.clone());
            let _waiting = worker.waiting();
            done.wait();
        }
        // Before the event: a thread that sees it may want to be the last owner of the pool.
        drop(inner);
        end.set();
    });
    pool.submit(job).unwrap();
}

/// Reproducible random numbers: Knuth's generator.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}
