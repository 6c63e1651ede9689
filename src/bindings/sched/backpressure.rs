//! `queue_size`: so many places for tasks that have been accepted and have not started, and
//! what becomes of a task that finds none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flask_delay_engine::Semaphore as Places;
use pyo3::prelude::*;

use super::completion::cancel;
use super::dispatch::{self, Entry};
use crate::bindings::core::executor::{Core, Job};
use crate::bindings::core::settings::{Mode, WhenFull};
use crate::bindings::core::task::Task;
use crate::bindings::core::task_name::name_of;
use crate::bindings::errors::{QueueFull, closed};
use crate::bindings::ffi::gil::wait_with_signals;
use crate::bindings::host::logging;
use crate::bindings::wait::current;

/// Takes a place in the queue for `this`, if places are counted.
///
/// # Errors
///
/// `QueueFull`, `RuntimeError` if the pool is closed meanwhile, and what a signal's handler
/// raises.
#[cold]
pub(crate) fn take(this: &Bound<'_, Task>, core: &Arc<Core>, places: &Places) -> PyResult<Entry> {
    if core.pool().is_closed() {
        return Err(closed());
    }
    let asked = core.backpressure;
    let took = places.try_take()
        || match asked.when_full {
            // Nobody but the caller runs the tasks of a manual one, which is not yet.
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
    // A worker that waits for a place in its own pool makes room for who empties it.
    let waiting = current::waiting();
    let reached = |slice| {
        // Others may have taken places for which there is no thread.
        core.pool().look_after();
        places.take(Some(slice)) || core.pool().is_closed()
    };
    let waited = wait_with_signals(py, deadline, reached);
    drop(waiting);
    let reached = waited?;
    if core.pool().is_closed() {
        // With or without a place, which nobody counts in a closed pool.
        return Err(closed());
    }
    Ok(reached)
}

/// Cancels tasks that wait, the one that can best be spared first, until there is a place.
fn make_room(py: Python<'_>, core: &Arc<Core>, places: &Places) -> PyResult<bool> {
    loop {
        // What is taken out and has to go back must find that the pool has not ended.
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
            // Whoever has a place is about to start.
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
        // One that has no place runs once more: it was accepted before.
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
