//! Jobs and their ticks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flask_delay_engine::{Recurrence, has_come};

use super::submission::{Submitted, Waiting, one};
use super::task::{Accepted, NewTask};
use crate::shared::answer::Answer;
use crate::shared::errors::Error;

/// A job, at one of its ticks. Times are in microseconds since 1970.
#[derive(Clone, Debug)]
pub struct Tick {
    /// Which job it is: the same in all processes that have it.
    pub job: String,
    /// What people call it.
    pub name: String,
    /// When it is due.
    pub recurrence: Recurrence,
    /// Which tick.
    pub when: When,
    /// Whether it is left out while the last run goes on.
    pub is_alone: bool,
    /// The number of this process's last run of a plain job, if that is over.
    pub over: Option<i64>,
}

/// Which tick of a job is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This one, which has come.
    At(i64),
    /// The newest one until this time, unless a process has taken it. Nothing is missed of a job
    /// that no process had before.
    Missed(i64),
    /// None: the job runs once more.
    Now,
}

/// What became of a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ticked {
    /// This process has taken it.
    Runs(Run),
    /// Nothing is to be done: it was taken before, the job is paused, or no tick was missed.
    Taken,
    /// The last run goes on.
    LeftOut {
        /// How many ticks in a row were left out, with this one.
        count: i64,
        /// The process of that run.
        pid: Option<i64>,
        /// The id of that run's task.
        task: Option<String>,
    },
}

/// A run of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What became of its task; `None` for a plain job. The tick is not taken if the task was not
    /// accepted.
    pub accepted: Option<Accepted>,
    /// Counts the runs of the job.
    pub number: i64,
    /// Its tick.
    pub tick: Option<i64>,
    /// The newest tick that was taken before.
    pub last: Option<i64>,
}

/// What there is to know of a job. Times are in microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Which one it is.
    pub job: String,
    /// What people call it.
    pub name: String,
    /// Up to this time all ticks are taken, or count no more.
    pub tick: Option<i64>,
    /// When its next tick is.
    pub due: Option<i64>,
    /// The newest tick that was run or left out.
    pub ran: Option<i64>,
    /// The id of the last run's task.
    pub task: Option<String>,
    /// How many runs there were.
    pub runs: i64,
    /// How many ticks in a row were left out since.
    pub left_out: i64,
    /// Whether its ticks are not taken.
    pub is_paused: bool,
    /// The process of a plain job's run that is not over.
    pub(crate) owner: Option<i64>,
}

/// What threads ask of the writer thread about jobs.
pub(crate) enum Ask {
    Tick(Box<Tick>, Option<Box<NewTask>>, Answer<Ticked>),
    /// The run of a plain job with this number is over.
    Over(String, i64),
    Pause(Box<Tick>, bool, Answer<()>),
    /// A process has this job.
    Note(Box<Tick>),
    /// The job with this id, or all of the app.
    Jobs(Option<String>, Answer<Vec<Job>>),
}

pub(crate) enum Told {
    Ticked(Ticked),
    Jobs(Vec<Job>),
    Nothing,
}

impl Ask {
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Jobs(..))
    }

    /// Whether it has to be written some time.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Over(..))
    }

    /// Answers with what was done. With `syncs`, not yet for a task that has to be on the disk first.
    pub(crate) fn give(self, told: Told, syncs: bool) -> Option<Waiting> {
        match (self, told) {
            (Self::Tick(_, task, answer), Told::Ticked(ticked)) => match (task, ticked) {
                (
                    Some(task),
                    Ticked::Runs(
                        run @ Run {
                            accepted: Some(_), ..
                        },
                    ),
                ) if syncs || task.sync => return Some(waiting(task.id, run, answer)),
                (_, ticked) => answer.give(Ok(ticked)),
            },
            (Self::Pause(_, _, answer), _) => answer.give(Ok(())),
            (Self::Jobs(_, answer), Told::Jobs(jobs)) => answer.give(Ok(jobs)),
            _ => {}
        }
        None
    }

    pub(crate) fn refuse(self, error: Error) {
        match self {
            Self::Tick(.., answer) => answer.give(Err(error)),
            Self::Pause(.., answer) => answer.give(Err(error)),
            Self::Jobs(_, answer) => answer.give(Err(error)),
            Self::Over(..) | Self::Note(_) => {}
        }
    }
}

/// What the flusher has to answer for the task of a run.
fn waiting(id: String, run: Run, answer: Answer<Ticked>) -> Waiting {
    let Run {
        accepted,
        number,
        tick,
        last,
    } = run;
    let then = move |submitted: std::result::Result<Submitted, Error>| {
        answer.give(submitted.map(|submitted| {
            Ticked::Runs(Run {
                accepted: Some(one(submitted)),
                number,
                tick,
                last,
            })
        }));
    };
    Waiting {
        ids: vec![id],
        answer: Answer::call(Box::new(then)),
        submitted: Submitted {
            accepted: vec![accepted.unwrap_or(Accepted::Waiting)],
            refused: None,
        },
    }
}

// --- Times --------------------------------------------------------------------------

fn moment(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

fn micros(time: SystemTime) -> Option<i64> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_micros()).ok()
}

impl Tick {
    pub(crate) fn after(&self, time: i64) -> Option<i64> {
        self.recurrence.after(moment(time)).and_then(micros)
    }

    fn until(&self, time: i64) -> Option<i64> {
        // Ticks are kept in whole microseconds, and may be up to one later.
        self.recurrence.until(moment(time)).and_then(micros)
    }

    /// Which tick of the job, as it is known, this process has to take, if any.
    pub(crate) fn to_take(&self, known: Option<&Job>, now: i64) -> Option<i64> {
        if known.is_some_and(|job| job.is_paused) {
            return None;
        }
        let last = known.and_then(|job| job.tick);
        match self.when {
            When::At(tick) => {
                let [at, now] = [tick, now].map(moment);
                let is_taken =
                    last.is_some_and(|last| has_come(&self.recurrence, at, moment(last), now));
                (!is_taken).then_some(tick)
            }
            // A tick that is taken may lack its task: one that could not be synced is removed again.
            When::Missed(until) => self
                .until(until.min(now))
                .filter(|tick| Some(*tick) >= last),
            When::Now => None,
        }
    }
}
