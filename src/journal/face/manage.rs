//! What people do with tasks.

use super::journal::Journal;
use crate::api::lists::Filter;
use crate::api::operation::Operation;
use crate::api::{Error, Retried};

impl Journal {
    /// The names of the app's functions that the file knows.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        self.ask(true, Operation::Names)
    }

    /// The functions that are paused; `None` among them: all are.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn paused(&self) -> Result<Vec<Option<String>>, Error> {
        self.ask(true, Operation::Paused)
    }

    /// Has a task that failed, or is a dead letter, run again.
    ///
    /// # Errors
    ///
    /// If the file cannot be written to, the wait takes too long, or the journal is closed.
    pub fn retry(&self, id: &str) -> Result<Retried, Error> {
        self.ask(true, |answer| Operation::Retry(id.to_owned(), answer))
    }

    /// Has no process start tasks of a function or, without one, any task of the app.
    ///
    /// # Errors
    ///
    /// As for `retry`.
    pub fn pause(&self, function: Option<&str>) -> Result<(), Error> {
        let function = function.map(str::to_owned);
        self.ask(true, |answer| Operation::Pause(function, answer))
    }

    /// Ends the pause of a function or, without one, every pause.
    ///
    /// # Errors
    ///
    /// As for `retry`.
    pub fn resume(&self, function: Option<&str>) -> Result<(), Error> {
        loop {
            let function = function.map(str::to_owned);
            if !self.ask(true, |answer| Operation::Resume(function, answer))? {
                return Ok(());
            }
        }
    }

    /// Removes the app's ended tasks that are meant; how many.
    ///
    /// # Errors
    ///
    /// As for `retry`. Some may have been removed.
    pub fn prune(&self, filter: &Filter) -> Result<u64, Error> {
        let (mut sum, mut below) = (0, i64::MAX);
        loop {
            let filter = Box::new(filter.clone());
            let (count, next) = self.ask(true, |answer| Operation::Prune(filter, below, answer))?;
            sum += count;
            match next {
                Some(next) => below = next,
                None => return Ok(sum),
            }
        }
    }
}
