//! Models of ranked jobs: loom runs each of them in every order that it can tell apart. Each names
//! what it guards: without that, the model fails.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flask-delay-engine --release --test loom_ranks`
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a failed model has to panic")]

#[path = "support/models.rs"]
mod models;

use std::sync::Arc;

use flask_delay_engine::SubmitError;
use flask_delay_engine::model::Queue;
use loom::sync::{Condvar, Mutex};
use loom::thread::spawn;
use models::{Job, Runs, check, end, pool, race};

/// Guards: the order of the two looks of `is_empty`, the fence between them and the one in `take`.
/// Also that a plain job which was moved into the priority queue is counted there.
#[test]
fn a_plain_job_is_not_overlooked_while_it_is_moved() {
    let look = |queue: &Queue| assert!(!queue.is_empty());
    let move_it = |queue: &Queue| {
        queue.push_ranked(0);
        assert_eq!(queue.pop(), Some(0));
    };
    let make = || {
        let queue = Arc::new(Queue::new());
        queue.push(1);
        queue
    };
    race(3, make, look, move_it, |queue, (), ()| {
        assert!(!queue.is_empty());
        assert_eq!(queue.pop(), Some(1));
        assert!(queue.is_empty());
    });
}

/// Adds a job and takes one, as a submit to a pool that has ended does.
fn exchange(queue: &Queue, push: fn(&Queue)) {
    push(queue);
    assert!(queue.pop().is_some());
}

fn exchanges(preemptions: usize, pushes: &'static [fn(&Queue)]) {
    check(preemptions, move || {
        let queue = Arc::new(Queue::new());
        let threads: Vec<_> = pushes[1..]
            .iter()
            .map(|&push| {
                let queue = Arc::clone(&queue);
                spawn(move || exchange(&queue, push))
            })
            .collect();
        exchange(&queue, pushes[0]);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(queue.is_empty());
    });
}

/// Guards: a thread that finds no plain job looks into the priority queue, although that was empty
/// before.
#[test]
fn who_adds_a_job_can_take_one() {
    exchanges(3, &[|queue| queue.push(1), |queue| queue.push_ranked(2)]);
    exchanges(3, &[|queue| queue.push_ranked(0), |queue| queue.push(1)]);
}

/// Guards: a thread that finds no plain job looks into the priority queue once it was used, even if
/// it looks empty: a plain job may have gone through it while another came.
#[test]
fn who_adds_a_job_can_take_one_of_three() {
    exchanges(
        2,
        &[
            |queue| queue.push(1),
            |queue| queue.push_ranked(0),
            |queue| queue.push(2),
        ],
    );
}

/// Guards: a submit of a ranked job fences like any, after the priority queue counts the job, and
/// the worker looks at the priority queue too.
#[test]
fn ranked_submit_while_the_worker_parks() {
    check(3, || {
        let pool = pool(1);
        let runs = Runs::default();
        for rank in 0..2 {
            pool.submit_ranked(runs.job(), 0, rank).unwrap();
        }
        end(&pool);
        assert_eq!(runs.count(), 2);
    });
}

/// Guards: a job left in the priority queue, moved there or not, gets the next worker. The jobs
/// need each other, so one worker alone never ends.
#[test]
fn plain_and_ranked_job_at_once_get_two_workers() {
    check(1, || {
        let pool = pool(2);
        let meeting = Arc::new((Mutex::new(0), Condvar::new()));
        let job = || {
            let meeting = Arc::clone(&meeting);
            Job::new(move |_| {
                let mut here = meeting.0.lock().unwrap();
                *here += 1;
                meeting.1.notify_all();
                while *here < 2 {
                    here = meeting.1.wait(here).unwrap();
                }
            })
        };
        pool.submit(job()).unwrap();
        pool.submit_ranked(job(), 0, -1).unwrap();
        end(&pool);
    });
}

/// Guards: a late submit of a ranked job is run before `join` returns or refused.
#[test]
fn close_while_a_ranked_job_is_submitted() {
    check(3, || {
        let pool = pool(1);
        let runs = Runs::default();
        let submitter = {
            let (pool, job) = (Arc::clone(&pool), runs.job());
            spawn(move || match pool.submit_ranked(job, 0, 0) {
                Ok(()) => 1,
                Err(SubmitError::Closed(_)) => 0,
                Err(SubmitError::Spawn(..)) => panic!("threads are to be had"),
            })
        };
        pool.close();
        assert!(pool.join(None));
        let ran = runs.count();
        let accepted = submitter.join().unwrap();
        assert_eq!(pool.stats(), flask_delay_engine::Stats::default());
        assert_eq!((ran, runs.count()), (accepted, accepted));
    });
}
