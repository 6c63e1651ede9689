//! The order in which ranked and plain jobs leave the queue.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use flask_delay_engine::{Level, Pool, Rank, SubmitError};
use support::{Event, Gauge, Job, Random, block, config, pool, soon};

/// A job that no worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shelved {
    birth: Rank,
    number: usize,
}

/// A pool without threads.
fn shelf() -> Pool<Shelved> {
    Pool::with_birth(config(1), |job: &Shelved| job.birth, |_| ())
}

fn push_unstaffed(pool: &Pool<Shelved>, birth: Rank, number: usize) {
    pool.push_unstaffed(Shelved { birth, number });
}

fn push_ranked_unstaffed(pool: &Pool<Shelved>, level: Level, rank: Rank, number: usize) {
    // Its birth must not matter.
    let birth = 1_000_000;
    pool.push_ranked_unstaffed(Shelved { birth, number }, level, rank);
}

fn steal_all(pool: &Pool<Shelved>) -> Vec<usize> {
    let stolen = std::iter::from_fn(|| pool.steal());
    stolen.map(|job| job.number).collect()
}

#[test]
fn smaller_ranks_go_first() {
    let pool = shelf();
    for (number, rank) in [(3, 30), (1, 10), (4, 40), (2, 20)] {
        push_ranked_unstaffed(&pool, 0, rank, number);
    }
    assert_eq!(pool.stats().queued, 4);
    assert_eq!(steal_all(&pool), [1, 2, 3, 4]);
    assert_eq!(pool.stats().queued, 0);
}

#[test]
fn equal_ranks_go_in_order_of_arrival() {
    let pool = shelf();
    for number in 0..10 {
        push_ranked_unstaffed(&pool, 7, 5, number);
    }
    assert_eq!(steal_all(&pool), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_plain_job_stands_where_it_was_born() {
    let pool = shelf();
    for number in [10, 20, 30, 40] {
        push_unstaffed(&pool, Rank::try_from(number).unwrap(), number);
    }
    push_ranked_unstaffed(&pool, 0, 25, 25);
    push_ranked_unstaffed(&pool, 0, 5, 5);
    assert_eq!(pool.stats().queued, 6);
    assert_eq!(pool.steal().map(|job| job.number), Some(5));
    // The head has left the FIFO, and counts all the same.
    assert_eq!(pool.stats().queued, 5);
    assert_eq!(steal_all(&pool), [10, 20, 25, 30, 40]);
}

/// A plain job in `head` stays before the other plain ones.
#[test]
fn plain_jobs_keep_their_order() {
    let pool = shelf();
    push_unstaffed(&pool, 10, 1);
    push_unstaffed(&pool, 11, 2);
    push_ranked_unstaffed(&pool, 0, 0, 0);
    assert_eq!(pool.steal().map(|job| job.number), Some(0));
    push_unstaffed(&pool, 12, 3);
    assert_eq!(steal_all(&pool), [1, 2, 3]);
}

/// How an owner may use ranks: a level is worth ten, and a job that has waited for that long goes
/// before a new one.
#[test]
fn nobody_is_passed_over_for_ever() {
    let pool = shelf();
    push_unstaffed(&pool, 0, 1_000);
    let mut stolen = Vec::new();
    for now in 0..20 {
        let number = usize::try_from(now).unwrap();
        push_ranked_unstaffed(&pool, 1, now - 10, number);
        stolen.extend(pool.steal().map(|job| job.number));
    }
    let passed = stolen.iter().position(|&number| number == 1_000);
    assert_eq!(passed, Some(10));
}

#[test]
fn the_oldest_of_the_lowest_level_can_best_be_spared() {
    let spare = |pool: &Pool<Shelved>| {
        let stolen = std::iter::from_fn(|| pool.steal_last());
        stolen.map(|job| job.number).collect::<Vec<_>>()
    };
    let pool = shelf();
    assert_eq!(pool.steal_last(), None);
    push_unstaffed(&pool, 1, 1);
    push_unstaffed(&pool, 2, 2);
    assert_eq!(spare(&pool), [1, 2]);
    push_unstaffed(&pool, 100, 3);
    push_ranked_unstaffed(&pool, 2, -90, 8);
    push_unstaffed(&pool, 102, 4);
    push_ranked_unstaffed(&pool, -1, 120, 2);
    push_ranked_unstaffed(&pool, 1, -50, 7);
    push_ranked_unstaffed(&pool, -1, 115, 1);
    push_ranked_unstaffed(&pool, 0, 103, 5);
    push_ranked_unstaffed(&pool, 1, -60, 6);
    assert_eq!(spare(&pool), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(pool.stats().queued, 0);
}

/// A worker takes jobs in the same order.
#[test]
fn workers_go_by_rank() {
    let pool = pool(1);
    let (go, results) = (Event::default(), mpsc::channel());
    block(&pool, &go);
    let job = |number: usize| {
        let done = results.0.clone();
        Job::new(move |_| done.send(number).unwrap())
    };
    // A plain job's rank is zero here.
    pool.submit(job(2)).unwrap();
    pool.submit_ranked(job(4), 0, 1).unwrap();
    pool.submit_ranked(job(1), 0, -1).unwrap();
    pool.submit(job(3)).unwrap();
    pool.resubmit_ranked(job(0), 0, -2).unwrap();
    assert_eq!(pool.stats().queued, 5);
    go.set();
    assert!(pool.wait_quiet(Some(soon())));
    assert_eq!(results.1.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_closed_pool_takes_no_ranked_job() {
    let pool = pool(1);
    let gauge = Gauge::default();
    pool.submit_ranked(gauge.job(), 0, 0).unwrap();
    pool.close();
    assert!(matches!(
        pool.submit_ranked(gauge.job(), 0, 0),
        Err(SubmitError::Closed(_))
    ));
    assert!(pool.join(Some(soon())));
    assert_eq!(gauge.runs(), 1);
    assert!(matches!(
        pool.resubmit_ranked(gauge.job(), 0, 0),
        Err(SubmitError::Closed(_))
    ));
}

/// Compared with a list that is searched from one end to the other.
#[test]
fn a_queue_does_what_the_model_does() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let pool = shelf();
        // Level, rank, number.
        let mut model: Vec<(Level, Rank, usize)> = Vec::new();
        for number in 0..300 {
            // No two ranks are equal.
            let birth = Rank::try_from(number).unwrap() * 16;
            match random.below(6) {
                0 | 1 => {
                    push_unstaffed(&pool, birth, number);
                    model.push((0, birth, number));
                }
                2 => {
                    let level = Level::try_from(random.below(5)).unwrap() - 2;
                    let rank = birth - Rank::from(level) * 160 + 1 + Rank::from(level + 2);
                    push_ranked_unstaffed(&pool, level, rank, number);
                    model.push((level, rank, number));
                }
                3 => {
                    let lowest = model.iter().min().copied();
                    model.retain(|&job| Some(job) != lowest);
                    let stolen = pool.steal_last().map(|job| job.number);
                    assert_eq!(stolen, lowest.map(|job| job.2), "seed {seed}");
                }
                _ => {
                    let first = model.iter().min_by_key(|job| job.1).copied();
                    model.retain(|&job| Some(job) != first);
                    let stolen = pool.steal().map(|job| job.number);
                    assert_eq!(stolen, first.map(|job| job.2), "seed {seed}");
                }
            }
            assert_eq!(pool.stats().queued, model.len());
        }
    }
}

/// Ranked and plain jobs from many threads, while some are stolen.
#[test]
fn every_job_runs_exactly_once() {
    const SUBMITTERS: usize = 4;
    const JOBS: usize = 5_000;
    for max_workers in [1, 2, 4] {
        let pool = pool(max_workers);
        let runs: Arc<Vec<AtomicUsize>> = Arc::new(
            (0..SUBMITTERS * JOBS)
                .map(|_| AtomicUsize::new(0))
                .collect(),
        );
        let stolen = thread::scope(|scope| {
            let stealer = scope.spawn(|| {
                let steals = (0..JOBS).map(|round| {
                    thread::yield_now();
                    if round % 2 == 0 {
                        pool.steal()
                    } else {
                        pool.steal_last()
                    }
                });
                steals.flatten().count()
            });
            for submitter in 0..SUBMITTERS {
                let (pool, runs) = (&pool, &runs);
                scope.spawn(move || {
                    let mut random = Random(u64::try_from(submitter).unwrap());
                    for job in submitter * JOBS..(submitter + 1) * JOBS {
                        let runs = Arc::clone(runs);
                        let job = Job::new(move |_| {
                            runs[job].fetch_add(1, Ordering::SeqCst);
                        });
                        match random.below(40) {
                            0 => pool.submit_ranked(job, 1, -1).unwrap(),
                            1 => pool.submit_ranked(job, -1, 1).unwrap(),
                            _ => pool.submit(job).unwrap(),
                        }
                    }
                });
            }
            stealer.join().unwrap()
        });
        assert!(pool.wait_quiet(Some(soon())));
        assert_eq!(pool.stats().queued, 0);
        let ran = runs.iter().map(|runs| runs.load(Ordering::SeqCst));
        assert_eq!(ran.clone().max(), Some(1));
        assert_eq!(ran.sum::<usize>() + stolen, SUBMITTERS * JOBS);
    }
}
