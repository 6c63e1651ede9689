//! The graph of waits refuses circles and nothing else.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

use std::sync::Barrier;
use std::thread;

use flask_delay_engine::Waits;

#[test]
fn a_job_may_not_wait_for_itself() {
    let waits = Waits::new();
    assert_eq!(waits.enter(1, 1, "a").err(), Some(vec!["a"]));
}

#[test]
fn chains_are_fine_and_circles_are_not() {
    let waits = Waits::new();
    let _a = waits.enter(1, 2, "a").ok().unwrap();
    let _b = waits.enter(2, 3, "b").ok().unwrap();
    // Two may wait for the same one.
    let _d = waits.enter(4, 2, "d").ok().unwrap();
    assert_eq!(waits.enter(3, 1, "c").err(), Some(vec!["c", "a", "b"]));
    assert_eq!(waits.enter(3, 4, "c").err(), Some(vec!["c", "d", "b"]));
    assert_eq!(waits.enter(3, 2, "c").err(), Some(vec!["c", "b"]));
    // A refused wait leaves nothing behind.
    let _c = waits.enter(3, 5, "c").ok().unwrap();
}

#[test]
fn a_wait_that_is_over_closes_no_circle() {
    let waits = Waits::new();
    drop(waits.enter(1, 2, "a").ok().unwrap());
    let _b = waits.enter(2, 1, "b").ok().unwrap();
    assert_eq!(waits.enter(1, 2, "a").err(), Some(vec!["a", "b"]));
}

#[test]
fn long_chains_are_followed_to_the_end() {
    const LENGTH: usize = 10_000;
    let waits = Waits::new();
    let held: Vec<_> = (0..LENGTH)
        .map(|job| waits.enter(job, job + 1, job).ok().unwrap())
        .collect();
    let circle = waits.enter(LENGTH, 0, LENGTH).err().unwrap();
    assert_eq!(circle.len(), LENGTH + 1);
    assert_eq!(circle[..2], [LENGTH, 0]);
    drop(held);
    assert!(waits.enter(LENGTH, 0, LENGTH).is_ok());
}

/// Of the waits that would close a circle together, exactly one is refused.
#[test]
fn one_of_a_circle_is_refused() {
    const JOBS: usize = 4;
    let waits = Waits::new();
    for _ in 0..200 {
        let (start, all_tried) = (Barrier::new(JOBS), Barrier::new(JOBS));
        let refused: usize = thread::scope(|scope| {
            let (waits, start, all_tried) = (&waits, &start, &all_tried);
            let threads: Vec<_> = (0..JOBS)
                .map(|job| {
                    scope.spawn(move || {
                        start.wait();
                        let entered = waits.enter(job, (job + 1) % JOBS, job);
                        all_tried.wait();
                        usize::from(entered.is_err())
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(refused, 1);
    }
}
