//! The tasks of one process as a live page lists them: put together when somebody looks.

use std::collections::HashSet;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bindings::convert::to_datetime;
use crate::bindings::core::executor::Core;
use crate::bindings::core::id::Id;
use crate::bindings::core::progress::Progress;
use crate::bindings::core::recorder::{self, Ended, Recorder};
use crate::bindings::core::task::Task;
use crate::bindings::core::timeline::Entry;
use crate::bindings::core::transition::Phase;
use crate::bindings::host::event_loop;

/// A task that runs, and the identifier of its thread.
pub(crate) type Run<'py> = (Bound<'py, Task>, Option<u64>);

/// The tasks that run.
pub(crate) fn running<'py>(py: Python<'py>, core: &Arc<Core>) -> Vec<Run<'py>> {
    let mut found = Vec::new();
    for slot in core.slots() {
        if let Some(task) = slot.task(py) {
            found.push((task, Some(event_loop::number(slot.target().thread()))));
        }
    }
    let on_loop = core.on_loop().tasks(py).into_iter();
    found.extend(on_loop.map(|task| (task, Some(event_loop::thread()))));
    if let Some(recorder) = core.recorder() {
        let elsewhere = recorder.elsewhere().tasks(py).into_iter();
        found.extend(elsewhere.map(|task| (task, None)));
    }
    // Others have ended, and their callbacks run.
    found.retain(|(task, _)| task.get().phase() == Phase::Running);
    found
}

/// Up to `most` tasks that have not started or wait for another attempt, oldest first.
pub(crate) fn waiting<'py>(
    py: Python<'py>,
    core: &Arc<Core>,
    most: usize,
) -> Vec<Bound<'py, Task>> {
    let mut found = Vec::new();
    core.pool().look_at_ranked(most, |job| {
        found.extend(job.task().map(|task| task.bind(py).clone()));
    });
    found.extend(core.held().oldest(py, most));
    found.extend(core.on_loop().oldest(py, most));
    if let Some(recorder) = core.recorder() {
        found.extend(recorder.in_queue(py, most));
        found.extend(recorder.elsewhere().oldest(py, most));
    }
    let mut seen = HashSet::new();
    found
        .retain(|task| task.get().phase() == Phase::Pending && seen.insert(task.as_ptr() as usize));
    found.sort_by_key(|task| task.get().born());
    found.truncate(most);
    found
}

/// The task with this id, if it is among these and somebody has seen the id.
pub(crate) fn find<'py>(
    py: Python<'py>,
    core: &Arc<Core>,
    id: &Id,
    most: usize,
) -> Option<Bound<'py, Task>> {
    let running = running(py, core).into_iter().map(|(task, _)| task);
    let has_it = |task: &Bound<'_, Task>| {
        let extra = task.get().known_extra()?.lock();
        (extra.id.as_ref() == Some(id)).then_some(())
    };
    let mut all = running.chain(waiting(py, core, most));
    all.find(|task| has_it(task).is_some())
}

/// What has happened to a plain task: when, what, and more about it.
pub(crate) fn notes(core: &Arc<Core>, id: &Id) -> Vec<(u64, &'static str, String)> {
    let notes = (core.recorder()).map_or_else(Vec::new, |it| it.timeline().of(id));
    let parts = |it: Entry| (it.at, it.kind, it.text);
    let told = notes.into_iter().filter(|it| !it.is_link());
    told.map(parts).collect()
}

/// The last tasks that returned or were cancelled, oldest first.
pub(crate) fn ended<'py>(py: Python<'py>, core: &Arc<Core>) -> PyResult<Vec<Bound<'py, PyDict>>> {
    let ended = core.recorder().map_or_else(Vec::new, Recorder::last_ended);
    ended.into_iter().map(|it| to_dict(py, it)).collect()
}

fn to_dict(py: Python<'_>, ended: Ended) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("id", ended.id.to_string())?;
    dict.set_item("name", ended.name)?;
    let state = if ended.is_cancelled {
        "cancelled"
    } else {
        "finished"
    };
    dict.set_item("state", state)?;
    let progress = ended.progress.map(|it| Progress::into_tuple(it, py));
    dict.set_item("progress", progress.transpose()?)?;
    dict.set_item("attempts", ended.attempts)?;
    dict.set_item("enqueued_at", to_datetime(py, ended.enqueued)?)?;
    dict.set_item("started_at", to_datetime(py, ended.started)?)?;
    dict.set_item("finished_at", to_datetime(py, ended.finished)?)?;
    dict.set_item("arguments", ended.arguments)?;
    Ok(dict)
}

#[doc = doc!("_events_counted")]
#[pyfunction]
pub(crate) fn _events_counted() -> u64 {
    recorder::counted()
}
