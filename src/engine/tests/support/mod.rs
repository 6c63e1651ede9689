//! What the tests share: pools of closures, and waiting with a deadline.
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
        look_on: Duration::from_micros(50),
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

/// Something that happens once and can be waited for.
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

/// Submits a job that submits another one and waits for it, and so on; `end` is set when
/// the outermost is done.
pub(crate) fn nest(pool: &Arc<Pool<Job>>, depth: usize, end: Event) {
    let inner = Arc::clone(pool);
    let job = Job::new(move |worker| {
        if depth > 0 {
            let done = Event::default();
            nest(&inner, depth - 1, done.clone());
            let _waiting = worker.waiting();
            done.wait();
        }
        // Before the event: whoever sees it may want to be the last owner of the pool.
        drop(inner);
        end.set();
    });
    pool.submit(job).unwrap();
}
