//! Putting jobs into the queue of a pool.

use std::sync::Arc;

use flask_delay_engine::SubmitError;
use pyo3::prelude::*;

use crate::bindings::core::executor::{Core, Job, Queued};
use crate::bindings::core::policy;
use crate::bindings::core::task::Task;

/// Where a job stands among those that wait: its level and its rank. None for a plain one.
fn place(py: Python<'_>, job: &Job) -> Option<(i32, i64)> {
    match job {
        Job::Task(task) | Job::Callbacks(task, _) => policy::level_and_rank(task.bind(py)),
        Job::Tick(_) => None,
    }
}

/// Before `job` is in the queue, where it may be taken at once.
fn enter(core: &Arc<Core>, job: &Job) {
    match job {
        Job::Task(task) => task.get().enter_queue(),
        Job::Callbacks(..) | Job::Tick(_) => core.uncounted().add(),
    }
}

/// Asks the pool to take a task with rules.
pub(crate) fn submit(task: &Bound<'_, Task>, core: &Arc<Core>) -> Result<(), SubmitError<Queued>> {
    let py = task.py();
    let job = Job::Task(task.clone().unbind());
    enter(core, &job);
    match place(py, &job) {
        None => core.pool().submit(job.into()),
        Some((level, rank)) => core.pool().submit_ranked(job.into(), level, rank),
    }
}

/// Gives a worker a job that belongs to what was accepted before, also in a closed pool. Gives
/// one back if the pool has ended: of several that came too late each gets one, not always its
/// own.
pub(crate) fn resubmit(py: Python<'_>, core: &Arc<Core>, job: Job) -> Option<Job> {
    enter(core, &job);
    let pool = core.pool();
    // So that it does not end meanwhile.
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
