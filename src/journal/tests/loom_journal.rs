//! Models of what threads hand to the writer thread, of its answers, and of the fork gate: loom runs
//! each of them in every order that it can tell apart. Each names what it guards: without that, the
//! model fails. A thread that is not woken shows as a deadlock.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p flask-delay-journal --release --test loom_journal`
#![cfg(loom)]
#![allow(clippy::unwrap_used, reason = "a failed model has to panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use flask_delay_journal::model::{Gate, Queue, Ticket};
use loom::sync::{Condvar, Mutex};
use loom::thread::spawn;

/// Runs the model in every order with at most that many preemptions.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // LOOM_MAX_PREEMPTIONS may ask for more.
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(model);
}

/// What the writer thread sleeps at: a pipe that holds any number of bytes.
#[derive(Default)]
struct Pipe {
    bytes: Mutex<u32>,
    bell: Condvar,
}

impl Pipe {
    fn write(&self) {
        *self.bytes.lock().unwrap() += 1;
        self.bell.notify_one();
    }

    /// Waits for a byte without end: a look of each second would hide a lost wake-up.
    fn read(&self) {
        let mut bytes = self.bytes.lock().unwrap();
        while *bytes == 0 {
            bytes = self.bell.wait(bytes).unwrap();
        }
        *bytes = 0;
    }
}

#[derive(Default)]
struct Journal {
    queue: Queue,
    pipe: Pipe,
    tickets: [Ticket; 2],
}

impl Journal {
    fn submit(&self, item: u32) -> u64 {
        let (number, has_to_wake) = self.queue.push(item).unwrap();
        if has_to_wake {
            self.pipe.write();
        }
        number
    }

    /// The writer thread: takes as many as that, sleeping between, and answers each.
    fn write(&self, mut left: usize) -> Vec<u32> {
        let mut taken = Vec::new();
        while left > 0 {
            if self.queue.fall_asleep() {
                self.pipe.read();
                self.queue.wake();
            }
            for item in self.queue.take() {
                self.tickets[item as usize].set(item + 10);
                taken.push(item);
                left -= 1;
            }
        }
        taken
    }
}

/// Guards: `fall_asleep` looks and says that it sleeps in one step, and a submitter learns in one
/// step with its push that it has to wake. Also that an answer is not overlooked.
#[test]
fn a_writer_that_falls_asleep_is_woken() {
    check(3, || {
        let journal = Arc::new(Journal::default());
        let writer = {
            let journal = Arc::clone(&journal);
            spawn(move || journal.write(2))
        };
        let other = {
            let journal = Arc::clone(&journal);
            spawn(move || {
                journal.submit(1);
                assert_eq!(journal.tickets[1].wait(), 11);
            })
        };
        journal.submit(0);
        assert_eq!(journal.tickets[0].wait(), 10);
        other.join().unwrap();
        let mut taken = writer.join().unwrap();
        taken.sort_unstable();
        assert_eq!(taken, [0, 1]);
    });
}

/// Guards: an operation is taken or withdrawn, and never both; one that was withdrawn does not stand
/// in the way of the next.
#[test]
fn an_operation_is_taken_or_withdrawn() {
    check(3, || {
        let journal = Arc::new(Journal::default());
        let writer = {
            let journal = Arc::clone(&journal);
            spawn(move || {
                let mut taken = Vec::new();
                // Until the last operation, which is not withdrawn.
                while !taken.contains(&1) {
                    taken.extend(journal.write(1));
                }
                taken
            })
        };
        let number = journal.submit(0);
        let is_withdrawn = journal.queue.withdraw(number).is_some();
        if !is_withdrawn {
            assert_eq!(journal.tickets[0].wait(), 10);
        }
        journal.submit(1);
        assert_eq!(journal.tickets[1].wait(), 11);
        let taken = writer.join().unwrap();
        assert_eq!(taken.contains(&0), !is_withdrawn);
    });
}

/// Guards: a poke is not lost between the last look and the sleep.
#[test]
fn a_poke_wakes_a_writer_that_falls_asleep() {
    check(3, || {
        let journal = Arc::new(Journal::default());
        let wish = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let writer = {
            let (journal, wish) = (Arc::clone(&journal), Arc::clone(&wish));
            spawn(move || {
                while !wish.load(Ordering::Relaxed) {
                    if journal.queue.fall_asleep() {
                        journal.pipe.read();
                        journal.queue.wake();
                    }
                }
            })
        };
        wish.store(true, Ordering::Relaxed);
        if journal.queue.poke() {
            journal.pipe.write();
        }
        writer.join().unwrap();
    });
}

/// Guards: what is pushed is taken by the writer thread or by the close, and nothing comes after.
#[test]
fn a_close_leaves_nothing_in_the_queue() {
    check(3, || {
        let queue = Arc::new(Queue::default());
        let submitter = {
            let queue = Arc::clone(&queue);
            spawn(move || queue.push(0).is_some())
        };
        let mut taken = queue.take();
        taken.extend(queue.close());
        let is_pushed = submitter.join().unwrap();
        assert_eq!(taken.len(), usize::from(is_pushed));
        assert!(queue.take().is_empty());
    });
}

/// Guards: a thread that forks waits for those inside and keeps others out.
#[test]
fn no_thread_is_inside_while_a_process_forks() {
    check(3, || {
        let gate = Arc::new(Gate::default());
        // Unknown to loom, so that it adds no orders to try.
        let inside = Arc::new(AtomicU32::new(0));
        let threads = [(); 2].map(|()| {
            let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
            spawn(move || {
                gate.within(|| {
                    inside.fetch_add(1, Ordering::SeqCst);
                    loom::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            })
        });
        gate.close();
        assert_eq!(inside.load(Ordering::SeqCst), 0);
        loom::thread::yield_now();
        assert_eq!(inside.load(Ordering::SeqCst), 0);
        gate.open();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

/// Guards: two threads that fork go one after the other, and both wake those that wait.
#[test]
fn two_threads_fork_one_after_the_other() {
    check(3, || {
        let gate = Arc::new(Gate::default());
        let forking = Arc::new(AtomicU32::new(0));
        let fork = |gate: &Gate, forking: &AtomicU32| {
            gate.close();
            assert_eq!(forking.fetch_add(1, Ordering::SeqCst), 0);
            loom::thread::yield_now();
            forking.fetch_sub(1, Ordering::SeqCst);
            gate.open();
        };
        let other = {
            let (gate, forking) = (Arc::clone(&gate), Arc::clone(&forking));
            spawn(move || fork(&gate, &forking))
        };
        let worker = {
            let gate = Arc::clone(&gate);
            spawn(move || gate.within(|| ()))
        };
        fork(&gate, &forking);
        other.join().unwrap();
        worker.join().unwrap();
    });
}
