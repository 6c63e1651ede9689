//! Schedules: which process runs a job at a tick, and what is made up for.
//!
//! The row of a job says up to which tick all are taken. The transaction that takes a tick also
//! inserts the task of its run, so a process that is killed at any instant has done both or
//! neither. Where a tick is taken already, nothing is written.
//!
//! A plain job has no task here. Its row says instead which process runs it, until that process
//! says that the run is over, or is dead.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::api::jobs::{Ask, Job, Run, Tick, Ticked, Told, When};
use crate::api::operation::Origin;
use crate::api::{Accepted, NewTask};
use crate::file::{liveness, trouble};
use crate::group::transaction::Group;
use crate::rows::store::{self, known_application};

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
    let Some(application) = known_application(connection, app)? else {
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
    pub(crate) fn answer(&mut self, ask: &Ask) -> trouble::Result<Told> {
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

    fn tick(&mut self, tick: &Tick, task: Option<&NewTask>) -> trouble::Result<Ticked> {
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
    fn keep(&mut self, application: i64, tick: &Tick, job: Job, time: i64) -> trouble::Result<()> {
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
    fn has_its_task(&self, tick: &Tick, job: &Job, at: i64) -> trouble::Result<bool> {
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
    ) -> trouble::Result<Option<(Option<i64>, Option<String>)>> {
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

    fn is_over(&mut self, job: &str, number: i64) -> trouble::Result<()> {
        let application = self.application()?;
        let sql = "UPDATE periodic SET owner = NULL \
                   WHERE application = ?1 AND job = ?2 AND runs = ?3 AND owner = ?4";
        let slot = self.effects.slot.or(self.memory.slot);
        self.connection
            .prepare_cached(sql)?
            .execute(params![application, job, number, slot])?;
        Ok(())
    }

    fn pause_job(&mut self, tick: &Tick, paused: bool) -> trouble::Result<()> {
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
