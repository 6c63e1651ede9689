//! Schedules: which process runs a job at a tick, and what is made up for.
//!
//! The row of a job says up to which tick all are taken. The transaction that takes a tick also
//! inserts the task of its run, so a process that is killed at any instant has done both or
//! neither. Where a tick is taken already, nothing is written.
//!
//! A plain job has no task here. Its row says instead which process runs it, until that process
//! says that the run is over, or is dead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flask_delay_engine::{Recurrence, has_come};
use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::Accepted;
use crate::api::Error;
use crate::api::NewTask;
use crate::api::operation::Origin;
use crate::file::liveness;
use crate::group::chains;
use crate::group::chains::Submitted;
use crate::group::manage;
use crate::group::work as group;
use crate::group::work::Group;
use crate::process::flusher::Waiting;
use crate::rows::store;
use crate::shared::answer::Answer;

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
    owner: Option<i64>,
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
                accepted: Some(chains::one(submitted)),
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
    fn after(&self, time: i64) -> Option<i64> {
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

// --- SQL ----------------------------------------------------------------------------

const COLUMNS: &str = "job, name, tick, due, ran, task, runs, left_out, paused, owner";

fn job_of(row: &rusqlite::Row<'_>) -> Result<Job> {
    Ok(Job {
        job: row.get(0)?,
        name: row.get(1)?,
        tick: row.get(2)?,
        due: row.get(3)?,
        ran: row.get(4)?,
        task: row.get(5)?,
        runs: row.get(6)?,
        left_out: row.get(7)?,
        is_paused: row.get(8)?,
        owner: row.get(9)?,
    })
}

fn find(connection: &Connection, application: i64, job: &str) -> Result<Option<Job>> {
    let sql = format!("SELECT {COLUMNS} FROM periodic WHERE application = ?1 AND job = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_row(params![application, job], job_of);
    found.optional()
}

fn save(connection: &Connection, application: i64, job: &Job) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO periodic (application, job, name, tick, due, ran, task, runs, left_out, paused, owner) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    connection.prepare_cached(sql)?.execute(params![
        application,
        job.job,
        job.name,
        job.tick,
        job.due,
        job.ran,
        job.task,
        job.runs,
        job.left_out,
        job.is_paused,
        job.owner,
    ])?;
    Ok(())
}

/// Whether a task is in the file, or was.
fn is_known(connection: &Connection, id: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM task WHERE id = ?1 UNION ALL SELECT 1 FROM forgotten WHERE id = ?1";
    connection.prepare_cached(sql)?.exists([id])
}

/// Does an operation that only reads.
pub(crate) fn read(connection: &Connection, app: &str, ask: &Ask) -> Result<Told> {
    let Ask::Jobs(job, _) = ask else {
        return Ok(Told::Nothing);
    };
    let Some(application) = manage::known_application(connection, app)? else {
        return Ok(Told::Jobs(Vec::new()));
    };
    if let Some(job) = job {
        let found = find(connection, application, job)?;
        return Ok(Told::Jobs(found.into_iter().collect()));
    }
    let sql = format!("SELECT {COLUMNS} FROM periodic WHERE application = ?1 ORDER BY name, job");
    let mut statement = connection.prepare_cached(&sql)?;
    let jobs = statement.query_map([application], job_of)?;
    Ok(Told::Jobs(jobs.collect::<Result<_>>()?))
}

/// Whether there is a job that no process has had for long: it should have run before `long_since`.
pub(crate) fn has_old(connection: &Connection, long_since: i64) -> Result<bool> {
    let sql = "SELECT 1 FROM periodic WHERE paused = 0 AND due < ?1";
    connection.prepare_cached(sql)?.exists([long_since])
}

/// Removes these jobs. A pause outlives them.
pub(crate) fn prune(connection: &Connection, long_since: i64) -> Result<()> {
    let sql = "DELETE FROM periodic WHERE paused = 0 AND due < ?1";
    connection.prepare_cached(sql)?.execute([long_since])?;
    Ok(())
}

// --- In a group ---------------------------------------------------------------------

impl Group<'_> {
    pub(crate) fn answer(&mut self, ask: &Ask) -> group::Result<Told> {
        let app = &self.part.core.settings.app;
        Ok(match ask {
            Ask::Tick(tick, task, _) => Told::Ticked(self.tick(tick, task.as_deref())?),
            Ask::Over(job, number) => {
                self.is_over(job, *number)?;
                Told::Nothing
            }
            Ask::Pause(tick, paused, _) => {
                self.pause_job(tick, *paused)?;
                Told::Nothing
            }
            Ask::Note(tick) => {
                let application = self.application()?;
                if find(self.connection, application, &tick.job)?.is_none() {
                    self.keep(application, tick, Job::default(), self.now)?;
                }
                Told::Nothing
            }
            Ask::Jobs(..) => read(self.connection, app, ask)?,
        })
    }

    fn tick(&mut self, tick: &Tick, task: Option<&NewTask>) -> group::Result<Ticked> {
        let application = self.application()?;
        let known = find(self.connection, application, &tick.job)?;
        let is_new = known.is_none();
        let mut job = known.unwrap_or_default();
        let at = match tick.when {
            When::Now => None,
            When::Missed(_) if is_new || job.tick.is_none() && !job.is_paused => {
                // From now on a tick can be missed.
                job.tick = Some(self.now);
                self.keep(application, tick, job, self.now)?;
                return Ok(Ticked::Taken);
            }
            _ => {
                let known = (!is_new).then_some(&job);
                match tick.to_take(known, self.now) {
                    Some(at) if !self.has_its_task(tick, &job, at)? => Some(at),
                    _ => return Ok(Ticked::Taken),
                }
            }
        };
        let last = job.tick;
        let time = at.unwrap_or(self.now);
        if tick.is_alone
            && let Some((pid, task)) = self.goes_on(tick, &job)?
        {
            if let Some(at) = at {
                job.tick = Some(at);
                job.ran = Some(at);
                job.left_out += 1;
            }
            let count = job.left_out;
            if at.is_some() {
                self.keep(application, tick, job, time)?;
            }
            return Ok(Ticked::LeftOut { count, pid, task });
        }
        let accepted = task
            .map(|task| self.submit(task, &[], Origin::Caller))
            .transpose()?
            .map(|(accepted, _)| accepted);
        job.task = match &accepted {
            None => None,
            Some(Accepted::Twin { id, .. }) => Some(id.clone()),
            Some(Accepted::Full | Accepted::Taken | Accepted::Missing(_)) => {
                let number = job.runs;
                return Ok(Ticked::Runs(Run {
                    accepted,
                    number,
                    tick: at,
                    last,
                }));
            }
            Some(_) => task.map(|task| task.id.clone()),
        };
        if let (Some(at), Some(Accepted::Mine(_) | Accepted::Waiting)) = (at, &accepted) {
            let sql = "UPDATE task SET tick = ?2 WHERE id = ?1";
            self.connection
                .prepare_cached(sql)?
                .execute(params![job.task, at])?;
        }
        job.owner = match task {
            None => Some(self.slot()?),
            Some(_) => None,
        };
        job.tick = at.or(last);
        job.ran = at.or(job.ran);
        job.runs += 1;
        job.left_out = 0;
        let number = job.runs;
        self.keep(application, tick, job, time)?;
        Ok(Ticked::Runs(Run {
            accepted,
            number,
            tick: at,
            last,
        }))
    }

    /// Writes a job whose tick at `time` is dealt with.
    fn keep(&mut self, application: i64, tick: &Tick, job: Job, time: i64) -> group::Result<()> {
        let job = Job {
            job: tick.job.clone(),
            name: tick.name.clone(),
            due: tick.after(time),
            ..job
        };
        save(self.connection, application, &job)?;
        self.effects.has_to_sync = true;
        Ok(())
    }

    /// Whether the tick was taken, and its task is there or has been.
    fn has_its_task(&self, tick: &Tick, job: &Job, at: i64) -> group::Result<bool> {
        if job.tick != Some(at) || !matches!(tick.when, When::Missed(_)) {
            return Ok(false);
        }
        Ok(match &job.task {
            Some(task) if job.ran == Some(at) => is_known(self.connection, task)?,
            _ => true,
        })
    }

    /// The process and the task of the job's last run, if that is not over.
    fn goes_on(
        &mut self,
        tick: &Tick,
        job: &Job,
    ) -> group::Result<Option<(Option<i64>, Option<String>)>> {
        if let Some(task) = &job.task
            && let Some(found) = store::standing(self.connection, task)?
            && !found.state.is_end()
        {
            let pid = match found.owner {
                Some(owner) => store::pid(self.connection, owner)?,
                None => None,
            };
            return Ok(Some((pid, Some(task.clone()))));
        }
        let Some(owner) = job.owner else {
            return Ok(None);
        };
        let is_mine = self.effects.slot.or(self.memory.slot) == Some(owner);
        if is_mine && tick.over == Some(job.runs) {
            return Ok(None);
        }
        let Some(pid) = store::pid(self.connection, owner)? else {
            return Ok(None);
        };
        // What cannot be looked at is not known to be dead.
        let is_dead =
            !is_mine && liveness::is_dead(&self.part.core.place, owner, pid).unwrap_or_default();
        Ok((!is_dead).then_some((Some(pid), None)))
    }

    fn is_over(&mut self, job: &str, number: i64) -> group::Result<()> {
        let application = self.application()?;
        let sql = "UPDATE periodic SET owner = NULL \
                   WHERE application = ?1 AND job = ?2 AND runs = ?3 AND owner = ?4";
        let slot = self.effects.slot.or(self.memory.slot);
        self.connection
            .prepare_cached(sql)?
            .execute(params![application, job, number, slot])?;
        Ok(())
    }

    fn pause_job(&mut self, tick: &Tick, paused: bool) -> group::Result<()> {
        let application = self.application()?;
        let known = find(self.connection, application, &tick.job)?;
        if !paused && known.as_ref().is_none_or(|job| !job.is_paused) {
            return Ok(());
        }
        let mut job = known.unwrap_or_default();
        job.is_paused = paused;
        // What came in a pause is not missed.
        job.tick = Some(self.now).filter(|_| !paused).or(job.tick);
        self.keep(application, tick, job, self.now)
    }
}
