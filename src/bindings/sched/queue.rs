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

/// Offers a task with rules to the pool.
pub(crate) fn submit(task: &Bound<'_, Task>, core: &Arc<Core>) -> Result<(), SubmitError<Queued>> {
    let py = task.py();
    let job = Job::Task(task.clone().unbind());
    enter(core, &job);
    match place(py, &job) {
        None => core.pool().submit(job.into()),
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
        None => pool.resubmit(job.into()),
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
        None => core.pool().push_unstaffed(job.into()),
        Some((level, rank)) => core.pool().push_ranked_unstaffed(job.into(), level, rank),
    }
}
