//! How many jobs a second one thread hands to 1, 2, 4 and 8 workers, without Python.
//!
//! `handover [JOBS]` prints the number of workers and jobs/s, a line for each number.
#![allow(clippy::print_stdout, reason = "what it prints is its result")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flask_delay_engine::{Config, Pool, Worker};

const JOBS: usize = 10_000_000;

/// One for each worker, so that counting causes no contention.
#[repr(align(128))]
#[derive(Default)]
struct Count(AtomicUsize);

struct Job;

fn jobs_per_second(workers: usize, jobs: usize) -> f64 {
    let counts: Arc<Vec<Count>> = Arc::new((0..workers).map(|_| Count::default()).collect());
    let (next, of_workers) = (AtomicUsize::new(0), Arc::clone(&counts));
    let config = Config {
        name: "handover".to_owned(),
        max_workers: workers,
        idle_timeout: Duration::from_mins(1),
        spin: Duration::from_micros(100),
        stack_size: 256 * 1024,
    };
    let pool = Pool::new(config, move |mut worker: Worker<Job>| {
        let count = &of_workers[next.fetch_add(1, Ordering::Relaxed) % of_workers.len()].0;
        while worker.next(|park| _ = park()).is_some() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let run = |jobs: usize| {
        for _ in 0..jobs {
            assert!(
                pool.submit(Job).is_ok(),
                "the pool is open and has a thread"
            );
        }
        let deadline = Instant::now() + Duration::from_mins(2);
        assert!(pool.wait_quiet(Some(deadline)), "jobs were lost");
    };
    let ran = || -> usize {
        counts
            .iter()
            .map(|count| count.0.load(Ordering::Relaxed))
            .sum()
    };
    // Warms up the threads and the queue's memory.
    run(jobs / 10);
    let before = ran();
    let start = Instant::now();
    run(jobs);
    let took = start.elapsed();
    assert_eq!(ran() - before, jobs);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let jobs = jobs as f64;
    jobs / took.as_secs_f64()
}

fn main() {
    let jobs = match std::env::args().nth(1).map(|jobs| jobs.parse()) {
        None => JOBS,
        Some(Ok(jobs)) => jobs,
        Some(Err(error)) => panic!("the number of jobs: {error}"),
    };
    for workers in [1, 2, 4, 8] {
        println!("{workers} {:.0}", jobs_per_second(workers, jobs));
    }
}
