//! Permits are taken up to the limit, and waited for.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flask_delay_engine::Semaphore;

const LONG: Duration = Duration::from_secs(30);

#[test]
fn as_many_places_as_there_are() {
    let semaphore = Semaphore::new(2);
    assert!(semaphore.try_take());
    assert!(semaphore.take(None));
    assert!(!semaphore.try_take());
    assert_eq!(semaphore.taken(), 2);
    semaphore.give();
    assert_eq!(semaphore.taken(), 1);
    assert!(semaphore.try_take());
    assert!(!semaphore.try_take());
}

#[test]
fn without_places_nobody_gets_one() {
    let semaphore = Semaphore::new(0);
    assert!(!semaphore.try_take());
    assert!(!semaphore.take(Some(Instant::now())));
}

#[test]
fn the_wait_ends_at_the_deadline() {
    let semaphore = Semaphore::new(1);
    assert!(semaphore.try_take());
    let began = Instant::now();
    let limit = Duration::from_millis(20);
    assert!(!semaphore.take(Some(began + limit)));
    assert!(began.elapsed() >= limit);
    assert!(!semaphore.take(Some(began)));
    assert_eq!(semaphore.taken(), 1);
}

/// A deadline that has passed does not keep `take` from a free permit.
#[test]
fn a_free_place_needs_no_time() {
    assert!(Semaphore::new(1).take(Some(Instant::now())));
}

#[test]
fn who_waits_gets_the_place_that_is_given_back() {
    let semaphore = Semaphore::new(1);
    assert!(semaphore.try_take());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.take(Some(Instant::now() + LONG)));
        thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        semaphore.give();
        assert_eq!(waiter.join().ok(), Some(true));
    });
    assert_eq!(semaphore.taken(), 1);
}

#[test]
fn never_more_than_the_limit_and_nobody_is_forgotten() {
    const PLACES: usize = 3;
    let semaphore = Semaphore::new(PLACES);
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..8 {
            let (semaphore, inside, most) = (&semaphore, &inside, &most);
            scope.spawn(move || {
                for round in 0..2_000 {
                    // Some have a deadline, and may miss it.
                    let deadline = if (number + round) % 3 == 0 {
                        Instant::now() + Duration::from_micros(50)
                    } else {
                        Instant::now() + LONG
                    };
                    if semaphore.take(Some(deadline)) {
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        semaphore.give();
                    } else {
                        assert_eq!((number + round) % 3, 0, "forgotten");
                    }
                }
            });
        }
    });
    assert_eq!(semaphore.taken(), 0);
    assert!(most.load(Ordering::SeqCst) <= PLACES);
}
