//! Shared parts of the models: the orders to try, and pools of closures.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each file of models uses its part, and a failed model has to panic"
)]

mod jobs;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flask_delay_engine::{Config, Pool};
pub(crate) use jobs::{Job, work};

/// Runs the model in every order with at most that many preemptions; with `None` in every order.
pub(crate) fn check(
    preemptions: impl Into<Option<usize>>,
    model: impl Fn() + Send + Sync + 'static,
) {
    let Some(preemptions) = preemptions.into() else {
        return loom::model(model);
    };
    // The quick form of `make test`; `make models` has all of them.
    let fewer = std::env::var("FEWER_PREEMPTIONS").map_or(0, |it| it.parse().unwrap());
    let mut builder = loom::model::Builder::new();
    // LOOM_MAX_PREEMPTIONS may ask for more.
    let most = builder.preemption_bound.unwrap_or(preemptions - fewer);
    builder.preemption_bound = Some(most);
    builder.check(model);
}

/// Runs `one` and `other` at once on the result of `make`, then `after`.
///
/// Each is once the thread that goes first. loom looks back only to the last use of a word, and so
/// overlooks orders that it finds the other way round.
pub(crate) fn race<T: Send + Sync + 'static, A: 'static, B: 'static>(
    preemptions: impl Into<Option<usize>>,
    make: fn() -> Arc<T>,
    one: fn(&T) -> A,
    other: fn(&T) -> B,
    after: fn(&T, A, B),
) {
    let preemptions = preemptions.into();
    check(preemptions, move || {
        let made = make();
        let sharing = Arc::clone(&made);
        let thread = loom::thread::spawn(move || other(&sharing));
        let one = one(&made);
        after(&made, one, thread.join().unwrap());
    });
    check(preemptions, move || {
        let made = make();
        let sharing = Arc::clone(&made);
        let thread = loom::thread::spawn(move || one(&sharing));
        let other = other(&made);
        after(&made, thread.join().unwrap(), other);
    });
}

/// Workers without an idle timeout, and as many threads as they want.
pub(crate) fn config(max_workers: usize) -> Config {
    Config {
        name: "model".to_owned(),
        max_workers,
        idle_timeout: Duration::MAX,
        spin: Duration::ZERO,
        stack_size: usize::MAX,
    }
}

pub(crate) fn pool(max_workers: usize) -> Arc<Pool<Job>> {
    Arc::new(Pool::new(config(max_workers), work))
}

/// Every thread has to end then: loom does not let a model leave one behind.
pub(crate) fn end(pool: &Pool<Job>) {
    assert!(pool.wait_quiet(None));
    pool.close();
}

/// How often each job ran; unknown to loom, so that it adds no orders to try.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<AtomicUsize>);

impl Runs {
    pub(crate) fn job(&self) -> Job {
        let runs = self.clone();
        Job::new(move |_| _ = runs.add())
    }

    /// Counts one more; returns the count before.
    pub(crate) fn add(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}
