//! What pages show of all processes.

use std::sync::atomic::Ordering;

use super::journal::Journal;
use crate::api::Error;
use crate::api::operation::Operation;
use crate::api::record::{
    Answered, Event, Figures, Links, Query, Sample, Step, Told, Worker, keep,
};

impl Journal {
    /// Writes a sample of this process with the next group; does not wait.
    pub fn sample(&self, sample: Sample) {
        let Ok(part) = self.part() else { return };
        let is_first = {
            let mut waiting = part.samples.lock();
            keep(&mut waiting, sample);
            waiting.len() == 1
        };
        // Without a thread there are no samples.
        if is_first && Self::ensure_writer(&part).is_ok() {
            part.wake();
        }
    }

    /// Notes what happens to tasks from now on, in forked processes too, for a page that shows it.
    pub fn record(&self) {
        if let Ok(part) = self.part() {
            // Relaxed: see `Part::records`.
            part.core.records.store(true, Ordering::Relaxed);
        }
    }

    /// Tells what does not change about this process, as JSON; does not wait.
    pub fn tell_about(&self, about: String) {
        self.tell(Operation::Hear(Told::About(about)));
    }

    /// Notes what somebody has done to a task, in its timeline; does not wait.
    pub fn note(&self, id: &str, verb: &str, actor: Option<&str>) {
        let told = Told::Act(id.to_owned(), verb.to_owned(), actor.map(str::to_owned));
        self.tell(Operation::Hear(told));
    }

    /// Notes what has happened to a plain task that was published, in its timeline; does not wait.
    /// `at` is in microseconds since 1970.
    pub fn note_event(&self, id: &str, at: i64, kind: &'static str, text: String) {
        let told = Told::Event(id.to_owned(), at, kind, text);
        self.tell(Operation::Hear(told));
    }

    fn answered(&self, query: Query) -> Result<Answered, Error> {
        self.ask(true, |answer| Operation::Look(query, answer))
    }

    /// The steps of 1, 5, 120 or 3,600 seconds that are kept, oldest first. Those without a sample are
    /// not there.
    ///
    /// # Errors
    ///
    /// As for `get`, also of the methods below.
    pub fn steps(&self, step: i64) -> Result<Vec<Step>, Error> {
        Ok(match self.answered(Query::Steps(step))? {
            Answered::Steps(found) => found,
            _ => Vec::new(),
        })
    }

    /// The figures of all processes in the last seven days, by name.
    ///
    /// # Errors
    ///
    /// As for `steps`.
    pub fn figures(&self) -> Result<Vec<(String, Figures)>, Error> {
        Ok(match self.answered(Query::Figures)? {
            Answered::Figures(found) => found,
            _ => Vec::new(),
        })
    }

    /// How many tasks of which name ended in which minute, since 1970, from that one on.
    ///
    /// # Errors
    ///
    /// As for `steps`.
    pub fn minutes(&self, since: i64) -> Result<Vec<(String, i64, u64)>, Error> {
        Ok(match self.answered(Query::Minutes(since))? {
            Answered::Minutes(found) => found,
            _ => Vec::new(),
        })
    }

    /// The processes of the app, and the last ones that have died.
    ///
    /// # Errors
    ///
    /// As for `steps`.
    pub fn workers(&self) -> Result<Vec<Worker>, Error> {
        Ok(match self.answered(Query::Workers)? {
            Answered::Workers(found) => found,
            _ => Vec::new(),
        })
    }

    /// What has happened to a task, oldest first.
    ///
    /// # Errors
    ///
    /// As for `steps`.
    pub fn events(&self, id: &str) -> Result<Vec<Event>, Error> {
        Ok(match self.answered(Query::Events(id.to_owned()))? {
            Answered::Events(found) => found,
            _ => Vec::new(),
        })
    }

    /// What a task follows, and what follows it: the first ones.
    ///
    /// # Errors
    ///
    /// As for `get`.
    pub fn links(&self, id: &str) -> Result<Links, Error> {
        let query = Query::Links(id.to_owned());
        let found = self.ask(true, |answer| Operation::Look(query, answer))?;
        Ok(match found {
            Answered::Links(links) => links,
            _ => Links::default(),
        })
    }
}
