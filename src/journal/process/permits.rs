//! The permits of this process that wait.

use std::collections::HashMap;

use crate::api::permits::{Ask, Permit, Told};
use crate::api::{Error, ErrorKind};
use crate::shared::answer::Answer;

/// The permits of this process that wait.
#[derive(Default)]
pub(crate) struct Permits {
    waiting: HashMap<Permit, Waiting>,
    /// The same by their places in the file.
    places: HashMap<i64, Permit>,
}

struct Waiting {
    task: i64,
    answer: Answer<bool>,
}

impl Permits {
    /// Whether any wait.
    pub(crate) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the permit in this place waits.
    pub(crate) fn waits(&self, task: i64) -> bool {
        self.places.contains_key(&task)
    }

    /// After the commit of what was asked.
    pub(crate) fn follow(&mut self, ask: Ask, told: Told) {
        match (ask, told) {
            (Ask::Enter(_, answer), Told::Entered(_, true)) => answer.give(Ok(true)),
            (Ask::Enter(new, answer), Told::Entered(task, false)) => {
                self.places.insert(task, new.permit);
                self.waiting.insert(new.permit, Waiting { task, answer });
            }
            (Ask::Leave(permit), _) => self.answer(permit, false),
            (ask, told) => ask.give(told),
        }
    }

    /// The permit in this place is granted.
    pub(crate) fn grant(&mut self, task: i64) {
        if let Some(permit) = self.places.get(&task).copied() {
            self.answer(permit, true);
        }
    }

    /// Answers for a permit, if it waits.
    fn answer(&mut self, permit: Permit, is_granted: bool) {
        if let Some(Waiting { task, answer }) = self.waiting.remove(&permit) {
            self.places.remove(&task);
            answer.give(Ok(is_granted));
        }
    }

    /// Takes those that wait: their file is not used any more.
    pub(crate) fn take(&mut self) -> Vec<Answer<bool>> {
        self.places.clear();
        let waiting = self.waiting.drain();
        waiting.map(|(_, waiting)| waiting.answer).collect()
    }
}

/// Answers that permits were lost with their file.
pub(crate) fn refuse(waiting: Vec<Answer<bool>>, error: &Error) {
    for answer in waiting {
        answer.give(Err(error.clone()));
    }
}

/// The error for permits in a file that is not there any more.
pub(crate) fn lost(file: &std::path::Path) -> Error {
    let text = format!(
        "{}: the file of the journal was removed or replaced while the task waited for its key",
        file.display()
    );
    Error::new(ErrorKind::Io, text)
}
