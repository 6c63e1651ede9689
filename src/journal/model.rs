//! Parts that only the models in `tests` need.

use crate::shared::{answer, gate, queue};

/// The fork gate.
#[derive(Default)]
pub struct Gate(gate::Gate);

impl Gate {
    /// Enters, does `work` inside and leaves.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let _inside = self.0.enter();
        work()
    }

    /// Keeps all threads out.
    pub fn close(&self) {
        self.0.close();
    }

    /// Lets them in again.
    pub fn open(&self) {
        self.0.open();
    }
}

/// The queue of operations.
#[derive(Default)]
pub struct Queue(queue::Queue<u32>);

impl Queue {
    /// Adds an operation: its number, and whether to wake the writer thread.
    #[must_use]
    pub fn push(&self, item: u32) -> Option<(u64, bool)> {
        self.0.push(item)
    }

    /// Has the writer thread look about; whether to wake it.
    #[must_use]
    pub fn poke(&self) -> bool {
        self.0.poke()
    }

    /// Takes an operation back.
    #[must_use]
    pub fn withdraw(&self, number: u64) -> Option<u32> {
        self.0.withdraw(number)
    }

    /// Takes all operations.
    #[must_use]
    pub fn take(&self) -> Vec<u32> {
        self.0.take()
    }

    /// Before the writer thread sleeps.
    #[must_use]
    pub fn fall_asleep(&self) -> bool {
        self.0.fall_asleep()
    }

    /// After it has slept.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// Accepts no more.
    #[must_use]
    pub fn close(&self) -> Vec<u32> {
        self.0.close()
    }
}

/// A place for one answer.
#[derive(Default)]
pub struct Ticket(answer::Ticket<u32>);

impl Ticket {
    /// Gives the answer.
    pub fn set(&self, answer: u32) {
        self.0.set(answer);
    }

    /// Waits for it.
    #[must_use]
    pub fn wait(&self) -> u32 {
        self.0.wait()
    }
}
