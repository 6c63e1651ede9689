//! Closing a pool, and waiting for it.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use flask_delay_engine::{Stats, SubmitError};
use support::{Event, Gauge, Job, LONG, block, nest, pool, soon};

#[test]
fn close_runs_what_was_taken_and_refuses_the_rest() {
    let pool = pool(2);
    let (go, gauge) = (Event::default(), Gauge::default());
    block(&pool, &go);
    for _ in 0..100 {
        pool.submit(gauge.job()).unwrap();
    }
    assert!(!pool.is_closed());
    pool.close();
    pool.close();
    assert!(pool.is_closed());
    assert!(matches!(
        pool.submit(gauge.job()),
        Err(SubmitError::Closed(_))
    ));
    go.set();
    assert!(pool.join(Some(soon())));
    assert_eq!(gauge.runs(), 100);
    assert_eq!(pool.stats(), Stats::default());
    assert!(pool.join(Some(Instant::now())));
}

#[test]
fn close_wakes_the_sleepers() {
    let pool = pool(4);
    let go = Event::default();
    for _ in 0..4 {
        block(&pool, &go);
    }
    go.set();
    assert!(pool.wait_quiet(Some(soon())));
    assert_eq!(pool.stats().threads, 4);
    pool.close();
    assert!(pool.join(Some(soon())));
    assert_eq!(pool.stats(), Stats::default());
}

#[test]
fn an_unused_pool_ends_at_once() {
    let pool = pool(1);
    assert!(pool.wait_quiet(Some(Instant::now())));
    pool.close();
    assert!(pool.join(Some(Instant::now())));
    assert!(matches!(
        pool.submit(Job::new(|_| ())),
        Err(SubmitError::Closed(_))
    ));
    assert_eq!(pool.stats(), Stats::default());
}

#[test]
fn waiting_for_the_end_stops_at_the_deadline() {
    let pool = pool(1);
    let go = Event::default();
    block(&pool, &go);
    assert!(!pool.wait_quiet(Some(Instant::now())));
    assert!(!pool.wait_quiet(Some(Instant::now() + Duration::from_millis(20))));
    pool.close();
    assert!(!pool.join(Some(Instant::now())));
    assert!(!pool.join(Some(Instant::now() + Duration::from_millis(20))));
    go.set();
    assert!(pool.join(Some(soon())));
    assert!(pool.wait_quiet(Some(Instant::now())));
}

#[test]
fn the_end_of_the_last_job_is_told() {
    let pool = pool(2);
    let go = Event::default();
    block(&pool, &go);
    thread::scope(|scope| {
        let (told, quiet) = mpsc::channel();
        for _ in 0..2 {
            let (told, pool) = (told.clone(), &pool);
            scope.spawn(move || told.send(pool.wait_quiet(Some(soon()))).unwrap());
        }
        go.set();
        for _ in 0..2 {
            assert_eq!(quiet.recv_timeout(LONG), Ok(true));
        }
    });
}

#[test]
fn a_dropped_pool_runs_what_it_took() {
    let pool = pool(1);
    let (go, results) = (Event::default(), mpsc::channel());
    block(&pool, &go);
    for number in 0..10 {
        let done = results.0.clone();
        pool.submit(Job::new(move |_| done.send(number).unwrap()))
            .unwrap();
    }
    drop(pool);
    go.set();
    for number in 0..10 {
        assert_eq!(results.1.recv_timeout(LONG), Ok(number));
    }
}

/// Waits have left many parked workers; woken by `close`, they must not all work at once.
#[test]
fn the_limit_holds_while_closing() {
    let pool = pool(1);
    nest(&pool, 20);
    assert!(pool.stats().idle > 1);
    let (go, gauge) = (Event::default(), Gauge::default());
    block(&pool, &go);
    for _ in 0..1_000 {
        pool.submit(gauge.job()).unwrap();
    }
    pool.close();
    go.set();
    assert!(pool.join(Some(soon())));
    assert_eq!((gauge.most(), gauge.runs()), (1, 1_000));
}

#[test]
fn a_job_of_a_closed_pool_may_wait_for_a_queued_one() {
    let pool = pool(1);
    let (runs, closed, done) = (Event::default(), Event::default(), Event::default());
    let (runs_now, close, awaited) = (runs.clone(), closed.clone(), done.clone());
    pool.submit(Job::new(move |worker| {
        runs_now.set();
        close.wait();
        let _waiting = worker.waiting();
        awaited.wait();
    }))
    .unwrap();
    pool.submit(Job::new(move |_| done.set())).unwrap();
    runs.wait();
    pool.close();
    closed.set();
    assert!(pool.join(Some(soon())));
}

/// In any order: accepted jobs have run when `join` returns, and nothing runs later.
#[test]
fn submits_that_race_with_the_end_run_or_are_refused() {
    for round in 0..200 {
        let pool = pool(2);
        if round % 2 == 0 {
            pool.submit(Job::new(|_| ())).unwrap();
        }
        let ended = Arc::new(AtomicBool::new(false));
        let runs = Arc::new(AtomicUsize::new(0));
        let taken = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let (ended, runs) = (Arc::clone(&ended), Arc::clone(&runs));
                        let job = Job::new(move |_| {
                            assert!(!ended.load(Ordering::SeqCst));
                            runs.fetch_add(1, Ordering::SeqCst);
                        });
                        match pool.submit(job) {
                            Ok(()) => taken.fetch_add(1, Ordering::SeqCst),
                            Err(SubmitError::Closed(_)) => break,
                            Err(error) => panic!("{error:?}"),
                        };
                    }
                });
            }
            thread::yield_now();
            pool.close();
            assert!(pool.join(Some(soon())));
            ended.store(true, Ordering::SeqCst);
        });
        assert_eq!(runs.load(Ordering::SeqCst), taken.load(Ordering::SeqCst));
        assert_eq!(pool.stats(), Stats::default());
    }
}

#[test]
fn a_job_that_is_done_elsewhere_holds_the_pool() {
    let pool = pool(1);
    let gauge = Gauge::default();
    let hold = pool.hold();
    pool.submit(gauge.job()).unwrap();
    let shortly = || Some(Instant::now() + Duration::from_millis(20));
    assert!(!pool.wait_quiet(shortly()));
    pool.close();
    assert!(!pool.join(shortly()));
    // It comes back to a closed pool, and the thread may have left.
    pool.resubmit(gauge.job()).unwrap();
    drop(hold);
    assert!(pool.join(Some(soon())));
    assert_eq!(gauge.runs(), 2);
    assert!(matches!(
        pool.resubmit(gauge.job()),
        Err(SubmitError::Closed(_))
    ));
}

/// No thread waits for a stuck job any more, whichever of the two is noted first. When it ends
/// after all, its thread leaves as any does.
#[test]
fn a_stuck_job_holds_up_neither_quiet_nor_the_end() {
    for stuck_first in [false, true] {
        let pool = pool(1);
        let (noted, back) = (Event::default(), Event::default());
        let (note, go_back) = (noted.clone(), back.clone());
        let (go_on, begun) = (Event::default(), Event::default());
        let (may_go_on, begin) = (go_on.clone(), begun.clone());
        pool.submit(Job::new(move |worker| {
            let handle = worker.handle();
            begin.set();
            may_go_on.wait();
            let (waiting, stuck) = if stuck_first {
                let stuck = handle.stuck();
                // By then the thread notified by the first has looked.
                thread::sleep(Duration::from_millis(20));
                (handle.waiting(), stuck)
            } else {
                let waiting = handle.waiting();
                (waiting, handle.stuck())
            };
            note.set();
            go_back.wait();
            drop(stuck);
            drop(waiting);
        }))
        .unwrap();
        begun.wait();
        let began = Instant::now();
        thread::scope(|scope| {
            let quiet = scope.spawn(|| pool.wait_quiet(Some(soon())));
            thread::sleep(Duration::from_millis(20));
            go_on.set();
            assert!(quiet.join().unwrap());
        });
        // It was notified, and did not only look after its deadline.
        assert!(began.elapsed() < LONG / 2);
        noted.wait();
        let gauge = Gauge::default();
        pool.submit(gauge.job()).unwrap();
        assert!(pool.wait_quiet(Some(soon())));
        assert_eq!(gauge.runs(), 1);
        pool.close();
        assert!(pool.join(Some(soon())));
        assert_eq!(pool.stats().threads, 1);
        back.set();
        let deadline = soon();
        while pool.stats() != Stats::default() {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }
}
