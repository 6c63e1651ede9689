//! Models of `TaskState`: loom runs each of them in every order that it can tell apart. Each names
//! what it guards: without that, the model fails.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flask-delay-engine --release --test loom_task_state`
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a failed model has to panic")]

#[path = "support/models.rs"]
mod models;

use std::sync::Arc;

use flask_delay_engine::Mutex;
use flask_delay_engine::{Advance, Phase, TaskState};
use loom::sync::atomic::{AtomicUsize, Ordering};

#[derive(Default)]
struct Extra {
    callbacks: usize,
    condition: Option<Arc<Mutex<()>>>,
    listeners: usize,
}

/// A job as its owner keeps it, and the notified waiters.
struct Job {
    state: TaskState,
    extra: Mutex<Extra>,
    // Relaxed throughout: only the word may put them in order.
    outcome: AtomicUsize,
    lone: AtomicUsize,
    called: AtomicUsize,
    listened: AtomicUsize,
}

impl Job {
    fn running() -> Arc<Self> {
        let job = Self::pending();
        assert!(job.state.start());
        job
    }

    fn watched() -> Arc<Self> {
        let job = Self::running();
        job.add_callback();
        job
    }

    fn pending() -> Arc<Self> {
        Arc::new(Self {
            state: TaskState::new(),
            extra: Mutex::new(Extra::default()),
            outcome: AtomicUsize::new(0),
            lone: AtomicUsize::new(0),
            called: AtomicUsize::new(0),
            listened: AtomicUsize::new(0),
        })
    }

    /// As `change` in the bindings.
    fn change(&self, from: Phase, to: Phase) -> bool {
        let changed = self.advance(from, to);
        if changed {
            self.call_lone();
        }
        changed
    }

    fn advance(&self, from: Phase, to: Phase) -> bool {
        match self.state.advance(from, to) {
            Advance::Done => return true,
            Advance::Refused => return false,
            Advance::Watched => {}
        }
        let changed = self.state.advance_watched(
            &self.extra,
            from,
            to,
            |extra| extra.condition.clone(),
            |condition, advance| {
                let _held = condition.lock();
                let changed = advance();
                if changed {
                    let listeners = self.extra.lock().listeners;
                    self.listened.fetch_add(listeners, Ordering::Relaxed);
                }
                changed
            },
        );
        if changed {
            let callbacks = std::mem::take(&mut self.extra.lock().callbacks);
            self.called.fetch_add(callbacks, Ordering::Relaxed);
        }
        changed
    }

    fn finish(&self) -> bool {
        self.outcome.store(1, Ordering::Relaxed);
        self.state.end(|from| self.change(from, Phase::Finished))
    }

    fn add_callback(&self) {
        if !self.state.leave(&self.extra, |extra| extra.callbacks += 1) {
            assert_eq!(self.outcome.load(Ordering::Relaxed), 1);
            self.called.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn call_lone(&self) {
        let lone = self.lone.swap(0, Ordering::Relaxed);
        self.called.fetch_add(lone, Ordering::Relaxed);
    }

    fn put_lone(&self) {
        assert_eq!(self.lone.swap(1, Ordering::Relaxed), 0);
        if self.state.look_after_putting().is_done() {
            assert_eq!(self.outcome.load(Ordering::Relaxed), 1);
            self.call_lone();
        }
    }

    /// As `concurrent.futures.wait` under the condition: reads the phase and registers, done or
    /// not. Returns whether it is to be notified.
    fn listen(&self) -> bool {
        let condition = self.state.watch_with(&self.extra, |extra| {
            Arc::clone(
                extra
                    .condition
                    .get_or_insert_with(|| Arc::new(Mutex::new(()))),
            )
        });
        let _held = condition.lock();
        let pending = !self.state.phase().is_done();
        self.extra.lock().listeners += 1;
        pending
    }
}

/// Two threads at once, in every order.
fn race<A: 'static, B: 'static>(
    make: fn() -> Arc<Job>,
    one: fn(&Job) -> A,
    other: fn(&Job) -> B,
    after: fn(&Job, A, B),
) {
    models::race(None, make, one, other, after);
}

/// Without the lock around the look at the phase, or without `WATCHED`, a callback is lost.
#[test]
fn callback_added_at_the_end_is_called_once() {
    race(
        Job::running,
        Job::finish,
        Job::add_callback,
        |job, ended, ()| {
            assert!(ended);
            assert_eq!(job.called.load(Ordering::Relaxed), 1);
        },
    );
}

/// With a load instead of the read-modify-write, a lone callback is lost.
#[test]
fn lone_callback_put_at_the_end_is_called_once() {
    race(
        Job::running,
        Job::finish,
        Job::put_lone,
        |job, ended, ()| {
            assert!(ended);
            assert_eq!(job.called.load(Ordering::Relaxed), 1);
        },
    );
}

/// Guards: Release where the phase changes, and Acquire where it is read.
#[test]
fn who_sees_the_end_sees_the_outcome() {
    let look = |job: &Job| {
        if job.state.phase().is_done() {
            assert_eq!(job.outcome.load(Ordering::Relaxed), 1);
        }
    };
    race(Job::running, Job::finish, look, |_, ended, ()| {
        assert!(ended);
    });
}

/// Guards: the condition held over the change, and the lock while there is none.
#[test]
fn listener_is_told_if_it_has_not_seen_the_end() {
    for make in [Job::running, Job::watched] {
        race(make, Job::finish, Job::listen, |job, ended, pending| {
            assert!(ended);
            assert_eq!(job.listened.load(Ordering::Relaxed), usize::from(pending));
        });
    }
}

/// Guards: the second look in `end`.
#[test]
fn job_that_starts_meanwhile_is_ended() {
    let start = |job: &Job| job.state.start();
    race(Job::pending, Job::finish, start, |job, ended, _| {
        assert!(ended);
        assert_eq!(job.state.phase(), Phase::Finished);
    });
}

/// Guards: the compare-and-swap.
#[test]
fn job_is_either_cancelled_or_run() {
    let cancel = |job: &Job| job.change(Phase::Pending, Phase::Notified);
    let start = |job: &Job| job.state.start();
    race(Job::pending, cancel, start, |_, cancelled, started| {
        assert_ne!(cancelled, started);
    });
}

const MARK: u32 = TaskState::MARK;

/// If `unmark` took the mark away in two steps, a phase would be lost.
#[test]
fn mark_is_taken_away_while_the_job_starts() {
    let make = || {
        let job = Job::pending();
        job.state.mark(MARK);
        job
    };
    let unmark = |job: &Job| job.state.unmark(MARK);
    let start = |job: &Job| job.state.start();
    race(make, unmark, start, |job, marked, started| {
        assert!(marked && started);
        assert!(!job.state.has(MARK));
        assert_eq!(job.state.phase(), Phase::Running);
    });
}

/// In two steps, two threads would find the mark.
#[test]
fn mark_is_found_by_one() {
    let make = || {
        let job = Job::pending();
        job.state.mark(MARK);
        job
    };
    let unmark = |job: &Job| job.state.unmark(MARK);
    race(make, unmark, unmark, |_, one, other| assert_ne!(one, other));
}

/// Guards: the compare-and-swap in `again`, and the second look in `end`.
#[test]
fn job_that_is_put_back_meanwhile_is_ended() {
    let again = |job: &Job| job.state.again();
    race(Job::running, Job::finish, again, |job, ended, _| {
        assert!(ended);
        assert_eq!(job.state.phase(), Phase::Finished);
        assert!(!job.state.start());
    });
}

/// If `WATCHED` were cleared when the job is put back, a callback would be lost.
#[test]
fn callback_added_before_the_job_is_put_back_is_called_once() {
    let once_more = |job: &Job| {
        assert!(job.state.again());
        assert!(job.state.start());
        job.finish()
    };
    race(
        Job::running,
        once_more,
        Job::add_callback,
        |job, ended, ()| {
            assert!(ended);
            assert_eq!(job.called.load(Ordering::Relaxed), 1);
        },
    );
}

/// As above, for changes while the job is pending again, its cancellation included.
#[test]
fn job_that_is_put_back_is_either_cancelled_or_run() {
    let once_more = |job: &Job| job.state.again() && job.state.start();
    let cancel = |job: &Job| job.change(Phase::Pending, Phase::Notified);
    race(Job::watched, once_more, cancel, |job, runs, cancelled| {
        assert_ne!(runs, cancelled);
        assert_eq!(job.called.load(Ordering::Relaxed), usize::from(cancelled));
    });
}

/// Guards: Release where the job is put back, and Acquire where it is begun.
#[test]
fn who_begins_again_sees_what_was_left() {
    let put_back = |job: &Job| {
        job.outcome.store(1, Ordering::Relaxed);
        assert!(job.state.again());
    };
    let begin = |job: &Job| {
        if job.state.start() {
            assert_eq!(job.outcome.load(Ordering::Relaxed), 1);
        }
    };
    race(Job::running, put_back, begin, |_, (), ()| ());
}

/// As a binding counts jobs that end while they lie in the queue.
const OUT: u32 = TaskState::MARK;

/// The job ends before it runs; returns whether it is counted as one that lies in the queue.
fn end_in_queue(job: &Job) -> bool {
    job.change(Phase::Pending, Phase::Notified) && job.state.mark_first(OUT)
}

/// Takes the job out of the queue; returns whether a job that was counted is gone.
fn take_out(job: &Job) -> bool {
    !job.state.start() && !job.state.mark_first(OUT)
}

/// Guards: one read-modify-write in `TaskState::mark_first`.
#[test]
fn what_ends_in_the_queue_is_counted_until_it_is_taken_out() {
    race(Job::pending, end_in_queue, take_out, |_, added, removed| {
        assert_eq!(added, removed);
    });
}

/// Guards: the mark before a job is put back, as it is held elsewhere then.
#[test]
fn what_is_put_back_is_not_counted_while_it_is_held() {
    let put_back = |job: &Job| {
        let _ = job.state.mark_first(OUT);
        assert!(job.state.again());
    };
    race(Job::running, put_back, end_in_queue, |_, (), added| {
        assert!(!added);
    });
}
