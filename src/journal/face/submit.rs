//! Submitting tasks.

use super::journal::Journal;
use crate::api::operation::{Operation, Origin};
use crate::api::submission::{Submitted, one};
use crate::api::{Accepted, Error, NewTask};

impl Journal {
    /// Submits tasks in one transaction; returns when it is committed, and on the disk if that was
    /// asked for.
    ///
    /// # Errors
    ///
    /// Then none of them is accepted, and none will run.
    pub fn submit_all(&self, tasks: Vec<NewTask>) -> Result<Submitted, Error> {
        self.ask(true, |answer| {
            Operation::Submit(tasks, Origin::Caller, answer)
        })
    }

    /// Submits a task, as `submit_all`.
    ///
    /// # Errors
    ///
    /// Then it is not accepted, and will not run.
    pub fn submit(&self, task: NewTask) -> Result<Accepted, Error> {
        Ok(one(self.submit_all(vec![task])?))
    }
}
