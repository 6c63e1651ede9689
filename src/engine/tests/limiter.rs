//! Which jobs of a key start, and when. The test sets the time.
#![cfg(not(loom))]

mod support;

use std::time::{Duration, Instant};

use flask_delay_engine::{Limiter, Limits, Rate};
use support::Random;

const FREE: Limits = Limits {
    limit: None,
    rate: None,
    rank: 0,
};

fn limit(limit: usize) -> Limits {
    Limits {
        limit: Some(limit),
        ..FREE
    }
}

/// A rate per second.
fn rate(count: usize) -> Limits {
    let per = Duration::from_secs(1);
    Limits {
        rate: Some(Rate { count, per }),
        ..FREE
    }
}

fn ranked(limits: Limits, rank: i64) -> Limits {
    Limits { rank, ..limits }
}

/// Moments of a test, in milliseconds.
struct Clock(Instant);

impl Clock {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn at(&self, millis: u64) -> Instant {
        self.0 + Duration::from_millis(millis)
    }
}

#[test]
fn without_terms_everything_starts() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    for job in 0..3 {
        assert_eq!(limiter.offer(job, FREE, clock.at(0)), Some(job));
    }
    assert_eq!((limiter.running(), limiter.held()), (3, 0));
    assert!(!limiter.is_idle(clock.at(0)));
    for _ in 0..3 {
        limiter.finished();
    }
    assert!(limiter.is_idle(clock.at(0)));
}

#[test]
fn as_many_run_as_the_limit_allows() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    let now = clock.at(0);
    assert_eq!(limiter.offer(1, limit(2), now), Some(1));
    assert_eq!(limiter.offer(2, limit(2), now), Some(2));
    assert_eq!(limiter.offer(3, limit(2), now), None);
    assert_eq!(limiter.offer(4, limit(2), now), None);
    assert!(limiter.release(now).is_empty());
    // It waits for an end, not for a time.
    assert_eq!(limiter.next(now), None);
    limiter.finished();
    assert_eq!(limiter.next(now), Some(now));
    assert_eq!(limiter.release(now), [3]);
    assert_eq!((limiter.running(), limiter.held()), (2, 1));
}

/// Each job has its own limit, and all running jobs count.
#[test]
fn limits_may_differ() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    let now = clock.at(0);
    assert_eq!(limiter.offer(1, FREE, now), Some(1));
    assert_eq!(limiter.offer(2, limit(1), now), None);
    // It could start but for the one before it.
    assert_eq!(limiter.offer(3, limit(5), now), None);
    limiter.finished();
    assert_eq!(limiter.release(now), [2, 3]);
}

#[test]
fn who_arrives_while_others_are_held_waits_behind_them() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    let now = clock.at(0);
    assert_eq!(limiter.offer(1, limit(1), now), Some(1));
    assert_eq!(limiter.offer(2, limit(1), now), None);
    limiter.finished();
    // Even if there is room for one.
    assert_eq!(limiter.offer(3, limit(1), now), None);
    assert_eq!(limiter.release(now), [2]);
    limiter.finished();
    assert_eq!(limiter.release(now), [3]);
}

#[test]
fn a_smaller_rank_overtakes() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    let now = clock.at(0);
    assert_eq!(limiter.offer("runs", limit(1), now), Some("runs"));
    for (job, rank) in [("c", 1), ("b", 0), ("c2", 1), ("a", -5)] {
        assert_eq!(limiter.offer(job, ranked(limit(1), rank), now), None);
    }
    limiter.finished();
    // It may start, and no job before it is held.
    assert_eq!(
        limiter.offer("first", ranked(limit(1), -6), now),
        Some("first")
    );
    let mut order = Vec::new();
    for _ in 0..4 {
        limiter.finished();
        order.extend(limiter.release(now));
    }
    assert_eq!(order, ["a", "b", "c", "c2"]);
}

/// A job that stands first and may not start yet holds up the others, like any.
#[test]
fn who_overtakes_may_have_to_wait() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    let now = clock.at(0);
    assert_eq!(limiter.offer(1, FREE, now), Some(1));
    assert_eq!(limiter.offer(2, FREE, now), Some(2));
    assert_eq!(limiter.offer(3, limit(2), now), None);
    assert_eq!(limiter.offer(4, ranked(limit(1), -1), now), None);
    limiter.finished();
    assert!(limiter.release(now).is_empty());
    limiter.finished();
    assert_eq!(limiter.release(now), [4, 3]);
}

#[test]
fn so_many_start_in_any_span() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    assert_eq!(limiter.offer(1, rate(2), clock.at(0)), Some(1));
    assert_eq!(limiter.offer(2, rate(2), clock.at(600)), Some(2));
    assert_eq!(limiter.offer(3, rate(2), clock.at(700)), None);
    assert_eq!(limiter.offer(4, rate(2), clock.at(700)), None);
    assert_eq!(limiter.next(clock.at(700)), Some(clock.at(1000)));
    assert!(limiter.release(clock.at(999)).is_empty());
    assert_eq!(limiter.release(clock.at(1000)), [3]);
    // The second job's start counts until then.
    assert_eq!(limiter.next(clock.at(1000)), Some(clock.at(1600)));
    assert_eq!(limiter.release(clock.at(5000)), [4]);
    assert_eq!(limiter.next(clock.at(5000)), None);
}

#[test]
fn a_late_release_does_not_let_more_go() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    for job in 0..6 {
        let started = limiter.offer(job, rate(2), clock.at(0));
        assert_eq!(started.is_some(), job < 2);
    }
    assert_eq!(limiter.release(clock.at(10_000)), [2, 3]);
    assert!(limiter.release(clock.at(10_999)).is_empty());
    assert_eq!(limiter.release(clock.at(11_000)), [4, 5]);
}

#[test]
fn both_limit_and_rate_hold() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    let limits = Limits {
        limit: Some(1),
        ..rate(1)
    };
    assert_eq!(limiter.offer(1, limits, clock.at(0)), Some(1));
    assert_eq!(limiter.offer(2, limits, clock.at(0)), None);
    // Time alone does not help.
    assert_eq!(limiter.next(clock.at(0)), None);
    assert!(limiter.release(clock.at(5000)).is_empty());
    limiter.finished();
    assert_eq!(limiter.release(clock.at(5000)), [2]);
    assert_eq!(limiter.offer(3, limits, clock.at(5000)), None);
    limiter.finished();
    assert_eq!(limiter.next(clock.at(5000)), Some(clock.at(6000)));
}

/// Only starts after a rate was seen are remembered, also of jobs without a rate.
#[test]
fn starts_without_a_rate_count_once_one_was_seen() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    assert_eq!(limiter.offer(1, FREE, clock.at(0)), Some(1));
    assert_eq!(limiter.offer(2, rate(2), clock.at(0)), Some(2));
    assert_eq!(limiter.offer(3, FREE, clock.at(0)), Some(3));
    assert_eq!(limiter.offer(4, rate(2), clock.at(0)), None);
}

#[test]
fn rates_may_differ() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    let hourly = Limits {
        rate: Some(Rate {
            count: 3,
            per: Duration::from_hours(1),
        }),
        ..FREE
    };
    assert_eq!(limiter.offer(1, hourly, clock.at(0)), Some(1));
    assert_eq!(limiter.offer(2, rate(1), clock.at(0)), None);
    assert_eq!(limiter.release(clock.at(1000)), [2]);
    assert_eq!(limiter.offer(3, rate(1), clock.at(2000)), Some(3));
    assert_eq!(limiter.offer(4, hourly, clock.at(4000)), None);
    assert_eq!(limiter.next(clock.at(4000)), Some(clock.at(3_600_000)));
}

/// A rate that is seen later does not count forgotten starts.
#[test]
fn a_rate_counts_the_starts_since_it_was_seen() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    for job in 0..3 {
        assert_eq!(limiter.offer(job, rate(1), clock.at(job * 1000)), Some(job));
    }
    let daily = Limits {
        rate: Some(Rate {
            count: 2,
            per: Duration::from_hours(24),
        }),
        ..FREE
    };
    assert_eq!(limiter.offer(3, daily, clock.at(3000)), Some(3));
    assert_eq!(limiter.offer(4, daily, clock.at(3000)), None);
}

#[test]
fn a_lane_is_idle_once_its_starts_do_not_matter() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    assert!(limiter.is_idle(clock.at(0)));
    assert_eq!(limiter.offer((), rate(5), clock.at(0)), Some(()));
    limiter.finished();
    assert!(!limiter.is_idle(clock.at(999)));
    assert!(limiter.is_idle(clock.at(1000)));
}

/// Two threads read the clock, and the later one comes first.
#[test]
fn the_clock_may_seem_to_go_back() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    assert_eq!(limiter.offer(1, rate(2), clock.at(500)), Some(1));
    assert_eq!(limiter.offer(2, rate(2), clock.at(400)), Some(2));
    assert_eq!(limiter.offer(3, rate(2), clock.at(400)), None);
    assert_eq!(limiter.next(clock.at(400)), Some(clock.at(1500)));
    assert!(limiter.release(clock.at(1499)).is_empty());
    assert_eq!(limiter.release(clock.at(1500)), [3]);
}

#[test]
fn a_span_without_end_is_waited_for() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    let forever = Limits {
        rate: Some(Rate {
            count: 1,
            per: Duration::MAX,
        }),
        ..FREE
    };
    assert_eq!(limiter.offer(1, forever, clock.at(0)), Some(1));
    assert_eq!(limiter.offer(2, forever, clock.at(0)), None);
    assert_eq!(limiter.next(clock.at(0)), None);
    limiter.finished();
    assert!(!limiter.is_idle(clock.at(1_000_000)));
}

#[test]
fn a_held_job_may_be_taken_out() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    let now = clock.at(0);
    assert_eq!(limiter.offer(1, FREE, now), Some(1));
    assert_eq!(limiter.offer(2, limit(1), now), None);
    assert_eq!(limiter.offer(3, FREE, now), None);
    assert_eq!(limiter.remove(0, |&job| job == 1), None);
    assert_eq!(limiter.remove(0, |&job| job == 2), Some(2));
    assert_eq!(limiter.remove(0, |&job| job == 2), None);
    // A name in the wrong field, a step too long and an empty place in a list are errors.
    assert_eq!(limiter.next(now), Some(now));
    assert_eq!(limiter.release(now), [3]);
}

#[test]
fn a_lane_may_be_emptied() {
    let (mut limiter, clock) = (Limiter::default(), Clock::new());
    let now = clock.at(0);
    assert_eq!(limiter.offer(1, FREE, now), Some(1));
    assert_eq!(limiter.offer(2, ranked(limit(1), 1), now), None);
    assert_eq!(limiter.offer(3, limit(1), now), None);
    assert_eq!(limiter.drain(), [3, 2]);
    assert_eq!((limiter.running(), limiter.held()), (1, 0));
}

/// No rate of the comparison needs more starts or older ones.
const SLOWEST: Rate = Rate {
    count: 3,
    per: Duration::from_secs(2),
};

/// The simplest implementation of the same rules: it forgets nothing.
#[derive(Default)]
struct Model {
    held: Vec<(usize, Limits)>,
    running: usize,
    starts: Vec<Instant>,
}

impl Model {
    fn fits(&self, limits: Limits, now: Instant) -> bool {
        let few = limits.limit.is_none_or(|limit| self.running < limit);
        let rare = limits.rate.is_none_or(|rate| {
            let counted = self.starts.iter().filter(|&&start| now < start + rate.per);
            counted.count() < rate.count
        });
        few && rare
    }

    fn start(&mut self, now: Instant) {
        self.running += 1;
        self.starts.push(now);
    }

    fn offer(&mut self, job: usize, limits: Limits, now: Instant) -> Option<usize> {
        let first = self.held.iter().all(|(_, held)| limits.rank < held.rank);
        if first && self.fits(limits, now) {
            self.start(now);
            return Some(job);
        }
        let behind = self
            .held
            .iter()
            .filter(|(_, held)| held.rank <= limits.rank);
        self.held.insert(behind.count(), (job, limits));
        None
    }

    fn release(&mut self, now: Instant) -> Vec<usize> {
        let mut released = Vec::new();
        while let Some(&(job, limits)) = self.held.first()
            && self.fits(limits, now)
        {
            self.held.remove(0);
            self.start(now);
            released.push(job);
        }
        released
    }
}

impl Random {
    fn limits(&mut self) -> Limits {
        let millis = [100, 500, 2_000][self.below(3)];
        let rate = Rate {
            count: self.below(3) + 1,
            per: Duration::from_millis(millis),
        };
        let limit = self.below(3) + 1;
        Limits {
            limit: (self.below(2) == 0).then_some(limit),
            rate: (self.below(3) == 0).then_some(rate),
            rank: i64::from(self.below(4) == 0),
        }
    }
}

#[test]
fn a_lane_does_what_the_model_does() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let (mut limiter, mut model) = (Limiter::new(), Model::default());
        let mut now = Instant::now();
        // A rate counts the starts since it was seen: see this one first, so that all are counted.
        let limits = Limits {
            rate: Some(SLOWEST),
            ..FREE
        };
        assert_eq!(limiter.offer(0, limits, now), model.offer(0, limits, now));
        for job in 1..200 {
            now += Duration::from_millis([0, 1, 50, 400][random.below(4)]);
            match random.below(8) {
                0..3 => {
                    let limits = random.limits();
                    assert_eq!(
                        limiter.offer(job, limits, now),
                        model.offer(job, limits, now)
                    );
                }
                3..5 if model.running > 0 => {
                    limiter.finished();
                    model.running -= 1;
                }
                5 if !model.held.is_empty() => {
                    let held = random.below(model.held.len());
                    let (job, limits) = model.held.remove(held);
                    assert_eq!(
                        limiter.remove(limits.rank, |&other| other == job),
                        Some(job)
                    );
                }
                _ => assert_eq!(limiter.release(now), model.release(now), "seed {seed}"),
            }
            assert_eq!(limiter.held(), model.held.len());
            assert_eq!(limiter.running(), model.running);
            // If it names a time, something happens then and not before.
            let first = model.held.first().map(|&(_, limits)| limits);
            match limiter.next(now) {
                Some(next) => {
                    let limits = first.expect("something is held");
                    // Times are whole milliseconds here.
                    let before = next.checked_sub(Duration::from_millis(1));
                    let early = before.is_some_and(|before| model.fits(limits, before));
                    assert!(next == now || !early, "seed {seed}");
                    assert!(model.fits(limits, next), "seed {seed}");
                }
                None => assert!(first.is_none_or(|limits| {
                    limits.limit.is_some_and(|limit| model.running >= limit)
                })),
            }
            let matters = model
                .starts
                .last()
                .is_some_and(|&last| now < last + SLOWEST.per);
            let idle = model.running == 0 && model.held.is_empty() && !matters;
            assert_eq!(limiter.is_idle(now), idle);
        }
    }
}

#[test]
fn how_many_have_to_end_before_one_starts() {
    let (mut limiter, clock) = (Limiter::new(), Clock::new());
    for job in 0..3 {
        assert_eq!(limiter.offer(job, limit(3), clock.at(0)), Some(job));
    }
    // A new job would be held by its own limit only.
    let must_end = |limiter: &Limiter<i32>, job, limit| limiter.must_end(limit, |it| *it == job);
    assert_eq!(must_end(&limiter, 9, Some(3)), 1);
    assert_eq!(must_end(&limiter, 9, Some(1)), 3);
    assert_eq!(must_end(&limiter, 9, Some(4)), 0);
    assert_eq!(must_end(&limiter, 9, None), 0);
    // A held job is held by the limits of those before it, too.
    assert_eq!(limiter.offer(3, limit(3), clock.at(0)), None);
    assert_eq!(limiter.offer(4, limit(2), clock.at(0)), None);
    assert_eq!(limiter.offer(5, FREE, clock.at(0)), None);
    for (job, count) in [(3, 1), (4, 2), (5, 2)] {
        assert_eq!(must_end(&limiter, job, None), count);
    }
    limiter.finished();
    for (job, count) in [(3, 0), (4, 1), (5, 1)] {
        assert_eq!(must_end(&limiter, job, None), count);
    }
}
