//! Models of the timer: loom runs each of them in every order that it can tell apart. Each names
//! what it guards: without that, the model fails. A forgotten entry shows as a deadlock, because
//! loom has no clock: a timed sleep lasts until the thread is woken.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flask-delay-engine --release --test loom_timer`
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a failed model has to panic")]

#[path = "support/models.rs"]
mod models;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flask_delay_engine::Timer;
use loom::sync::{Condvar, Mutex};
use loom::thread::spawn;
use models::check;

/// The entries that have fired.
#[derive(Clone, Default)]
struct Fired(Arc<(Mutex<Vec<u32>>, Condvar)>);

impl Fired {
    fn timer(&self) -> Timer<u32> {
        let fired = self.clone();
        // Unknown to loom, so that it adds no orders to try.
        let inside = AtomicBool::new(false);
        // One thread at a time; see `spawn` in `sync.rs`.
        Timer::new("model_0".to_owned(), 1, move |entries| {
            assert!(!inside.swap(true, Ordering::SeqCst), "two threads");
            fired.0.0.lock().unwrap().extend(entries);
            fired.0.1.notify_all();
            inside.store(false, Ordering::SeqCst);
        })
    }

    /// Waits until so many entries have fired.
    fn wait(&self, count: usize) {
        let mut fired = self.0.0.lock().unwrap();
        while fired.len() < count {
            fired = self.0.1.wait(fired).unwrap();
        }
    }

    fn all(&self) -> Vec<u32> {
        self.0.0.lock().unwrap().clone()
    }
}

fn never() -> Instant {
    Instant::now() + Duration::from_hours(1)
}

/// Every thread has to end: loom does not let a model leave one behind.
fn end(timer: &Timer<u32>) -> Vec<u32> {
    let entries = timer.stop();
    assert!(timer.join(None));
    entries
}

/// Guards: `add` wakes the thread if it sleeps, and it does not sleep without a look at the heap.
#[test]
fn entry_added_while_the_thread_goes_to_sleep() {
    check(3, || {
        let fired = Fired::default();
        let timer = fired.timer();
        timer.add(Instant::now(), 1).unwrap();
        timer.add(Instant::now(), 2).unwrap();
        fired.wait(2);
        assert_eq!(end(&timer), []);
        assert_eq!(fired.all(), [1, 2]);
    });
}

/// Guards: an entry that is due earlier wakes the thread, also when it was woken before.
#[test]
fn earlier_entry_wakes_the_thread() {
    check(3, || {
        let fired = Fired::default();
        let timer = fired.timer();
        for (at, entry) in [(never(), 1), (Instant::now(), 2), (Instant::now(), 3)] {
            timer.add(at, entry).unwrap();
        }
        fired.wait(2);
        assert_eq!(end(&timer), [1]);
        assert_eq!(fired.all(), [2, 3]);
    });
}

/// Guards: an entry fires or is given back, by `cancel` or by `stop`.
#[test]
fn entry_is_cancelled_while_it_fires() {
    check(3, || {
        let fired = Fired::default();
        let timer = fired.timer();
        let ticket = timer.add(Instant::now(), 1).unwrap();
        let cancelled = timer.cancel(ticket);
        let mut seen = end(&timer);
        seen.extend(cancelled);
        seen.extend(fired.all());
        assert_eq!(seen, [1]);
    });
}

/// Guards: the promises of `stop` and `join`. An entry is refused, or it is taken and then fires or
/// is given back; after `join` nothing fires.
#[test]
fn timer_is_stopped_while_entries_are_added() {
    check(3, || {
        let fired = Fired::default();
        let timer = Arc::new(fired.timer());
        timer.add(Instant::now(), 1).unwrap();
        let adder = {
            let timer = Arc::clone(&timer);
            spawn(move || match timer.add(Instant::now(), 2) {
                Ok(_) => None,
                Err((entry, _)) => Some(entry),
            })
        };
        let mut seen = timer.stop();
        assert!(timer.join(None));
        let before = fired.all();
        let refused = adder.join().unwrap();
        assert!(timer.join(None));
        assert_eq!(fired.all(), before);
        seen.extend(before);
        seen.extend(refused);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    });
}

/// Guards: of two threads that add the first entry one starts the thread, and both may count on it.
#[test]
fn two_first_entries() {
    check(3, || {
        let fired = Fired::default();
        let timer = Arc::new(fired.timer());
        let adder = {
            let timer = Arc::clone(&timer);
            spawn(move || _ = timer.add(Instant::now(), 1).unwrap())
        };
        timer.add(Instant::now(), 2).unwrap();
        fired.wait(2);
        adder.join().unwrap();
        assert_eq!(end(&timer), []);
    });
}
