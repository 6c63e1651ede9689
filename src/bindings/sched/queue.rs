//! Puts jobs into the queue of a pool, at their place and counted.

use std::sync::Arc;

use flask_delay_engine::SubmitError;
use pyo3::prelude::*;

use crate::bindings::core::executor::{Core, Job, Queued};
use crate::bindings::core::policy;
use crate::bindings::core::task::Task;

/// A job's level and rank in the queue; `None` for a plain job.
fn place(py: Python<'_>, job: &Job) -> Option<(i32, i64)> {
    match job {
        Job::Task(task) | Job::Callbacks(task, _) => policy::level_and_rank(task.bind(py)),
        Job::Tick(_) | Job::Claimed(_) => None,
    }
}

/// Counts the job before it is in the queue, where a worker may take it at once.
fn enter(core: &Arc<Core>, job: &Job) {
    match job {
        Job::Task(task) => task.get().enter_queue(),
        Job::Callbacks(..) | Job::Tick(_) | Job::Claimed(_) => core.uncounted().add(),
    }
}

/// Tells the record of a task that was put into the queue without a rank.
fn record(core: &Arc<Core>, task: Option<&Bound<'_, Task>>) {
    if let Some(recorder) = core.recorder()
        && let Some(task) = task
    {
        recorder.queued(task);
    }
}

/// The task of a job that will run one.
fn task_of<'py>(py: Python<'py>, job: &Job) -> Option<Bound<'py, Task>> {
    match job {
        Job::Task(task) => Some(task.bind(py).clone()),
        Job::Callbacks(..) | Job::Tick(_) | Job::Claimed(_) => None,
    }
}

/// Offers a task with rules to the pool.
pub(crate) fn submit(task: &Bound<'_, Task>, core: &Arc<Core>) -> Result<(), SubmitError<Queued>> {
    let py = task.py();
    let job = Job::Task(task.clone().unbind());
    enter(core, &job);
    match place(py, &job) {
        None => {
            core.pool().submit(job.into())?;
            record(core, Some(task));
            Ok(())
        }
        Some((level, rank)) => core.pool().submit_ranked(job.into(), level, rank),
    }
}

/// Gives a worker a job that follows from an accepted one, even in a closed pool. Returns a job if
/// the pool has ended: each of several late callers gets one, not always its own.
pub(crate) fn resubmit(py: Python<'_>, core: &Arc<Core>, job: Job) -> Option<Job> {
    enter(core, &job);
    let pool = core.pool();
    // Keeps the pool from ending meanwhile.
    let hold = pool.hold();
    let taken = match place(py, &job) {
        None => {
            let task = task_of(py, &job);
            let taken = pool.resubmit(job.into());
            if taken.is_ok() {
                record(core, task.as_ref());
            }
            taken
        }
        Some((level, rank)) => pool.resubmit_ranked(job.into(), level, rank),
    };
    drop(hold);
    match taken {
        Ok(()) => None,
        Err(SubmitError::Closed(job) | SubmitError::Spawn(job, _)) => {
            let job = Job::from(job);
            core.took_out(&job);
            Some(job)
        }
    }
}

/// Puts a job into the queue of a pool without threads.
pub(crate) fn shelve(py: Python<'_>, core: &Arc<Core>, job: Job) {
    enter(core, &job);
    match place(py, &job) {
        None => {
            let task = task_of(py, &job);
            core.pool().push_unstaffed(job.into());
            record(core, task.as_ref());
        }
        Some((level, rank)) => core.pool().push_ranked_unstaffed(job.into(), level, rank),
    }
}
