//! `queue_size`: permits for tasks that were accepted and have not started, and the policy for a
//! task that gets none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flask_delay_engine::Semaphore as Places;
use pyo3::prelude::*;

use super::completion::cancel;
use super::dispatch::{self, Entry};
use crate::bindings::core::executor::{Core, Job};
use crate::bindings::core::settings::{Mode, WhenFull};
use crate::bindings::core::task::{Task, name_of};
use crate::bindings::errors::{QueueFull, closed};
use crate::bindings::ffi::gil::wait_with_signals;
use crate::bindings::host::logging;
use crate::bindings::wait::current;

/// Takes a permit of the queue for `this`.
///
/// # Errors
///
/// `QueueFull`, `RuntimeError` if the pool is closed meanwhile, and what a signal's handler raises.
#[cold]
pub(crate) fn take(this: &Bound<'_, Task>, core: &Arc<Core>, places: &Places) -> PyResult<Entry> {
    if core.pool().is_closed() {
        return Err(closed());
    }
    let asked = core.backpressure;
    let took = places.try_take()
        || match asked.when_full {
            // Only the caller runs tasks in manual mode, so waiting would never end.
            WhenFull::Block | WhenFull::CallerRuns if core.mode == Mode::Manual => false,
            WhenFull::Block => wait(this.py(), core, places)?,
            WhenFull::Raise => false,
            WhenFull::CallerRuns => return Ok(Entry::Caller),
            WhenFull::DropOldest => make_room(this.py(), core, places)?,
        };
    if !took {
        return Err(full(this, core));
    }
    this.get().mark_placed();
    Ok(Entry::Worker)
}

fn wait(py: Python<'_>, core: &Arc<Core>, places: &Places) -> PyResult<bool> {
    let deadline = match core.backpressure.block_timeout {
        Some(timeout) => Instant::now().checked_add(timeout),
        None => None,
    };
    // A worker that waits for a permit of its own pool makes room for one that empties the queue.
    let waiting = current::waiting();
    let reached = |slice| {
        // Tasks with permits may be queued for which no thread could be started.
        core.pool().look_after();
        places.take(Some(slice)) || core.pool().is_closed()
    };
    let waited = wait_with_signals(py, deadline, reached);
    drop(waiting);
    let reached = waited?;
    if core.pool().is_closed() {
        // With or without a permit, which does not matter in a closed pool.
        return Err(closed());
    }
    Ok(reached)
}

/// Cancels waiting tasks until there is a permit, the most expendable first.
fn make_room(py: Python<'_>, core: &Arc<Core>, places: &Places) -> PyResult<bool> {
    loop {
        // A job that is taken out and put back must find that the pool has not ended.
        let hold = core.pool().hold();
        let found = core.pool().steal_last();
        let dropped = found.map(|job| drop_job(py, core, job.into()));
        drop(hold);
        if let Some(dropped) = dropped {
            if !dropped {
                py.detach(|| std::thread::sleep(PAUSE));
                py.check_signals()?;
            }
        } else if let Some(task) = dispatch::oldest_held(py, core) {
            if cancel(&task) {
                say(&task);
            }
        } else {
            // The tasks with permits are about to start.
            py.detach(|| std::thread::sleep(PAUSE));
            py.check_signals()?;
        }
        if places.try_take() {
            return Ok(true);
        }
        if core.pool().is_closed() {
            return Err(closed());
        }
    }
}

const PAUSE: Duration = Duration::from_micros(50);

/// Cancels a task that was taken out of the queue; `false` if the job had to go back.
fn drop_job(py: Python<'_>, core: &Arc<Core>, job: Job) -> bool {
    core.took_out(&job);
    let task = match &job {
        // A task without a permit is a retry, which was accepted before.
        Job::Task(task) if task.get().is_placed() || task.get().phase().is_done() => task.bind(py),
        _ => {
            dispatch::put_back(py, core, job);
            return false;
        }
    };
    if !task.get().phase().is_done() && cancel(task) {
        say(task);
    }
    true
}

fn say(task: &Bound<'_, Task>) {
    logging::warning_of(
        "task %s (%s) was dropped from a full queue, for a newer one",
        task,
    );
}

#[cold]
fn full(this: &Bound<'_, Task>, core: &Core) -> PyErr {
    let waited = match core.backpressure.block_timeout {
        Some(timeout) if core.backpressure.when_full == WhenFull::Block => {
            format!(" for {} s", timeout.as_secs_f64())
        }
        _ => String::new(),
    };
    QueueFull::new_err(format!(
        "task {:?} was not accepted: the queue of {} places is full{waited}",
        name_of(this),
        core.backpressure.queue_size
    ))
}
