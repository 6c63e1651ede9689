//! `current_task.checkpoint`, `current_task.step` and `track(resume=True)`.

use std::sync::Arc;

use flask_delay_journal::{Changed, Claim};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::bindings::codec::json;
use crate::bindings::core::async_check::form_of;
use crate::bindings::core::durable;
use crate::bindings::core::kept::{Found, Keeping, OWN};
use crate::bindings::core::link::{Link, Message, refusal};
use crate::bindings::core::policy;
use crate::bindings::core::task::{Task, name_of};
use crate::bindings::errors::{CancelledError, JournalUnavailable, TaskInterrupted, forked};
use crate::bindings::host::event_loop::hooks;

/// Where the checkpoints and steps of a task are stored.
pub(crate) enum Keeper {
    Journal(Arc<Link>, Claim),
    /// In this process alone; the most bytes of a value.
    Memory(usize),
}

impl Keeper {
    /// The keeper of a running task; None if the task is not durable, or does not run here.
    pub(crate) fn of(this: &Bound<'_, Task>) -> Option<Self> {
        if this.get().is_of_another_process() {
            return None;
        }
        if let Some((link, claim)) = durable::claim_of(this.get()) {
            return Some(Self::Journal(link, claim));
        }
        policy::policy(this)?.get().keeps.map(Self::Memory)
    }

    /// The most bytes of a value.
    pub(crate) fn most(&self) -> usize {
        match self {
            Self::Journal(link, _) => link.most,
            Self::Memory(most) => *most,
        }
    }
}

/// Reads or changes the checkpoints and steps of a task.
pub(crate) fn with<R>(this: &Task, step: impl FnOnce(&mut Keeping) -> R) -> R {
    policy::with_new(this, |rules| {
        let attempt = rules.attempts;
        step(rules.kept.get_or_insert_default().of_attempt(attempt))
    })
}

/// A loop of a task has ended, or was left: maybe on a thread that runs another task by now.
pub(crate) fn end_loop(this: &Task, place: u32) {
    policy::with(this, |rules| {
        if let Some(kept) = &mut rules.kept {
            kept.end_loop(place);
        }
    });
}

/// Whether this attempt was told to end, since its process ends.
pub(crate) fn is_interrupted(this: &Task) -> bool {
    let told = policy::find(this, |rules| {
        Some(rules.kept.as_ref()?.is_interrupted(rules.attempts))
    });
    told.unwrap_or(false)
}

fn required(this: &Bound<'_, Task>, what: &str) -> PyResult<Keeper> {
    Keeper::of(this).ok_or_else(|| {
        let name = name_of(this);
        if this.get().is_of_another_process() {
            return forked(&name);
        }
        PyRuntimeError::new_err(if policy::is_elsewhere(this.get()) {
            format!(
                "current_task.{what} is not for tasks in worker processes, as task {name:?} is: leave out \
                 its backend"
            )
        } else {
            format!(
                "current_task.{what} is for durable tasks, and this task {name:?} is not one: say \
                 @task(durable=True)"
            )
        })
    })
}

/// `current_task.checkpoint`
pub(crate) fn checkpoint(this: &Bound<'_, Task>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let keeper = required(this, "checkpoint()")?;
    let text = json::encode_as(value, keeper.most(), || {
        let of = format!(" of task {:?}", name_of(this));
        ("the checkpoint".to_owned(), of)
    })?;
    keep(this, &keeper, OWN, text)
}

/// `current_task.checkpointed`
pub(crate) fn checkpointed<'py>(this: &Bound<'py, Task>) -> PyResult<Option<Bound<'py, PyAny>>> {
    required(this, "checkpointed")?;
    let text = with(this.get(), |kept| kept.checkpoint(OWN).cloned());
    text.map(|text| json::decode(this.py(), &text, None))
        .transpose()
}

fn keep(this: &Bound<'_, Task>, keeper: &Keeper, place: u32, text: String) -> PyResult<()> {
    let copy = text.clone();
    with(this.get(), |kept| kept.set_checkpoint(place, copy));
    let Keeper::Journal(link, claim) = keeper else {
        return Ok(());
    };
    link.tell(|journal| journal.checkpoint(*claim, place, text));
    if link.is_leaving() {
        return Err(interrupt(this));
    }
    Ok(())
}

/// The error that ends the attempt: this process ends, and the task goes on in another one.
#[cold]
fn interrupt(this: &Bound<'_, Task>) -> PyErr {
    let cell = this.get();
    let is_given_up = cell.core().is_some_and(|core| core.is_given_up());
    if cell.told_to_stop() && !is_given_up {
        return CancelledError::new_err("the task was told to stop");
    }
    with(cell, Keeping::interrupt);
    TaskInterrupted::new_err(
        "the process ends, and the task goes on at its checkpoint in another one",
    )
}

/// Begins a loop of `track(resume=True)`: its place, and how many items were done. None for a task
/// that is not durable.
pub(crate) fn begin_loop(this: &Bound<'_, Task>) -> PyResult<Option<(u32, u64)>> {
    if Keeper::of(this).is_none() {
        return Ok(None);
    }
    let begun = with(this.get(), |kept| {
        let place = kept.begin_loop()?;
        let done = kept.checkpoint(place).and_then(|text| text.parse().ok());
        Some((place, done.unwrap_or(0)))
    });
    begun.map(Some).ok_or_else(|| {
        PyRuntimeError::new_err(
            "track(resume=True) is inside of another one, or another one of this task was left and \
             not closed: resume the outer loop, or use current_task.checkpoint",
        )
    })
}

/// Stores how many items of a loop are done.
pub(crate) fn loop_done(this: &Bound<'_, Task>, place: u32, done: u64) -> PyResult<()> {
    let keeper = required(this, "checkpoint()")?;
    keep(this, &keeper, place, done.to_string())
}

/// `current_task.step`
pub(crate) fn step<'py>(
    this: &Bound<'py, Task>,
    name: String,
    function: Bound<'py, PyAny>,
    positional: Bound<'py, PyTuple>,
    named: Option<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let keeper = required(this, "step()")?;
    let is_coroutine = form_of(&function)?.without_items(
        &function,
        "a step has one result, and nobody would take its items; give step() a function that \
         returns a list",
    )?;
    if is_coroutine && !this.get().is_coroutine() {
        return Err(PyTypeError::new_err(format!(
            "the step {name:?} is a coroutine function, and the task {:?} is not: make the task one \
             too, and await the step",
            name_of(this)
        )));
    }
    let found = match with(this.get(), |kept| kept.begin_step(&name)) {
        Found::Result(text) => Some(text),
        Found::New => None,
        Found::Used => {
            return Err(PyValueError::new_err(format!(
                "the step {name:?} was used before in this attempt of task {:?}: give each step a \
                 name of its own",
                name_of(this)
            )));
        }
    };
    let step = Step {
        task: this.clone().unbind(),
        keeper,
        name,
        found,
    };
    if is_coroutine {
        let run = hooks(py)?.step.bind(py);
        return run.call1((step, function, positional, named));
    }
    if let Some(text) = &step.found {
        return json::decode(py, text, None);
    }
    match function.call(positional, named.as_ref()) {
        Ok(result) => step.end_here(&result),
        Err(error) => {
            step.forget(py);
            Err(error)
        }
    }
}

#[doc = doc!("_Step")]
#[pyclass(frozen, name = "_Step", module = "flask_delay._native")]
pub(crate) struct Step {
    task: Py<Task>,
    keeper: Keeper,
    name: String,
    /// The result of an earlier attempt.
    found: Option<String>,
}

impl Step {
    fn encode(&self, result: &Bound<'_, PyAny>) -> PyResult<String> {
        json::encode_as(result, self.keeper.most(), || {
            let of = format!(" of task {:?}", name_of(self.task.bind(result.py())));
            (format!("the result of the step {:?}", self.name), of)
        })
    }

    /// Keeps the result, and waits until that is committed. Returns it as later attempts get it.
    fn end_here<'py>(&self, result: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = result.py();
        let text = self.encode(result)?;
        let value = json::decode(py, &text, None)?;
        let name = self.name.clone();
        match &self.keeper {
            Keeper::Memory(_) => {
                with(self.task.get(), |kept| kept.end_step(name, text));
            }
            Keeper::Journal(link, claim) => {
                let changed = link.ask(py, |journal| journal.step(*claim, name, text))?;
                self.check(changed)?;
            }
        }
        Ok(value)
    }

    fn check(&self, changed: Changed) -> PyResult<()> {
        match changed {
            Changed::Done => Ok(()),
            Changed::Fenced => Err(JournalUnavailable::new_err(format!(
                "the result of the step {:?} is not stored: the task does not belong to this process \
                 any more",
                self.name
            ))),
        }
    }
}

#[pymethods]
impl Step {
    #[doc = doc!("_Step.is_done")]
    #[getter]
    fn is_done(&self) -> bool {
        self.found.is_some()
    }

    #[doc = doc!("_Step.result")]
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let text = self.found.as_deref();
        text.map(|text| json::decode(py, text, None)).transpose()
    }

    #[doc = doc!("_Step.forget")]
    fn forget(&self, py: Python<'_>) {
        let task = self.task.bind(py).get();
        with(task, |kept| kept.forget_step(&self.name));
    }

    #[doc = doc!("_Step.end")]
    fn end<'py>(
        slf: &Bound<'py, Self>,
        result: &Bound<'py, PyAny>,
        told: Py<PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let this = slf.get();
        let py = slf.py();
        let Keeper::Journal(link, claim) = &this.keeper else {
            let value = this.end_here(result)?;
            told.call1(py, (py.None(),))?;
            return Ok(value);
        };
        let text = this.encode(result)?;
        let value = json::decode(py, &text, None)?;
        let (name, step) = (this.name.clone(), slf.clone().unbind());
        let courier = Arc::clone(link);
        link.tell(move |journal| {
            let then = move |changed| {
                courier.send(Message::Stepped {
                    step: step.into_any(),
                    told,
                    changed,
                });
            };
            journal.step_later(*claim, name, text, Box::new(then));
        });
        Ok(value)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.task)
    }
}

/// Tells a coroutine that the result of its step is stored, or why it is not.
pub(crate) fn stepped(
    py: Python<'_>,
    step: &Bound<'_, PyAny>,
    told: &Bound<'_, PyAny>,
    changed: Result<Changed, flask_delay_journal::Error>,
) {
    let done = changed
        .map_err(refusal)
        .and_then(|changed| match step.cast::<Step>() {
            Ok(step) => step.get().check(changed),
            Err(error) => Err(error.into()),
        });
    let error = done.err().map(|error| error.into_value(py));
    if let Err(error) = told.call1((error,)) {
        error.write_unraisable(py, Some(told));
    }
}
