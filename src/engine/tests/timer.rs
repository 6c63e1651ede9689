//! Heaps, which need no clock, and a timer, which has one.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, reason = "a failed test has to panic")]

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use flask_delay_engine::{Timer, TimerHeap};

const LONG: Duration = Duration::from_secs(30);
const STACK: usize = 256 * 1024;

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn what_is_due_comes_in_order() {
    let now = Instant::now();
    let mut schedule = TimerHeap::new();
    for (at, entry) in [(3, "d"), (1, "b"), (2, "c"), (1, "b2"), (0, "a")] {
        schedule.add(now + seconds(at), entry);
    }
    assert_eq!(schedule.len(), 5);
    assert_eq!(schedule.next(), Some(now));
    assert_eq!(schedule.due(now), ["a"]);
    assert!(schedule.due(now).is_empty());
    assert_eq!(schedule.next(), Some(now + seconds(1)));
    let later = now + seconds(3);
    assert!(schedule.due(now + Duration::from_millis(999)).is_empty());
    assert_eq!(schedule.due(later), ["b", "b2", "c", "d"]);
    assert!(schedule.is_empty());
    assert_eq!(schedule.next(), None);
}

#[test]
fn what_is_taken_out_is_never_due() {
    let now = Instant::now();
    let mut schedule = TimerHeap::default();
    let (first, second) = (schedule.add(now, 1), schedule.add(now, 2));
    assert_eq!(schedule.remove(first), Some(1));
    assert_eq!(schedule.remove(first), None);
    assert_eq!(schedule.due(now), [2]);
    assert_eq!(schedule.remove(second), None);
}

#[test]
fn a_schedule_may_be_emptied() {
    let now = Instant::now();
    let mut schedule = TimerHeap::new();
    schedule.add(now + seconds(2), 2);
    let ticket = schedule.add(now + seconds(1), 1);
    assert_eq!(schedule.drain(), [1, 2]);
    assert!(schedule.is_empty());
    // A ticket is good for one entry only.
    schedule.add(now + seconds(1), 3);
    assert_eq!(schedule.remove(ticket), None);
}

/// A timer that reports what it fires, and when.
fn timer() -> (Timer<u32>, mpsc::Receiver<(u32, Instant)>) {
    let (fired, fires) = mpsc::channel();
    let timer = Timer::new("timer".to_owned(), STACK, move |entries| {
        for entry in entries {
            fired.send((entry, Instant::now())).unwrap();
        }
    });
    (timer, fires)
}

#[test]
fn entries_fire_in_time_and_in_order() {
    let (timer, fires) = timer();
    let began = Instant::now();
    for (after, entry) in [(40, 3), (0, 1), (20, 2)] {
        let at = began + Duration::from_millis(after);
        timer.add(at, entry).unwrap();
    }
    for (after, entry) in [(0, 1), (20, 2), (40, 3)] {
        let (fired, at) = fires.recv_timeout(LONG).unwrap();
        assert_eq!(fired, entry);
        assert!(at >= began + Duration::from_millis(after));
    }
    assert!(timer.stop().is_empty());
    assert!(timer.join(Some(began + LONG)));
}

#[test]
fn a_sleeping_timer_is_woken_for_an_earlier_entry() {
    let (timer, fires) = timer();
    let now = Instant::now();
    timer.add(now + LONG * 2, 2).unwrap();
    thread::sleep(Duration::from_millis(10));
    timer.add(now + LONG, 3).unwrap();
    thread::sleep(Duration::from_millis(10));
    timer.add(now, 1).unwrap();
    assert_eq!(fires.recv_timeout(LONG).unwrap().0, 1);
    assert_eq!(timer.stop(), [3, 2]);
}

#[test]
fn what_is_cancelled_does_not_fire() {
    let (timer, fires) = timer();
    let now = Instant::now();
    let (first, second) = (
        timer.add(now + LONG, 1).unwrap(),
        timer.add(now, 2).unwrap(),
    );
    assert_eq!(fires.recv_timeout(LONG).unwrap().0, 2);
    assert_eq!(timer.cancel(second), None);
    assert_eq!(timer.cancel(first), Some(1));
    assert_eq!(timer.cancel(first), None);
    assert!(timer.stop().is_empty());
}

#[test]
fn a_timer_that_was_stopped_takes_nothing() {
    let (timer, fires) = timer();
    assert!(timer.join(Some(Instant::now())));
    timer.add(Instant::now() + LONG, 1).unwrap();
    assert!(!timer.join(Some(Instant::now())));
    assert!(!timer.has_stopped());
    assert_eq!(timer.stop(), [1]);
    assert!(timer.join(Some(Instant::now() + LONG)));
    assert!(timer.has_stopped());
    let (entry, error) = timer.add(Instant::now(), 2).unwrap_err();
    assert_eq!(
        (entry, error.to_string().as_str()),
        (2, "the timer has stopped")
    );
    assert!(timer.stop().is_empty());
    drop(timer);
    assert!(fires.recv_timeout(LONG).is_err());
}

#[test]
fn a_dropped_timer_lets_go_of_everything() {
    #[derive(Debug)]
    struct Entry(mpsc::Sender<()>);
    impl Drop for Entry {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let (dropped, drops) = mpsc::channel();
    let held = dropped.clone();
    let timer = Timer::new("timer".to_owned(), STACK, move |_: Vec<Entry>| {
        let _ = &held;
    });
    timer.add(Instant::now() + LONG, Entry(dropped)).unwrap();
    drop(timer);
    drops.try_recv().unwrap();
    // The thread has ended, and `fire` with it.
    assert_eq!(
        drops.recv_timeout(LONG),
        Err(mpsc::RecvTimeoutError::Disconnected)
    );
}

#[test]
fn the_thread_is_named() {
    let (told, names) = mpsc::channel();
    let timer = Timer::new("a_name".to_owned(), STACK, move |_: Vec<()>| {
        told.send(thread::current().name().map(str::to_owned))
            .unwrap();
    });
    timer.add(Instant::now(), ()).unwrap();
    assert_eq!(names.recv_timeout(LONG).unwrap().as_deref(), Some("a_name"));
}

#[test]
fn a_thread_that_panics_is_replaced() {
    let (fired, fires) = mpsc::channel();
    let timer = Timer::new("timer".to_owned(), STACK, move |entries: Vec<u32>| {
        // A busy machine may hand out several at once.
        for entry in &entries {
            fired.send(*entry).unwrap();
        }
        if entries.iter().any(|entry| entry.is_multiple_of(2)) {
            std::panic::resume_unwind(Box::new("a test's panic"));
        }
    });
    let now = Instant::now();
    for entry in 0..4 {
        timer
            .add(now + Duration::from_millis(10 * u64::from(entry)), entry)
            .unwrap();
    }
    for entry in 0..4 {
        assert_eq!(fires.recv_timeout(LONG), Ok(entry));
    }
    assert!(timer.stop().is_empty());
    assert!(timer.join(Some(now + LONG)));
}

/// More stack than there are addresses.
#[cfg(target_pointer_width = "64")]
#[test]
fn without_a_thread_the_entry_is_given_back() {
    let timer = Timer::new("timer".to_owned(), 1 << 50, |_: Vec<u32>| ());
    for entry in 0..2 {
        assert_eq!(timer.add(Instant::now(), entry).unwrap_err().0, entry);
    }
    assert!(timer.stop().is_empty());
    assert!(timer.join(Some(Instant::now())));
}

/// Every entry either fires or is given back, by `cancel` or by `stop`, and once.
#[test]
fn nothing_is_lost_under_load() {
    let (timer, fires) = timer();
    let (mut added, mut back) = (0, 0);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|number: u32| {
                let timer = &timer;
                scope.spawn(move || {
                    let (mut added, mut back) = (0, 0);
                    for round in 0..2_000_u64 {
                        let after = Duration::from_micros(round * 7 % 100);
                        match timer.add(Instant::now() + after, number) {
                            Ok(ticket) => {
                                added += 1;
                                if round % 3 == 0 && timer.cancel(ticket).is_some() {
                                    back += 1;
                                }
                            }
                            Err((_, error)) => {
                                assert_eq!(error.to_string(), "the timer has stopped");
                                break;
                            }
                        }
                    }
                    (added, back)
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(5));
        back += timer.stop().len();
        for thread in threads {
            let (more, taken) = thread.join().unwrap();
            added += more;
            back += taken;
        }
    });
    assert!(timer.join(Some(Instant::now() + LONG)));
    assert_eq!(fires.try_iter().count() + back, added);
}
