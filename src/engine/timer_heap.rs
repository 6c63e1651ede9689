//! Entries by their time. It has no clock; its owner provides the time.

use std::collections::BTreeMap;
use std::time::Instant;

/// Names an entry of the heap that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    at: Instant,
    number: u64,
}

impl Ticket {
    /// When the entry is due.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }
}

/// Entries by the time they are due; those due at the same time, in order of arrival.
#[derive(Debug)]
pub struct TimerHeap<E> {
    entries: BTreeMap<Ticket, E>,
    /// Entries ever added.
    added: u64,
}

impl<E> TimerHeap<E> {
    /// Without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            added: 0,
        }
    }

    /// Adds an entry, due `at` a time, past or future.
    pub fn add(&mut self, at: Instant, entry: E) -> Ticket {
        let number = self.added;
        self.added += 1;
        let ticket = Ticket { at, number };
        self.entries.insert(ticket, entry);
        ticket
    }

    /// Takes an entry out, if it is still there.
    pub fn remove(&mut self, ticket: Ticket) -> Option<E> {
        self.entries.remove(&ticket)
    }

    /// Takes out what is due, in order.
    pub fn due(&mut self, now: Instant) -> Vec<E> {
        let mut due = Vec::new();
        while let Some(entry) = self.entries.first_entry()
            && entry.key().at <= now
        {
            due.push(entry.remove());
        }
        due
    }

    /// When the first entry is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        Some(self.entries.first_key_value()?.0.at)
    }

    /// Takes everything out, in order.
    pub fn drain(&mut self) -> Vec<E> {
        std::mem::take(&mut self.entries).into_values().collect()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<E> Default for TimerHeap<E> {
    fn default() -> Self {
        Self::new()
    }
}
