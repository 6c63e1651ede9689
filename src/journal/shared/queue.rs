//! The hand-over of operations to the writer thread.
//!
//! One lock decides each race: an operation is either taken by the writer thread or withdrawn by
//! its submitter. The writer thread says under that lock that it will sleep, and only if there is nothing to
//! do; the first submitter after that wakes it.

use std::collections::VecDeque;

use crate::shared::sync::Mutex;

/// Operations on their way to the writer thread.
pub(crate) struct Queue<T>(Mutex<State<T>>);

struct State<T> {
    items: VecDeque<(u64, T)>,
    next: u64,
    is_asleep: bool,
    /// Somebody wants the writer thread to look about, though there is no operation.
    is_poked: bool,
    is_closed: bool,
}

impl<T> State<T> {
    /// Whether the writer thread has to be woken by the caller, and by no other.
    fn rouse(&mut self) -> bool {
        std::mem::take(&mut self.is_asleep)
    }
}

impl<T> Queue<T> {
    /// An empty queue.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State {
            items: VecDeque::new(),
            next: 0,
            is_asleep: false,
            is_poked: false,
            is_closed: false,
        }))
    }

    /// Adds an operation: its number, and whether the caller has to wake the writer thread. `None`
    /// if the queue is closed.
    pub(crate) fn push(&self, item: T) -> Option<(u64, bool)> {
        let mut state = self.0.lock();
        if state.is_closed {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.items.push_back((number, item));
        Some((number, state.rouse()))
    }

    /// Has the writer thread look about; whether the caller has to wake it.
    pub(crate) fn poke(&self) -> bool {
        let mut state = self.0.lock();
        state.is_poked = true;
        state.rouse()
    }

    /// Takes back an operation that the writer thread has not taken.
    pub(crate) fn withdraw(&self, number: u64) -> Option<T> {
        let mut state = self.0.lock();
        let place = state.items.iter().position(|(it, _)| *it == number)?;
        state.items.remove(place).map(|(_, item)| item)
    }

    /// Takes all operations.
    pub(crate) fn take(&self) -> Vec<T> {
        let mut state = self.0.lock();
        state.items.drain(..).map(|(_, item)| item).collect()
    }

    /// Takes all operations if `these` is true for each. `None` if it is not, or if there are none.
    pub(crate) fn take_if(&self, these: impl Fn(&T) -> bool) -> Option<Vec<T>> {
        let mut state = self.0.lock();
        if state.items.is_empty() || !state.items.iter().all(|(_, item)| these(item)) {
            return None;
        }
        Some(state.items.drain(..).map(|(_, item)| item).collect())
    }

    /// Whether there are operations.
    pub(crate) fn has_any(&self) -> bool {
        !self.0.lock().items.is_empty()
    }

    /// Before the writer thread sleeps: `false` if it must not, because there is something to do.
    pub(crate) fn fall_asleep(&self) -> bool {
        let mut state = self.0.lock();
        let idle = state.items.is_empty() && !std::mem::take(&mut state.is_poked);
        state.is_asleep = idle;
        idle
    }

    /// After the writer thread has slept.
    pub(crate) fn wake(&self) {
        let mut state = self.0.lock();
        state.is_asleep = false;
        state.is_poked = false;
    }

    /// Accepts no more; takes what is left.
    pub(crate) fn close(&self) -> Vec<T> {
        let mut state = self.0.lock();
        state.is_closed = true;
        state.items.drain(..).map(|(_, item)| item).collect()
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}
