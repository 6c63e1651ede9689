//! How the writer thread answers an operation: a ticket that a thread waits for, or a function.

use std::sync::Arc;
use std::time::Duration;

use crate::shared::errors::{Error, ErrorKind};
use crate::shared::sync::{Bell, Mutex};

/// A place for one answer.
pub(crate) struct Ticket<T> {
    answer: Mutex<Option<T>>,
    bell: Bell,
}

impl<T> Ticket<T> {
    /// Without an answer.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self {
            answer: Mutex::new(None),
            bell: Bell::default(),
        }
    }

    /// Gives the answer.
    pub(crate) fn set(&self, answer: T) {
        *self.answer.lock() = Some(answer);
        self.bell.ring();
    }

    /// Waits for the answer.
    pub(crate) fn wait(&self) -> T {
        let mut answer = self.answer.lock();
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            answer = self.bell.wait(answer);
        }
    }

    /// Waits for the answer for about `limit`; a spurious wake-up ends the wait too.
    pub(crate) fn wait_for(&self, limit: Duration) -> Option<T> {
        let mut answer = self.answer.lock();
        if answer.is_none() {
            answer = self.bell.wait_for(answer, limit);
        }
        answer.take()
    }
}

impl<T> Default for Ticket<T> {
    fn default() -> Self {
        Self::new()
    }
}

enum To<T> {
    Ticket(Arc<Ticket<Result<T, Error>>>),
    Call(Box<dyn FnOnce(Result<T, Error>) + Send>),
}

/// Where an answer goes. Dropped without one, it answers that the journal is closed: no thread
/// waits forever.
pub(crate) struct Answer<T>(Option<To<T>>);

impl<T> Answer<T> {
    pub(crate) fn ticket() -> (Self, Arc<Ticket<Result<T, Error>>>) {
        let ticket = Arc::new(Ticket::new());
        (Self(Some(To::Ticket(Arc::clone(&ticket)))), ticket)
    }

    pub(crate) fn call(then: Box<dyn FnOnce(Result<T, Error>) + Send>) -> Self {
        Self(Some(To::Call(then)))
    }

    /// For an operation without a waiting thread.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) fn give(mut self, answer: Result<T, Error>) {
        self.put(answer);
    }

    fn put(&mut self, answer: Result<T, Error>) {
        match self.0.take() {
            Some(To::Ticket(ticket)) => ticket.set(answer),
            Some(To::Call(then)) => then(answer),
            None => {}
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.put(Err(Error::new(ErrorKind::Closed, "the journal is closed")));
        }
    }
}
