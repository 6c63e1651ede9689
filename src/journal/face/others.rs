//! Asking the other processes of an app for their tasks.

use std::thread;
use std::time::{Duration, Instant};

use super::journal::Journal;
use crate::api::Error;
use crate::api::operation::Operation;
use crate::api::record::{Answered, Query};
use crate::group::others::read;
use crate::shared::clock::now;

/// Between two looks for an answer.
const LOOK: Duration = Duration::from_millis(1);

/// What another process has told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The number of the process.
    pub pid: i64,
    /// Its answer; `None` if it has not answered in time.
    pub text: Option<String>,
}

impl Journal {
    /// What the other processes of the app tell of their tasks. Waits at most so long for those that
    /// do not answer.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn others(&self, patience: Duration) -> Result<Vec<Told>, Error> {
        let since = now();
        let asked = self.ask(true, |answer| Operation::Look(Query::Others, answer))?;
        let Answered::Others(found) = asked else {
            return Ok(Vec::new());
        };
        let place = &self.0.core.place;
        let until = Instant::now() + patience;
        let mut told: Vec<_> = found
            .iter()
            .map(|&(_, pid)| Told { pid, text: None })
            .collect();
        loop {
            for (&(slot, _), it) in found.iter().zip(&mut told) {
                if it.text.is_none() {
                    it.text = read(place, slot, since);
                }
            }
            if told.iter().all(|it| it.text.is_some()) || Instant::now() >= until {
                return Ok(told);
            }
            thread::sleep(LOOK);
        }
    }

    /// Answers what `Host::asked` has told of. Does not wait.
    pub fn show(&self, at: i64, text: String) {
        self.tell(Operation::Show(at, text));
    }
}
