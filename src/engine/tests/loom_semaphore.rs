//! Models of the places of a bounded queue: loom runs each of them in every order that it can
//! tell apart. Each says what it guards: take that away and the model fails. A place that is
//! lost, or a thread that is forgotten, shows as a deadlock.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flask-delay-engine --release --test loom_semaphore`
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a failed model has to panic")]

#[path = "support/models.rs"]
mod models;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flask_delay_engine::{Advance, Bound, Phase, State};
use loom::thread::spawn;
use models::{check, race};

/// With some of its places taken.
fn bound(places: usize, taken: usize) -> Arc<Bound> {
    let bound = Arc::new(Bound::new(places));
    for _ in 0..taken {
        assert!(bound.try_take());
    }
    bound
}

/// Guards: the fences of `take` and `give`, and the lock that `give` waits for.
#[test]
fn place_given_while_a_thread_begins_to_wait() {
    let take = |bound: &Bound| assert!(bound.take(None));
    let give = |bound: &Bound| bound.give();
    let make = || bound(1, 1);
    race(None, make, take, give, |bound, (), ()| {
        assert_eq!(bound.taken(), 1);
    });
}

/// Guards: who waits looks again when another was faster, and is told again.
#[test]
fn place_taken_by_another_meanwhile() {
    loom::model(|| {
        let bound = bound(1, 1);
        let waiting = Arc::clone(&bound);
        let thread = spawn(move || assert!(waiting.take(None)));
        bound.give();
        if bound.try_take() {
            bound.give();
        }
        thread.join().unwrap();
        assert_eq!(bound.taken(), 1);
    });
}

/// Guards: each place that is given back tells one more.
#[test]
fn two_places_for_two_threads() {
    check(3, || {
        let bound = bound(2, 2);
        let threads = [(); 2].map(|()| {
            let waiting = Arc::clone(&bound);
            spawn(move || assert!(waiting.take(None)))
        });
        bound.give();
        bound.give();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(bound.taken(), 2);
    });
}

/// Guards: a place is taken in one step.
#[test]
fn never_more_than_the_limit() {
    loom::model(|| {
        let bound = bound(1, 0);
        // Unknown to loom, so that it adds nothing to the orders tried.
        let inside = Arc::new(AtomicUsize::new(0));
        let work = |bound: &Bound, inside: &AtomicUsize| {
            assert!(bound.take(None));
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            loom::thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
            bound.give();
        };
        let thread = {
            let (bound, inside) = (Arc::clone(&bound), Arc::clone(&inside));
            spawn(move || work(&bound, &inside))
        };
        work(&bound, &inside);
        thread.join().unwrap();
        assert_eq!(bound.taken(), 0);
    });
}

/// The job has a place in the queue.
const PLACED: u32 = State::MARK;

/// A queued job and the bound of its queue.
struct Queued {
    state: State,
    bound: Bound,
}

impl Queued {
    fn new() -> Arc<Self> {
        let queued = Self {
            state: State::new(),
            bound: Bound::new(1),
        };
        assert!(queued.bound.try_take());
        queued.state.mark(PLACED);
        Arc::new(queued)
    }

    fn give_back(&self) {
        if self.state.unmark(PLACED) {
            self.bound.give();
        }
    }

    /// Who takes a job out of the queue gives its place back, cancelled or not.
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

/// Guards: `State::unmark` tells one thread only that the mark was there, and changes nothing
/// but the mark.
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
        // Who waits for a place gets that one.
        assert!(queued.bound.take(None));
        let started = worker.join().unwrap();
        assert_ne!(started, canceller.join().unwrap());
        assert_eq!(queued.bound.taken(), 1);
        let phase = queued.state.phase();
        assert_eq!(started, phase == Phase::Running);
        assert_eq!(started, phase != Phase::Notified);
    });
}
