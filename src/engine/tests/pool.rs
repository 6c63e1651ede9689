//! Jobs, workers and the limit of active ones.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use flask_delay_engine::{Config, Pool, Stats, SubmitError, Worker};
use support::{Event, Gauge, Job, LONG, block, config, nest, panic_quietly, pool, soon, work};

#[test]
fn no_thread_before_the_first_submit() {
    let pool = pool(4);
    assert_eq!(pool.stats(), Stats::default());
    pool.submit(Job::new(|_| ())).unwrap();
    assert!(pool.wait_quiet(Some(soon())));
    assert_eq!(pool.stats().threads, 1);
}

#[test]
fn quiet_without_a_wait() {
    let pool = pool(1);
    assert_eq!(pool.try_is_quiet(), Some(true));
    let release = Event::default();
    let held = release.clone();
    pool.submit(Job::new(move |_| held.wait())).unwrap();
    pool.submit(Job::new(|_| ())).unwrap();
    // None while the worker that starts has the lock.
    let quiet = || loop {
        if let Some(quiet) = pool.try_is_quiet() {
            return quiet;
        }
        thread::yield_now();
    };
    assert!(!quiet());
    release.set();
    assert!(pool.wait_quiet(Some(soon())));
    assert!(quiet());
}

#[test]
fn every_job_runs_exactly_once() {
    const SUBMITTERS: usize = 8;
    const JOBS: usize = 5_000;
    for max_workers in [1, 2, 4] {
        let pool = pool(max_workers);
        let runs: Arc<Vec<AtomicUsize>> = Arc::new(
            (0..SUBMITTERS * JOBS)
                .map(|_| AtomicUsize::new(0))
                .collect(),
        );
        thread::scope(|scope| {
            for submitter in 0..SUBMITTERS {
                let (pool, runs) = (&pool, &runs);
                scope.spawn(move || {
                    for job in submitter * JOBS..(submitter + 1) * JOBS {
                        let runs = Arc::clone(runs);
                        pool.submit(Job::new(move |_| {
                            runs[job].fetch_add(1, Ordering::SeqCst);
                        }))
                        .unwrap();
                    }
                });
            }
        });
        assert!(pool.wait_quiet(Some(soon())));
        assert!(runs.iter().all(|runs| runs.load(Ordering::SeqCst) == 1));
    }
}

/// A parked worker is woken again and again.
#[test]
fn one_job_after_the_other() {
    let pool = pool(2);
    let (done, results) = mpsc::channel();
    for number in 0..5_000 {
        let done = done.clone();
        pool.submit(Job::new(move |_| done.send(number).unwrap()))
            .unwrap();
        assert_eq!(results.recv_timeout(LONG), Ok(number));
    }
}

#[test]
fn as_many_jobs_at_once_as_allowed() {
    const WORKERS: usize = 4;
    let pool = pool(WORKERS);
    let gauge = Gauge::default();
    let arrived = Arc::new(AtomicUsize::new(0));
    let all_here = Event::default();
    for _ in 0..WORKERS {
        let (gauge, arrived, all_here) = (gauge.clone(), Arc::clone(&arrived), all_here.clone());
        pool.submit(Job::new(move |_| {
            gauge.measure(|| {
                if arrived.fetch_add(1, Ordering::SeqCst) + 1 == WORKERS {
                    all_here.set();
                }
                all_here.wait();
            });
        }))
        .unwrap();
    }
    for _ in 0..2_000 {
        pool.submit(gauge.job()).unwrap();
    }
    assert!(pool.wait_quiet(Some(soon())));
    assert_eq!(gauge.most(), WORKERS);
    assert_eq!(gauge.runs(), WORKERS + 2_000);
}

#[test]
fn threads_are_named() {
    let pool = pool(2);
    let names = Arc::new(Mutex::new(BTreeSet::new()));
    let (first, second) = (Event::default(), Event::default());
    for (mine, other) in [(first.clone(), second.clone()), (second, first)] {
        let names = Arc::clone(&names);
        pool.submit(Job::new(move |worker| {
            assert_eq!(thread::current().name(), Some(worker.name()));
            names.lock().unwrap().insert(worker.name().to_owned());
            mine.set();
            other.wait();
        }))
        .unwrap();
    }
    assert!(pool.wait_quiet(Some(soon())));
    let names: Vec<_> = names.lock().unwrap().iter().cloned().collect();
    assert_eq!(names, ["test_0", "test_1"]);
}

#[test]
fn idle_threads_leave_but_the_last_one() {
    const WORKERS: usize = 4;
    let (left, leavers) = mpsc::channel();
    let config = Config {
        idle_timeout: Duration::from_millis(1),
        ..config(WORKERS)
    };
    let pool = Pool::new(config, move |worker: Worker<Job>| {
        work(worker);
        left.send(()).unwrap();
    });
    let (here, go) = (mpsc::channel(), Event::default());
    for _ in 0..WORKERS {
        let (here, go) = (here.0.clone(), go.clone());
        pool.submit(Job::new(move |_| {
            here.send(()).unwrap();
            go.wait();
        }))
        .unwrap();
    }
    for _ in 0..WORKERS {
        here.1.recv_timeout(LONG).unwrap();
    }
    assert_eq!(pool.stats().threads, WORKERS);
    go.set();
    for _ in 1..WORKERS {
        leavers.recv_timeout(LONG).unwrap();
    }
    assert!(leavers.recv_timeout(Duration::from_millis(50)).is_err());
    let stats = pool.stats();
    assert_eq!((stats.threads, stats.idle), (1, 1));
    let (done, results) = mpsc::channel();
    pool.submit(Job::new(move |worker| {
        done.send(worker.name().to_owned()).unwrap();
    }))
    .unwrap();
    let name = results.recv_timeout(LONG).unwrap();
    assert!(name < format!("test_{WORKERS}"), "{name} is a new thread");
}

/// Threads time out while they are woken.
#[test]
fn leaving_threads_lose_no_job() {
    let config = Config {
        idle_timeout: Duration::ZERO,
        ..config(4)
    };
    let pool = Pool::new(config, work);
    let (done, results) = mpsc::channel();
    for round in 0..2_000 {
        for _ in 0..=round % 4 {
            let done = done.clone();
            pool.submit(Job::new(move |_| done.send(()).unwrap()))
                .unwrap();
        }
        for _ in 0..=round % 4 {
            results.recv_timeout(LONG).unwrap();
        }
    }
    assert!(pool.stats().threads >= 1);
}

#[test]
fn nested_waits_end_with_one_worker() {
    let pool = pool(1);
    nest(&pool, 200);
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.waiting), (0, 0));
}

/// A wait may also be noted through a handle, and is counted.
#[test]
fn a_wait_makes_room_for_another_worker() {
    let pool = pool(1);
    let (waits, done) = (Event::default(), Event::default());
    let (waits_now, awaited) = (waits.clone(), done.clone());
    pool.submit(Job::new(move |worker| {
        let handle = worker.handle();
        let _waiting = handle.waiting();
        waits_now.set();
        awaited.wait();
    }))
    .unwrap();
    waits.wait();
    assert_eq!(pool.stats().waiting, 1);
    pool.submit(Job::new(move |_| done.set())).unwrap();
    assert!(pool.wait_quiet(Some(soon())));
    assert_eq!(pool.stats().waiting, 0);
}

#[test]
fn the_limit_holds_again_after_waits() {
    let pool = pool(1);
    nest(&pool, 20);
    assert!(pool.stats().threads > 1);
    let gauge = Gauge::default();
    for _ in 0..2_000 {
        pool.submit(gauge.job()).unwrap();
    }
    assert!(pool.wait_quiet(Some(soon())));
    assert_eq!((gauge.most(), gauge.runs()), (1, 2_000));
}

/// While one worker too many is active, the first that is done takes no other job.
#[test]
fn a_surplus_worker_leaves() {
    let (sleeps, asleep) = mpsc::channel();
    let pool = Pool::new(config(1), move |mut worker: Worker<Job>| {
        let sleeps = sleeps.clone();
        while let Some(job) = worker.next(|park| {
            // The receiver may be gone.
            let _ = sleeps.send(());
            park();
        }) {
            job.run(&worker);
        }
    });
    let (awaited, resumed, finish) = (Event::default(), Event::default(), Event::default());
    let second_runs = Arc::new(AtomicBool::new(true));
    {
        let (awaited, resumed) = (awaited.clone(), resumed.clone());
        pool.submit(Job::new(move |worker| {
            let waiting = worker.waiting();
            awaited.wait();
            drop(waiting);
            resumed.set();
        }))
        .unwrap();
    }
    {
        let (finish, second_runs) = (finish.clone(), Arc::clone(&second_runs));
        pool.submit(Job::new(move |_| {
            awaited.set();
            finish.wait();
            second_runs.store(false, Ordering::SeqCst);
        }))
        .unwrap();
    }
    resumed.wait();
    let (ran, third) = mpsc::channel();
    pool.submit(Job::new(move |_| {
        ran.send(second_runs.load(Ordering::SeqCst)).unwrap();
    }))
    .unwrap();
    // The first worker parks although the third job is queued.
    asleep.recv_timeout(LONG).unwrap();
    finish.set();
    assert_eq!(third.recv_timeout(LONG), Ok(false));
}

#[test]
fn a_thread_that_panics_is_replaced() {
    let pool = pool(2);
    let gauge = Gauge::default();
    for number in 0..200 {
        let job = if number % 10 == 0 {
            Job::new(|_| panic_quietly())
        } else {
            gauge.job()
        };
        pool.submit(job).unwrap();
    }
    // A thread that ends and its successor are counted one after the other. So the pool may look
    // quiet in between, but not with a job in its queue.
    assert!(pool.wait_quiet(Some(soon())));
    assert_eq!(gauge.runs(), 180);
    pool.close();
    assert!(pool.join(Some(soon())));
}

/// The thread was woken but had not noticed: the wake-up must not be lost with it.
#[test]
fn a_thread_that_panics_in_its_sleep_is_replaced() {
    for before_parking in [false, true] {
        let armed = Arc::new(AtomicBool::new(true));
        let (asleep, called) = (Event::default(), Event::default());
        let pool = {
            let (armed, asleep, called) = (Arc::clone(&armed), asleep.clone(), called.clone());
            Pool::new(config(1), move |mut worker: Worker<Job>| {
                while let Some(job) = worker.next(|park| {
                    let armed = armed.swap(false, Ordering::SeqCst);
                    asleep.set();
                    if armed && before_parking {
                        called.wait();
                        panic_quietly();
                    }
                    park();
                    if armed {
                        panic_quietly();
                    }
                }) {
                    job.run(&worker);
                }
            })
        };
        pool.submit(Job::new(|_| ())).unwrap();
        asleep.wait();
        let (done, results) = mpsc::channel();
        for number in 0..100 {
            let done = done.clone();
            pool.submit(Job::new(move |_| done.send(number).unwrap()))
                .unwrap();
            called.set();
            assert_eq!(results.recv_timeout(LONG), Ok(number));
        }
    }
}

/// Two jobs that need each other must get two workers, however they are found.
#[test]
fn jobs_that_need_each_other_meet() {
    let pool = pool(2);
    for _ in 0..2_000 {
        let (here, there) = (Event::default(), Event::default());
        for (mine, other) in [(here.clone(), there.clone()), (there, here)] {
            pool.submit(Job::new(move |_| {
                mine.set();
                other.wait();
            }))
            .unwrap();
        }
        assert!(pool.wait_quiet(Some(soon())));
    }
}

/// More stack than there are addresses.
#[cfg(target_pointer_width = "64")]
#[test]
fn without_a_thread_each_submit_gets_its_own_job_back() {
    let config = Config {
        stack_size: 1 << 50,
        ..config(2)
    };
    let pool: Pool<usize> = Pool::new(config, |_| panic!("there is no thread to run this"));
    thread::scope(|scope| {
        for mine in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..50 {
                    match pool.submit(mine) {
                        Err(SubmitError::Spawn(job, _)) => assert_eq!(job, mine),
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
    assert_eq!(pool.stats(), Stats::default());
    assert!(pool.wait_quiet(Some(soon())));
    pool.close();
    assert!(pool.join(Some(soon())));
}

#[test]
fn the_oldest_job_is_stolen() {
    let pool = pool(1);
    let (go, results) = (Event::default(), mpsc::channel());
    block(&pool, &go);
    for number in 0..3 {
        let done = results.0.clone();
        pool.submit(Job::new(move |_| done.send(number).unwrap()))
            .unwrap();
    }
    assert_eq!(pool.stats().queued, 3);
    drop(pool.steal().unwrap());
    go.set();
    assert!(pool.wait_quiet(Some(soon())));
    assert_eq!(results.1.try_iter().collect::<Vec<_>>(), [1, 2]);
    assert!(pool.steal().is_none());
}

#[test]
#[should_panic(expected = "a pool needs a worker")]
fn a_pool_needs_a_worker() {
    drop(Pool::new(config(0), work));
}
