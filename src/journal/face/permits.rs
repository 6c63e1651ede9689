//! Permits of plain tasks.

use super::journal::Journal;
use crate::api::operation::Operation;
use crate::api::permits::{Ask, NewPermit, Permit};
use crate::api::{Claim, Error, Held};
use crate::shared::answer::Answer;

impl Journal {
    /// Asks for a permit; does not wait. `then` is called once, mostly on the writer thread, and must not
    /// block: with `true` when the permit is granted, with `false` if it was given back before. From
    /// then until `leave` or the end of the process it counts in its lane.
    ///
    /// With an error it does not count: the file could not be written to, or is gone, or the journal
    /// is closed.
    pub fn enter(&self, new: NewPermit, then: Box<dyn FnOnce(Result<bool, Error>) + Send>) {
        self.tell(Operation::Permit(Ask::Enter(
            Box::new(new),
            Answer::call(then),
        )));
    }

    /// Gives a permit back, granted or not; does not wait. One that is not there does no harm.
    pub fn leave(&self, permit: Permit) {
        self.tell(Operation::Permit(Ask::Leave(permit)));
    }

    /// What holds up a permit that waits; `None` for any other.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn held(&self, permit: Permit) -> Result<Option<Box<Held>>, Error> {
        self.ask(true, |answer| Operation::Permit(Ask::Held(permit, answer)))
    }

    /// To be called before the end of a task that this process runs and whose code goes on: if it has a
    /// limit or a rate, it counts in its lane until `leave`. Does not wait.
    pub fn stay(&self, claim: Claim, permit: Permit) {
        self.tell(Operation::Permit(Ask::Stay(claim, permit)));
    }
}
