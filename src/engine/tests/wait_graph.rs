//! The graph of waits refuses circles and nothing else.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Barrier;
use std::thread;

use flask_delay_engine::{Entered, Key, Link, Obstacle, Target, Wait, WaitGraph};

type Graph<T> = WaitGraph<T, Key>;
type Entering<'a, T> = Result<Entered<'a, T, Key>, Vec<Link<T>>>;

fn targets(jobs: &[Key]) -> Vec<Target<Key>> {
    let targets = jobs.iter().map(|&job| Target { job, held: None });
    targets.collect()
}

fn held(job: Key) -> Target<Key> {
    Target {
        job,
        held: Some(job),
    }
}

/// Waits for one job.
fn one<T: Clone + PartialEq>(waits: &Graph<T>, waiter: Key, job: Key, name: T) -> Entering<'_, T> {
    some(waits, waiter, &[job], 1, name)
}

/// Waits for so many of several jobs.
fn some<'a, T: Clone + PartialEq>(
    waits: &'a Graph<T>,
    waiter: Key,
    jobs: &[Key],
    need: usize,
    name: T,
) -> Entering<'a, T> {
    let targets = targets(jobs);
    let wait = Wait {
        name,
        targets,
        need,
    };
    waits.enter(waiter, wait, |_| panic!("nothing may be held"))
}

/// The names of the circle.
fn circle<T>(entering: Entering<'_, T>) -> Vec<T> {
    let links = entering.err().unwrap();
    assert!(links.iter().all(|link| link.held.is_none()));
    links.into_iter().map(|link| link.name).collect()
}

#[test]
fn a_job_may_not_wait_for_itself() {
    let waits = WaitGraph::new();
    assert_eq!(circle(one(&waits, 1, 1, "a")), ["a"]);
    assert_eq!(circle(some(&waits, 1, &[2, 1], 2, "a")), ["a"]);
    assert!(some(&waits, 1, &[2, 1], 1, "a").is_ok());
}

#[test]
fn chains_are_fine_and_circles_are_not() {
    let waits = WaitGraph::new();
    let _a = one(&waits, 1, 2, "a").ok().unwrap();
    let _b = one(&waits, 2, 3, "b").ok().unwrap();
    // Two jobs may wait for the same one.
    let _d = one(&waits, 4, 2, "d").ok().unwrap();
    assert_eq!(circle(one(&waits, 3, 1, "c")), ["c", "a", "b"]);
    assert_eq!(circle(one(&waits, 3, 4, "c")), ["c", "d", "b"]);
    assert_eq!(circle(one(&waits, 3, 2, "c")), ["c", "b"]);
    // A refused wait leaves nothing behind.
    let _c = one(&waits, 3, 5, "c").ok().unwrap();
}

#[test]
fn a_wait_that_is_over_closes_no_circle() {
    let waits = WaitGraph::new();
    drop(one(&waits, 1, 2, "a").ok().unwrap());
    let _b = one(&waits, 2, 1, "b").ok().unwrap();
    assert_eq!(circle(one(&waits, 1, 2, "a")), ["a", "b"]);
}

#[test]
fn of_several_waits_of_a_job_the_last_one_counts() {
    let waits = WaitGraph::new();
    let first = one(&waits, 1, 2, "a").ok().unwrap();
    let last = one(&waits, 1, 3, "a").ok().unwrap();
    let b = one(&waits, 2, 1, "b").ok().unwrap();
    assert_eq!(circle(one(&waits, 3, 1, "c")), ["c", "a"]);
    drop(b);
    drop(last);
    assert_eq!(circle(one(&waits, 2, 1, "b")), ["b", "a"]);
    // In whatever order they end.
    let last = one(&waits, 1, 3, "a").ok().unwrap();
    drop(first);
    assert_eq!(circle(one(&waits, 3, 1, "c")), ["c", "a"]);
    assert!(one(&waits, 2, 1, "b").is_ok());
    drop(last);
    assert!(one(&waits, 3, 1, "c").is_ok());
}

#[test]
fn who_waits_for_all_is_stuck_with_one_of_them() {
    let waits = WaitGraph::new();
    let _a = some(&waits, 1, &[2, 3, 4], 3, "a").ok().unwrap();
    assert_eq!(circle(one(&waits, 3, 1, "c")), ["c", "a"]);
    assert_eq!(circle(some(&waits, 4, &[5, 1], 2, "d")), ["d", "a"]);
}

#[test]
fn who_waits_for_any_is_stuck_with_all_of_them() {
    let waits = WaitGraph::new();
    let _a = some(&waits, 1, &[2, 3, 4], 1, "a").ok().unwrap();
    let _b = one(&waits, 2, 1, "b").ok().unwrap();
    let c = one(&waits, 3, 1, "c").ok().unwrap();
    assert_eq!(circle(one(&waits, 4, 1, "d")), ["d", "a"]);
    assert_eq!(circle(one(&waits, 4, 2, "d")), ["d", "b", "a"]);
    // While one is left that may end, there is no circle.
    drop(c);
    let _d = one(&waits, 4, 1, "d").ok().unwrap();
    // The circle goes through the one that cannot end.
    let _e = one(&waits, 3, 5, "c").ok().unwrap();
    assert_eq!(circle(some(&waits, 5, &[6, 1], 2, "e")), ["e", "a", "c"]);
    assert!(some(&waits, 5, &[6, 1], 1, "e").is_ok());
}

#[test]
fn who_waits_for_some_is_stuck_when_too_few_are_left() {
    let waits = WaitGraph::new();
    let _a = some(&waits, 1, &[2, 3, 4], 2, "a").ok().unwrap();
    let _b = one(&waits, 2, 1, "b").ok().unwrap();
    assert_eq!(circle(one(&waits, 3, 1, "c")), ["c", "a"]);
}

#[test]
fn nobody_waits_for_more_than_there_are() {
    let waits = WaitGraph::new();
    let _a = some(&waits, 1, &[], 1, "a").ok().unwrap();
    assert!(one(&waits, 2, 1, "b").is_ok());
}

#[test]
fn long_chains_are_followed_to_the_end() {
    const LENGTH: usize = 10_000;
    let waits = WaitGraph::new();
    let held: Vec<_> = (0..LENGTH)
        .map(|job| one(&waits, job, job + 1, job).ok().unwrap())
        .collect();
    let circle = circle(one(&waits, LENGTH, 0, LENGTH));
    assert_eq!(circle.len(), LENGTH + 1);
    assert_eq!(circle[..2], [LENGTH, 0]);
    drop(held);
    assert!(one(&waits, LENGTH, 0, LENGTH).is_ok());
}

/// Exactly one of the waits that would close a circle together is refused.
#[test]
fn one_of_a_circle_is_refused() {
    const JOBS: usize = 4;
    let waits = WaitGraph::new();
    for _ in 0..200 {
        let (start, all_tried) = (Barrier::new(JOBS), Barrier::new(JOBS));
        let refused: usize = thread::scope(|scope| {
            let (waits, start, all_tried) = (&waits, &start, &all_tried);
            let threads: Vec<_> = (0..JOBS)
                .map(|job| {
                    scope.spawn(move || {
                        start.wait();
                        let entered = one(waits, job, (job + 1) % JOBS, job);
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

// --- Jobs that are held up -------------------------------------------------------------

/// The obstacle of each job.
#[derive(Default)]
struct Lanes(RefCell<HashMap<Key, Obstacle<&'static str, Key>>>);

const HOW: &str = "its key is held";

fn obstacle(
    name: &'static str,
    jobs: Vec<Target<Key>>,
    need: usize,
) -> Obstacle<&'static str, Key> {
    Obstacle {
        name,
        how: HOW,
        jobs,
        need,
    }
}

impl Lanes {
    fn hold(&self, job: Key, name: &'static str, jobs: &[Key], need: usize) {
        self.put(job, obstacle(name, targets(jobs), need));
    }

    /// By jobs that may be held up themselves, all of which have to end.
    fn follow(&self, job: Key, name: &'static str, jobs: &[Key]) {
        let jobs: Vec<_> = jobs.iter().map(|&job| held(job)).collect();
        let need = jobs.len();
        self.put(job, obstacle(name, jobs, need));
    }

    fn put(&self, job: Key, obstacle: Obstacle<&'static str, Key>) {
        self.0.borrow_mut().insert(job, obstacle);
    }

    fn enter<'a>(
        &self,
        waits: &'a Graph<&'static str>,
        waiter: Key,
        job: Key,
        name: &'static str,
    ) -> Entering<'a, &'static str> {
        let wait = Wait {
            name,
            targets: vec![held(job)],
            need: 1,
        };
        waits.enter(waiter, wait, |job| self.0.borrow().get(job).cloned())
    }
}

fn waiting(name: &'static str) -> Link<&'static str> {
    Link { name, held: None }
}

fn held_up(name: &'static str) -> Link<&'static str> {
    Link {
        name,
        held: Some(HOW),
    }
}

#[test]
fn a_job_may_not_wait_for_one_that_it_holds_up() {
    let (waits, lanes) = (WaitGraph::new(), Lanes::default());
    lanes.hold(2, "b", &[1], 1);
    let links = lanes.enter(&waits, 1, 2, "a").err().unwrap();
    assert_eq!(links, [waiting("a"), held_up("b")]);
    // It may have started meanwhile.
    lanes.0.borrow_mut().clear();
    assert!(lanes.enter(&waits, 1, 2, "a").is_ok());
}

#[test]
fn nor_for_one_that_waits_for_such_a_one() {
    let (waits, lanes) = (WaitGraph::new(), Lanes::default());
    lanes.hold(3, "c", &[1], 1);
    let _a = one(&waits, 1, 2, "a").ok().unwrap();
    let links = lanes.enter(&waits, 2, 3, "b").err().unwrap();
    assert_eq!(links, [waiting("b"), held_up("c"), waiting("a")]);
    // The same from the other side: its obstacle was not in the way before.
    let (waits, lanes) = (WaitGraph::new(), Lanes::default());
    let _b = lanes.enter(&waits, 2, 3, "b").ok().unwrap();
    lanes.hold(3, "c", &[1], 1);
    let links = lanes.enter(&waits, 1, 2, "a").err().unwrap();
    assert_eq!(links, [waiting("a"), waiting("b"), held_up("c")]);
}

#[test]
fn a_job_is_held_up_by_those_that_cannot_end() {
    let (waits, lanes) = (WaitGraph::new(), Lanes::default());
    lanes.hold(3, "c", &[1, 2], 1);
    let a = lanes.enter(&waits, 1, 3, "a").ok().unwrap();
    // The last one that could have ended.
    let links = lanes.enter(&waits, 2, 3, "b").err().unwrap();
    assert_eq!(links, [waiting("b"), held_up("c")]);
    drop(a);
    // Both have to end.
    lanes.hold(3, "c", &[1, 2], 2);
    let links = lanes.enter(&waits, 1, 3, "a").err().unwrap();
    assert_eq!(links, [waiting("a"), held_up("c")]);
}

#[test]
fn keys_may_hold_up_each_other() {
    let (waits, lanes) = (WaitGraph::new(), Lanes::default());
    lanes.hold(3, "c", &[1], 1);
    lanes.hold(4, "d", &[2], 1);
    let _a = lanes.enter(&waits, 1, 4, "a").ok().unwrap();
    let links = lanes.enter(&waits, 2, 3, "b").err().unwrap();
    assert_eq!(
        links,
        [waiting("b"), held_up("c"), waiting("a"), held_up("d")]
    );
}

#[test]
fn a_job_may_be_held_up_by_one_that_is_held_up() {
    let (waits, lanes) = (WaitGraph::new(), Lanes::default());
    lanes.follow(4, "d", &[3, 2]);
    lanes.follow(3, "c", &[2]);
    let _b = one(&waits, 2, 1, "b").ok().unwrap();
    let links = lanes.enter(&waits, 1, 4, "a").err().unwrap();
    assert_eq!(links, [waiting("a"), held_up("d"), waiting("b")]);
    // All of them have to end.
    lanes.follow(4, "d", &[3, 5]);
    let links = lanes.enter(&waits, 1, 4, "a").err().unwrap();
    assert_eq!(
        links,
        [waiting("a"), held_up("d"), held_up("c"), waiting("b")]
    );
    lanes.follow(3, "c", &[5]);
    assert!(lanes.enter(&waits, 1, 4, "a").is_ok());
}

/// Each wait reveals other jobs, and their obstacles are asked for in turn.
#[test]
fn however_many_wait_for_jobs_that_are_held_up() {
    const LENGTH: Key = 200;
    let (waits, lanes) = (WaitGraph::new(), Lanes::default());
    let entered: Vec<_> = (1..LENGTH)
        .map(|job| {
            lanes.follow(LENGTH + job, "held", &[job + 1]);
            lanes.enter(&waits, job, LENGTH + job, "waits")
        })
        .collect();
    assert!(entered.iter().all(Result::is_ok));
    let links = lanes.enter(&waits, LENGTH, 1, "last").err().unwrap();
    assert_eq!(links.len(), 2 * LENGTH - 1);
}

#[test]
fn a_job_that_waits_is_not_asked_about() {
    let waits = WaitGraph::new();
    let _b = one(&waits, 2, 3, "b").ok().unwrap();
    let wait = Wait {
        name: "a",
        targets: vec![held(2)],
        need: 1,
    };
    assert!(waits.enter(1, wait, |_| panic!("it runs")).is_ok());
}

/// The answers may change during the search: the circle is then searched again.
#[test]
fn only_a_circle_that_stays_is_refused() {
    let waits: Graph<&str> = WaitGraph::new();
    let calls = Cell::new(0);
    let wait = || Wait {
        name: "a",
        targets: vec![held(2)],
        need: 1,
    };
    let obstacle = |job| obstacle("b", targets(&[job]), 1);
    let turns = |number: usize| {
        calls.set(calls.get() + 1);
        calls.get() <= number
    };
    // In the way, but not for long.
    let entered = waits.enter(1, wait(), |_| turns(1).then(|| obstacle(1)));
    assert!(entered.is_ok());
    // Other waits see it all the same.
    assert_eq!(circle(one(&waits, 2, 1, "b")), ["b", "a"]);
    drop(entered);
    assert!(one(&waits, 2, 1, "b").is_ok());
    // In the way from then on.
    calls.set(0);
    let entered = waits.enter(1, wait(), |_| Some(obstacle(if turns(1) { 5 } else { 1 })));
    assert_eq!(entered.err().unwrap(), [waiting("a"), held_up("b")]);
    assert!(one(&waits, 2, 1, "b").is_ok());
    // Never the same twice: jobs come and go.
    calls.set(0);
    let entered = waits.enter(1, wait(), |_| {
        turns(0);
        Some(obstacle(if calls.get().is_multiple_of(2) { 5 } else { 1 }))
    });
    assert!(entered.is_ok());
    assert_eq!(circle(one(&waits, 2, 1, "b")), ["b", "a"]);
}

#[test]
fn an_answer_that_panics_leaves_nothing_behind() {
    let waits: Graph<&str> = WaitGraph::new();
    let wait = Wait {
        name: "a",
        targets: vec![held(2)],
        need: 1,
    };
    let asked = std::panic::AssertUnwindSafe(|| waits.enter(1, wait, |_| panic!("as it should")));
    assert!(std::panic::catch_unwind(asked).is_err());
    assert!(one(&waits, 2, 1, "b").is_ok());
}

/// Two jobs wait at once, each for a job that the other one's key holds up: one is refused.
#[test]
fn one_of_a_circle_of_keys_is_refused() {
    let waits: Graph<&str> = WaitGraph::new();
    let obstacle = |job: &Key| obstacle("held", targets(&[job - 2]), 1);
    for _ in 0..500 {
        let (start, all_tried) = (Barrier::new(2), Barrier::new(2));
        let refused: usize = thread::scope(|scope| {
            let (waits, start, all_tried) = (&waits, &start, &all_tried);
            let threads: Vec<_> = (0..2)
                .map(|job: Key| {
                    scope.spawn(move || {
                        let wait = Wait {
                            name: "runs",
                            targets: vec![held(3 - job)],
                            need: 1,
                        };
                        start.wait();
                        let entered = waits.enter(job, wait, |job| Some(obstacle(job)));
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
