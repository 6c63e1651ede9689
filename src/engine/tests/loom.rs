//! Models of the engine: loom runs each of them in every order that it can tell apart.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flask-delay-engine --release --test loom`
//!
//! A lost wake-up shows as a deadlock: every model waits until the pool is quiet before it closes
//! it, because closing wakes all workers. Each names what it guards: without that, the model fails.
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a failed model has to panic")]

#[path = "support/models.rs"]
mod models;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flask_delay_engine::model::Parker;
use flask_delay_engine::{Config, Pool, SubmitError, Worker};
use loom::sync::{Condvar, Mutex};
use models::{Job, Runs, check, config, end, pool, work};

fn pool_with(max_workers: usize, idle_timeout: Duration, threads: usize) -> Arc<Pool<Job>> {
    let config = Config {
        idle_timeout,
        stack_size: threads,
        ..config(max_workers)
    };
    Arc::new(Pool::new(config, work))
}

/// A pool with workers that spin for a while before they park.
fn keen_pool(max_workers: usize) -> Arc<Pool<Job>> {
    let config = Config {
        spin: Duration::from_nanos(1),
        ..config(max_workers)
    };
    Arc::new(Pool::new(config, work))
}

/// A pool with threads that end after one job, as if it had panicked.
fn mortal_pool() -> Arc<Pool<Job>> {
    Arc::new(Pool::new(config(1), |mut worker: Worker<Job>| {
        if let Some(job) = worker.next(|park| _ = park()) {
            job.run(&worker);
        }
    }))
}

/// A one-time event.
#[derive(Clone, Default)]
struct Event(Arc<(Mutex<bool>, Condvar)>);

impl Event {
    fn set(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let mut happened = self.0.0.lock().unwrap();
        while !*happened {
            happened = self.0.1.wait(happened).unwrap();
        }
    }
}

/// Guards: the token is checked before sleeping, and stays until it is taken.
#[test]
fn parker_keeps_its_token() {
    check(3, || {
        let (to_main, beds) = loom::sync::mpsc::channel();
        let sleeper = loom::thread::spawn(move || {
            let parker = Arc::new(Parker::new());
            to_main.send(Arc::clone(&parker)).unwrap();
            if !parker.park(Some(Instant::now())) {
                assert!(parker.park(None));
            }
        });
        beds.recv().unwrap().unpark();
        sleeper.join().unwrap();
    });
}

/// One submit after the other, to a pool with one worker.
fn two_submits(make: fn() -> Arc<Pool<Job>>, preemptions: usize) {
    check(preemptions, move || {
        let pool = make();
        let runs = Runs::default();
        for _ in 0..2 {
            pool.submit(runs.job()).unwrap();
        }
        end(&pool);
        assert_eq!(runs.count(), 2);
    });
}

/// Guards: the fences of `Pool::submit` and `Worker::park`, and the look at the queue in the
/// latter.
#[test]
fn submit_while_the_worker_parks() {
    two_submits(|| pool(1), 3);
}

/// Guards: a worker that spins is the one that is searching, and clears the flag before its last
/// look.
#[test]
fn submit_while_a_worker_spins() {
    two_submits(|| keen_pool(1), 3);
}

/// Two jobs that wait for each other, so both have to run at once.
fn two_that_meet(make: fn() -> Arc<Pool<Job>>, preemptions: usize) {
    check(preemptions, move || {
        let pool = make();
        let (here, there) = (Event::default(), Event::default());
        for (mine, other) in [(here.clone(), there.clone()), (there, here)] {
            let job = Job::new(move |_| {
                mine.set();
                other.wait();
            });
            pool.submit(job).unwrap();
        }
        end(&pool);
    });
}

/// Guards: a worker that found a job by spinning wakes the next one if there are more.
#[test]
fn two_jobs_while_a_worker_spins() {
    two_that_meet(|| keen_pool(2), 1);
}

fn two_submitters(max_workers: usize, preemptions: usize) {
    check(preemptions, move || {
        let pool = pool(max_workers);
        let runs = Runs::default();
        let other = {
            let (pool, job) = (Arc::clone(&pool), runs.job());
            loom::thread::spawn(move || pool.submit(job).unwrap())
        };
        pool.submit(runs.job()).unwrap();
        other.join().unwrap();
        end(&pool);
        assert_eq!(runs.count(), 2);
    });
}

/// Guards: `Shared::start` starts one thread; a submit that saw SEARCHING is not forgotten.
#[test]
fn two_submitters_one_worker() {
    two_submitters(1, 2);
}

/// As above, with a second worker to wake.
#[test]
fn two_submitters_two_workers() {
    two_submitters(2, 1);
}

/// Guards: a worker that finds a job wakes the next one for further jobs. So does one that finds it
/// only at its second look (`Worker::found`, `Worker::park`). The jobs need each other, so one
/// worker alone never ends.
#[test]
fn two_jobs_at_once_get_two_workers() {
    two_that_meet(|| pool(2), 2);
}

/// Guards: the look at the queue in `Worker::waiting`, after HAS_CAPACITY is set. The only worker
/// waits for a job that another thread queues.
#[test]
fn job_queued_while_the_only_worker_waits() {
    check(2, || {
        let pool = pool(1);
        let done = Event::default();
        let awaited = done.clone();
        pool.submit(Job::new(move |worker| {
            let _waiting = worker.waiting();
            awaited.wait();
        }))
        .unwrap();
        pool.submit(Job::new(move |_| done.set())).unwrap();
        end(&pool);
    });
}

/// Guards: `Pool::look_after` wakes a worker for a job as a submit does, and no second one.
#[test]
fn who_looks_after_a_pool_and_a_submit() {
    check(2, || {
        let pool = pool(1);
        let runs = Runs::default();
        pool.submit(runs.job()).unwrap();
        let watched = Arc::clone(&pool);
        let watcher = loom::thread::spawn(move || watched.look_after());
        pool.submit(runs.job()).unwrap();
        watcher.join().unwrap();
        end(&pool);
        assert_eq!(runs.count(), 2);
    });
}

/// Guards: after a wait one worker too many is active. The first that is done takes no other job,
/// and leaves none behind (`Worker::retire_surplus`).
#[test]
fn surplus_worker_leaves() {
    check(2, || {
        let pool = pool(1);
        let runs = Runs::default();
        let (first, again) = (Event::default(), Event::default());
        let (wait_first, go_on) = (first.clone(), again.clone());
        pool.submit(Job::new(move |worker| {
            let waiting = worker.waiting();
            wait_first.wait();
            drop(waiting);
            go_on.set();
        }))
        .unwrap();
        let second = runs.clone();
        pool.submit(Job::new(move |_| {
            first.set();
            // So that the wait ends while this job runs: two are active.
            again.wait();
            second.add();
        }))
        .unwrap();
        let third = runs.clone();
        pool.submit(Job::new(move |_| {
            assert_eq!(third.add(), 1, "above the limit");
        }))
        .unwrap();
        end(&pool);
        assert_eq!(runs.count(), 2);
    });
}

/// Guards: a worker that leaves or parks while it is being woken clears SEARCHING
/// (`Worker::retire_surplus`).
#[test]
fn wait_ends_while_another_worker_is_called() {
    check(1, || {
        let pool = pool(1);
        let runs = Runs::default();
        let happens = Event::default();
        let awaited = happens.clone();
        pool.submit(Job::new(move |worker| {
            let _waiting = worker.waiting();
            awaited.wait();
        }))
        .unwrap();
        pool.submit(runs.job()).unwrap();
        happens.set();
        assert!(pool.wait_quiet(None));
        pool.submit(runs.job()).unwrap();
        end(&pool);
        assert_eq!(runs.count(), 2);
    });
}

/// Guards: a thread that panics leaves its jobs to another (`Worker::drop`).
#[test]
fn worker_that_ends_is_replaced() {
    two_submits(mortal_pool, 2);
}

/// A submit against `close` and `join`, with or without a job before.
fn close_while_submitting(make: fn() -> Arc<Pool<Job>>, used: bool, preemptions: usize) {
    check(preemptions, move || {
        let pool = make();
        let runs = Runs::default();
        let joined = Arc::new(AtomicBool::new(false));
        if used {
            pool.submit(runs.job()).unwrap();
        }
        let submitter = {
            let (pool, runs, joined) = (Arc::clone(&pool), runs.clone(), Arc::clone(&joined));
            loom::thread::spawn(move || {
                let submitted = pool.submit(Job::new(move |_| {
                    assert!(!joined.load(Ordering::SeqCst), "runs in an ended pool");
                    runs.add();
                }));
                match submitted {
                    Ok(()) => true,
                    Err(SubmitError::Closed(_)) => false,
                    Err(SubmitError::Spawn(..)) => panic!("threads are to be had"),
                }
            })
        };
        pool.close();
        assert!(pool.join(None));
        joined.store(true, Ordering::SeqCst);
        let threads = pool.stats().threads;
        let accepted = submitter.join().unwrap();
        assert_eq!(threads, 0);
        assert_eq!(pool.stats(), flask_delay_engine::Stats::default());
        assert_eq!(runs.count(), usize::from(used) + usize::from(accepted));
    });
}

/// Guards: the promise of `join`. A job is either run before it returns or refused:
/// `Roster::ended`, `Shared::take_back`.
#[test]
fn close_while_the_first_job_is_submitted() {
    close_while_submitting(|| pool(1), false, 3);
}

/// Guards: `close` wakes the parked workers, and a worker looks at the queue before it leaves.
#[test]
fn close_while_a_worker_parks() {
    close_while_submitting(|| pool(1), true, 2);
}

/// Guards: the fence of `Pool::join`, the only one when no worker has looked.
#[test]
fn close_while_a_worker_ends() {
    close_while_submitting(mortal_pool, true, 2);
}

/// Guards: a worker after its idle timeout is either gone or woken, never both; the last one stays
/// (`Worker::sleep`).
#[test]
fn idle_workers_retire() {
    check(1, || {
        let pool = pool_with(2, Duration::ZERO, usize::MAX);
        let runs = Runs::default();
        for _ in 0..3 {
            pool.submit(runs.job()).unwrap();
        }
        assert!(pool.wait_quiet(None));
        assert!(pool.stats().threads >= 1);
        end(&pool);
        assert_eq!(runs.count(), 3);
    });
}

/// Guards: a thread that cannot be started gives its place to a parked worker (`Shared::forgo`);
/// otherwise a submit that saw SEARCHING would be forgotten.
#[test]
fn thread_that_cannot_start() {
    check(1, || {
        let pool = pool_with(2, Duration::MAX, 1);
        let runs = Runs::default();
        let (started, go, second) = (Event::default(), Event::default(), Event::default());
        let (starts, go_on, second_runs) = (started.clone(), go.clone(), second.clone());
        pool.submit(Job::new(move |_| {
            starts.set();
            go_on.wait();
        }))
        .unwrap();
        let other = {
            let (pool, job) = (Arc::clone(&pool), runs.job());
            loom::thread::spawn(move || {
                second.wait();
                pool.submit(job).unwrap();
            })
        };
        // The only thread is active when the second job arrives, and parked soon after.
        started.wait();
        go.set();
        pool.submit(Job::new(move |_| second_runs.set())).unwrap();
        other.join().unwrap();
        end(&pool);
        assert_eq!(runs.count(), 1);
    });
}

/// Guards: without any thread, each submit gets back its own job, and none stays behind
/// (`Shared::start`).
#[test]
fn no_thread_at_all() {
    check(3, || {
        let pool = pool_with(1, Duration::MAX, 0);
        let submit = |pool: &Pool<Job>| {
            let mine = Arc::new(());
            let job = {
                let mine = Arc::clone(&mine);
                Job::new(move |_| drop(mine))
            };
            let Err(SubmitError::Spawn(job, _)) = pool.submit(job) else {
                panic!("there is no thread to run it");
            };
            drop(job);
            assert_eq!(Arc::strong_count(&mine), 1, "another's job was given back");
        };
        let other = {
            let pool = Arc::clone(&pool);
            loom::thread::spawn(move || submit(&pool))
        };
        submit(&pool);
        other.join().unwrap();
        end(&pool);
    });
}
