//! Models of the permits of a bounded queue: loom runs each of them in every order that it can tell
//! apart. Each names what it guards: without that, the model fails. A permit that is lost, or a
//! thread that is forgotten, shows as a deadlock.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flask-delay-engine --release --test loom_semaphore`
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a failed model has to panic")]

#[path = "support/models.rs"]
mod models;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flask_delay_engine::{Advance, Phase, Semaphore, TaskState};
use loom::thread::spawn;
use models::{check, race};

/// With some of its permits taken.
fn semaphore(permits: usize, taken: usize) -> Arc<Semaphore> {
    let semaphore = Arc::new(Semaphore::new(permits));
    for _ in 0..taken {
        assert!(semaphore.try_take());
    }
    semaphore
}

/// Guards: the fences of `take` and `give`, and the lock that `give` waits for.
#[test]
fn place_given_while_a_thread_begins_to_wait() {
    let take = |semaphore: &Semaphore| assert!(semaphore.take(None));
    let give = |semaphore: &Semaphore| semaphore.give();
    let make = || semaphore(1, 1);
    race(None, make, take, give, |semaphore, (), ()| {
        assert_eq!(semaphore.taken(), 1);
    });
}

/// Guards: a waiting thread looks again when another was faster, and is woken again.
#[test]
fn place_taken_by_another_meanwhile() {
    loom::model(|| {
        let semaphore = semaphore(1, 1);
        let waiting = Arc::clone(&semaphore);
        let thread = spawn(move || assert!(waiting.take(None)));
        semaphore.give();
        if semaphore.try_take() {
            semaphore.give();
        }
        thread.join().unwrap();
        assert_eq!(semaphore.taken(), 1);
    });
}

/// Guards: each permit that is given back wakes one more thread.
#[test]
fn two_places_for_two_threads() {
    check(3, || {
        let semaphore = semaphore(2, 2);
        let threads = [(); 2].map(|()| {
            let waiting = Arc::clone(&semaphore);
            spawn(move || assert!(waiting.take(None)))
        });
        semaphore.give();
        semaphore.give();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(semaphore.taken(), 2);
    });
}

/// Guards: a permit is taken in one step.
#[test]
fn never_more_than_the_limit() {
    loom::model(|| {
        let semaphore = semaphore(1, 0);
        // Unknown to loom, so that it adds no orders to try.
        let inside = Arc::new(AtomicUsize::new(0));
        let work = |semaphore: &Semaphore, inside: &AtomicUsize| {
            assert!(semaphore.take(None));
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            loom::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
            semaphore.give();
        };
        let thread = {
            let (semaphore, inside) = (Arc::clone(&semaphore), Arc::clone(&inside));
            spawn(move || work(&semaphore, &inside))
        };
        work(&semaphore, &inside);
        thread.join().unwrap();
        assert_eq!(semaphore.taken(), 0);
    });
}

/// The job has a permit in the queue.
const PLACED: u32 = TaskState::MARK;

/// A queued job and the semaphore of its queue.
struct Queued {
    state: TaskState,
    semaphore: Semaphore,
}

impl Queued {
    fn new() -> Arc<Self> {
        let queued = Self {
            state: TaskState::new(),
            semaphore: Semaphore::new(1),
        };
        assert!(queued.semaphore.try_take());
        queued.state.mark(PLACED);
        Arc::new(queued)
    }

    fn give_back(&self) {
        if self.state.unmark(PLACED) {
            self.semaphore.give();
        }
    }

    /// A thread that takes a job out of the queue gives its permit back, cancelled or not.
    fn start(&self) -> bool {
        let started = self.state.start();
        self.give_back();
        started
    }

    fn cancel(&self) -> bool {
        let cancelled = self.state.advance(Phase::Pending, Phase::Notified) == Advance::Done;
        if cancelled {
            self.give_back();
        }
        cancelled
    }
}

/// Guards: `TaskState::unmark` returns true to one thread only, and changes nothing but the mark.
#[test]
fn a_job_gives_its_place_back_once() {
    check(3, || {
        let queued = Queued::new();
        let worker = {
            let queued = Arc::clone(&queued);
            spawn(move || queued.start())
        };
        let canceller = {
            let queued = Arc::clone(&queued);
            spawn(move || queued.cancel())
        };
        // A waiting thread gets that permit.
        assert!(queued.semaphore.take(None));
        let started = worker.join().unwrap();
        assert_ne!(started, canceller.join().unwrap());
        assert_eq!(queued.semaphore.taken(), 1);
        let phase = queued.state.phase();
        assert_eq!(started, phase == Phase::Running);
        assert_eq!(started, phase != Phase::Notified);
    });
}
