//! Jobs and their ticks.

use super::journal::Journal;
use crate::api::jobs::{Ask, Job, Tick, Ticked, When};
use crate::api::operation::Operation;
use crate::api::{Error, NewTask};
use crate::shared::clock::now;

impl Journal {
    /// Whether there is nothing to be done at a tick, as far as can be seen without a turn.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn is_taken(&self, tick: &Tick) -> Result<bool, Error> {
        let known = self.job(&tick.job)?;
        let last = known.as_ref().and_then(|job| job.tick);
        Ok(match tick.when {
            When::Now => false,
            // Then it is seen for the first time.
            When::Missed(_) if last.is_none() => known.is_some_and(|job| job.is_paused),
            When::Missed(_) | When::At(_) => tick.to_take(known.as_ref(), now()).is_none(),
        })
    }

    /// Takes a tick of a job, unless that has been done: this process runs the job then, or has
    /// submitted the task that does. Returns when that is committed, and as `submit` for the task.
    ///
    /// # Errors
    ///
    /// Then the tick is not taken.
    pub fn tick(&self, tick: Tick, task: Option<NewTask>) -> Result<Ticked, Error> {
        let (tick, task) = (Box::new(tick), task.map(Box::new));
        self.ask(true, |answer| {
            Operation::Periodic(Ask::Tick(tick, task, answer))
        })
    }

    /// The run of a plain job with this number, by this process, is over. Does not wait.
    pub fn run_is_over(&self, job: &str, number: i64) {
        self.tell(Operation::Periodic(Ask::Over(job.to_owned(), number)));
    }

    /// This process has the job, which others can see then. Does not wait.
    pub fn note_job(&self, tick: Tick) {
        self.tell(Operation::Periodic(Ask::Note(Box::new(tick))));
    }

    /// Has no process take ticks of the job, or has them take its ticks from now on. `tick` says
    /// which job it is.
    ///
    /// # Errors
    ///
    /// As for `retry`.
    pub fn pause_job(&self, tick: Tick, paused: bool) -> Result<(), Error> {
        let tick = Box::new(tick);
        self.ask(true, |answer| {
            Operation::Periodic(Ask::Pause(tick, paused, answer))
        })
    }

    /// What there is to know of a job; `None` if no process has had it.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn job(&self, job: &str) -> Result<Option<Job>, Error> {
        let job = job.to_owned();
        let found = self.ask(true, |answer| {
            Operation::Periodic(Ask::Jobs(Some(job), answer))
        })?;
        Ok(found.into_iter().next())
    }

    /// All jobs of the app, by name.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn jobs(&self) -> Result<Vec<Job>, Error> {
        self.ask(true, |answer| Operation::Periodic(Ask::Jobs(None, answer)))
    }
}
