//! Waiting for a future: interruptible, without the GIL, and never in a circle.

use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use flask_delay_engine::{
    self as engine, Key, LazyPerProcess, Link, Mutex, Obstacle, Target, Wait, WaitGraph,
};
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use super::current;
use crate::bindings::convert::seconds;
use crate::bindings::core::executor::Core;
use crate::bindings::core::interrupt;
use crate::bindings::core::keys;
use crate::bindings::core::policy;
use crate::bindings::core::settings::Mode;
use crate::bindings::core::task::{Task, name_of};
use crate::bindings::core::transition::Phase;
use crate::bindings::core::waiter::Waiter;
use crate::bindings::errors::WaitCycleError;
use crate::bindings::ffi::fork::generation;
use crate::bindings::host::gevent;

/// The waits between tasks, and the tasks that a key may hold up. Keys are addresses: both futures
/// live as long as the wait.
static WAITS: LazyPerProcess<WaitGraph<String, Held>> = LazyPerProcess::new();

/// A task's wait; ends when dropped.
pub(crate) struct Entered {
    inner: Option<engine::Entered<'static, String, Held>>,
    generation: u32,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.generation != generation() {
            // In a forked process, leave the waits of the parent alone.
            std::mem::forget(self.inner.take());
        }
    }
}

/// What to ask about a task's obstacles.
#[derive(Clone)]
pub(crate) enum Held {
    Task(Arc<Py<Task>>),
    /// The turn that its limiter will give to a task which does not wait yet.
    Turn(Arc<Py<Task>>),
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Task(one), Self::Task(two)) | (Self::Turn(one), Self::Turn(two)) => {
                one.as_ptr() == two.as_ptr()
            }
            _ => false,
        }
    }
}

fn key(future: &Bound<'_, Task>) -> Key {
    future.as_ptr() as Key
}

/// Blocks until the future is done, at most `timeout` seconds.
pub(crate) fn until_done(
    this: &Bound<'_, Task>,
    timeout: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let cell = this.get();
    if cell.phase().is_done() {
        return Ok(());
    }
    cell.refuse_foreign(this)?;
    let limit = match timeout {
        Some(timeout) if !timeout.is_none() => Some(Duration::from_secs_f64(seconds(timeout)?)),
        _ => None,
    };
    if limit.is_none() {
        refuse_endless_wait(this)?;
    }
    refuse_on_loop(from_ref(this), 1)?;
    let circle = enter_own(from_ref(this), 1)?;
    let rung = sleep(this, limit);
    drop(circle);
    rung?;
    if cell.phase().is_done() {
        return Ok(());
    }
    Err(PyTimeoutError::new_err(()))
}

fn sleep(this: &Bound<'_, Task>, limit: Option<Duration>) -> PyResult<()> {
    let py = this.py();
    let cell = this.get();
    // While a worker waits, another may be active in its place.
    let waiting = current::waiting();
    if gevent::wait(this.as_any(), limit)?.is_some() {
        return Ok(());
    }
    let waiter = Waiter::new();
    if !cell.leave(|extra| extra.waiters.push(Arc::clone(&waiter))) {
        return Ok(());
    }
    let awake = interrupt::awake_on(&waiter);
    let rung = waiter.wait(py, limit, current::look_after_pool);
    drop(waiting);
    let ended = awake.filter(|_| !cell.phase().is_done());
    let ended = ended.and_then(|awake| awake.error(py));
    if !matches!(rung, Ok(true)) || ended.is_some() {
        let mut extra = cell.extra().lock();
        extra.waiters.retain(|it| !Arc::ptr_eq(it, &waiter));
    }
    match ended {
        Some(error) => Err(error),
        None => rung.map(drop),
    }
}

/// Refuses to block the event loop until `need` targets are done, if that takes a coroutine which
/// needs the loop.
pub(crate) fn refuse_on_loop(targets: &[Bound<'_, Task>], need: usize) -> PyResult<()> {
    let needs_loop = |target: &&Bound<'_, Task>| policy::needs(target, Task::is_coroutine);
    let Some(target) = targets.iter().find(needs_loop) else {
        return Ok(());
    };
    let others = targets.iter().filter(|target| !needs_loop(target)).count();
    if others >= need || !current::is_loop() {
        return Ok(());
    }
    Err(WaitCycleError::new_err(format!(
        "waiting for task {:?} would never end: it needs the event loop that this \
         coroutine blocks; write `await future`, or `async for` to read its stream",
        name_of(target)
    )))
}

/// Notes that this thread's task, if any, waits until `need` targets are done; refuses a wait that
/// would never end.
pub(crate) fn enter_own(targets: &[Bound<'_, Task>], need: usize) -> PyResult<Option<Entered>> {
    let Some(target) = targets.first() else {
        return Ok(None);
    };
    current::task(target.py())
        .map(|waiter| enter(&waiter, targets.iter().map(target_of).collect(), need))
        .transpose()
}

/// Notes that the task `waiter` waits until `need` targets are done; refuses a wait that would
/// never end.
fn enter(waiter: &Bound<'_, Task>, targets: Vec<Target<Held>>, need: usize) -> PyResult<Entered> {
    let name = match waiter.get().core() {
        Some(_) => name_of(waiter),
        // Made by hand, to be rung when tasks of a group have ended.
        None => "its group".to_owned(),
    };
    let wait = Wait {
        name,
        targets,
        need,
    };
    let entered = WAITS
        .get_or_init(WaitGraph::default)
        .enter(key(waiter), wait, |held| ask(waiter.py(), held));
    entered
        .map(|entered| Entered {
            inner: Some(entered),
            generation: generation(),
        })
        .map_err(|circle| endless(&circle))
}

fn target_of(future: &Bound<'_, Task>) -> Target<Held> {
    let may_be_held = policy::may_be_held(future.get());
    Target {
        job: key(future),
        held: may_be_held.then(|| Held::Task(Arc::new(future.clone().unbind()))),
    }
}

/// The obstacle that holds up a task now, if any.
fn ask(py: Python<'_>, held: &Held) -> Option<Obstacle<String, Held>> {
    let task = match held {
        Held::Task(task) => task,
        Held::Turn(task) => return turn(task.bind(py), "its turn".to_owned()),
    };
    let this = task.bind(py);
    let Some(followed) = policy::followed(this) else {
        return turn(this, name_of(this));
    };
    let mut jobs: Vec<_> = followed.iter().map(target_of).collect();
    if policy::has_lane(this.get()) {
        jobs.push(Target {
            // No future has this address.
            job: key(this) + 1,
            held: Some(Held::Turn(Arc::clone(task))),
        });
    }
    Some(Obstacle {
        name: name_of(this),
        how: ", which comes after ",
        need: jobs.len(),
        jobs,
    })
}

/// As [`keys::held_up`], by the task's own limiter, or its place on the machine.
fn held_up(this: &Bound<'_, Task>) -> Option<(Vec<usize>, usize)> {
    let cell = this.get();
    // A failed task has left its limiter, but its waiters may not have been notified.
    if cell.phase() != Phase::Pending {
        return None;
    }
    let Some(lane) = policy::lane(this) else {
        return policy::find(cell, |rules| rules.place.as_ref()?.held_up());
    };
    let terms = policy::policy(this)?.get().terms(policy::ready(cell))?;
    keys::held_up(&lane, this, terms.limit)
}

/// The tasks that come before `task` in its limiter.
fn turn(task: &Bound<'_, Task>, name: String) -> Option<Obstacle<String, Held>> {
    let (jobs, need) = held_up(task)?;
    let jobs = jobs.into_iter().map(|job| Target { job, held: None });
    Some(Obstacle {
        name,
        how: ", whose key is held by ",
        jobs: jobs.collect(),
        need,
    })
}

#[cold]
fn endless(circle: &[Link<String>]) -> PyErr {
    let mut chain = String::new();
    let mut was_held = false;
    for link in circle {
        chain.push_str(&link.name);
        chain.push_str(match (was_held, link.held) {
            (_, Some(how)) => how,
            (true, None) => ", which waits for ",
            (false, None) => " waits for ",
        });
        was_held = link.held.is_some();
    }
    let names = || circle.iter().map(|link| link.name.as_str()).cycle();
    let first = names().next().unwrap_or_default();
    let target = names().nth(1).unwrap_or_default();
    WaitCycleError::new_err(format!(
        "waiting for task {target:?} would never end: {chain}{first}"
    ))
}

#[doc = doc!("_Waiting")]
#[pyclass(frozen, name = "_Waiting", module = "flask_delay._native")]
pub(crate) struct Waiting {
    entered: Mutex<Option<Entered>>,
    /// The references that the wait itself keeps to its targets.
    held: Vec<Held>,
}

#[pymethods]
impl Waiting {
    #[new]
    #[pyo3(signature = (waiter, *targets))]
    fn new(waiter: &Bound<'_, Task>, targets: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let mut all = Vec::with_capacity(targets.len());
        for target in targets.iter_borrowed() {
            all.push(target_of(&target.cast()?.to_owned()));
        }
        let held = all
            .iter()
            .filter_map(|target| target.held.clone())
            .collect();
        let need = all.len();
        let entered = enter(waiter, all, need)?;
        Ok(Self {
            entered: Mutex::new(Some(entered)),
            held,
        })
    }

    fn end(&self) {
        let entered = self.entered.lock().take();
        drop(entered);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Traverse only while this wait has the one reference. Code that looks at waits is
        // attached, so the count is the same throughout one collection.
        for Held::Task(task) | Held::Turn(task) in &self.held {
            if Arc::strong_count(task) <= 2 {
                visit.call(&**task)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.end();
    }
}

/// Refuses an endless wait for a task that has no worker.
pub(crate) fn refuse_endless_wait(this: &Bound<'_, Task>) -> PyResult<()> {
    let waits = |cell: &Task| {
        let manual = |core: &Arc<Core>| core.mode == Mode::Manual;
        cell.core().is_some_and(manual) && cell.phase() == Phase::Pending
    };
    if !policy::needs(this, waits) {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!(
        "task {:?} waits for run_pending(), as DELAY_MODE is \"manual\": call that first, or \
         wait with a timeout if another thread does",
        name_of(this)
    )))
}
