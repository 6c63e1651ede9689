//! The waiters and the condition of a future, for `concurrent.futures.wait` and `as_completed`.
//!
//! Both functions append a waiter to a list of the future. For a task that calls them, the list is
//! a [`Listeners`], which replaces the waiter's event with an [`Event`]. `Event::wait` then notes
//! the wait: it may not close a circle, and another worker may be active meanwhile.
//!
//! Both functions want a `threading.Condition` only to lock it: they wait on events, and
//! `Future.result` waits in its own way. So Python's lock with a no-op `notify_all` is enough, at a
//! fraction of the cost. The state of a done future cannot change, so it needs no lock at all.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::current;
use super::result::{self, Entered};
use crate::bindings::core::task::Task;
use crate::bindings::core::transition;
use crate::bindings::core::waiter::SLICE;
use crate::bindings::ffi::call::call_with;
use crate::bindings::ffi::cpython::{Need, WaitCall, is_waiter};
use crate::bindings::names;

/// The base class of a list that replaces the events of tasks' waiters.
#[pyclass(frozen, subclass, name = "_Listeners", module = "flask_delay._native")]
pub(crate) struct Listeners;

/// Whether the list is a [`Listeners`].
pub(crate) fn is_telling(list: &Bound<'_, PyList>) -> bool {
    !list.is_exact_instance_of::<PyList>()
}

/// A [`Listeners`] with the waiters of a plain list.
pub(crate) fn telling<'py>(
    py: Python<'py>,
    plain: Option<&Bound<'py, PyList>>,
) -> PyResult<Bound<'py, PyList>> {
    // PyO3 cannot extend a list; Python can.
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || {
        let bases = (py.get_type::<Listeners>(), py.get_type::<PyList>());
        let class = py.get_type::<PyType>();
        let class = class.call1(("_Listeners", bases, PyDict::new(py)))?;
        PyResult::Ok(class.cast_into::<PyType>()?.unbind())
    })?;
    let list = class.bind(py).call0()?.cast_into::<PyList>()?;
    for waiter in plain.iter().flat_map(|plain| plain.iter()) {
        list.append(waiter)?;
    }
    Ok(list)
}

#[pymethods]
impl Listeners {
    #[new]
    fn new() -> Self {
        Self
    }

    fn append(slf: &Bound<'_, Self>, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        // The event is not set before this returns: the future's condition is held.
        if current::is_at_work() {
            Event::replace(waiter)?;
        }
        slf.as_any().cast::<PyList>()?.append(waiter)
    }
}

/// Replaces the event of a waiter.
#[pyclass(frozen, name = "_Event", module = "flask_delay._native")]
pub(crate) struct Event(Py<PyAny>);

impl Event {
    /// Replaces the waiter's event, unless it is replaced already or the waiter is not one of
    /// `concurrent.futures`.
    fn replace(waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = waiter.py();
        if !is_waiter(waiter)? {
            return Ok(());
        }
        let event = waiter.getattr(names::event(py))?;
        if event.is_instance_of::<Self>() {
            return Ok(());
        }
        waiter.setattr(names::event(py), Self(event.unbind()))
    }
}

#[pymethods]
impl Event {
    fn set(&self, py: Python<'_>) -> PyResult<()> {
        call_with(&self.0.bind(py).getattr(names::set(py))?, []).map(drop)
    }

    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        call_with(&self.0.bind(py).getattr(names::clear(py))?, []).map(drop)
    }

    fn is_set(&self, py: Python<'_>) -> PyResult<bool> {
        call_with(&self.0.bind(py).getattr(names::is_set(py))?, [])?.is_truthy()
    }

    #[pyo3(signature = (timeout = None))]
    fn wait<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let event = slf.get().0.bind(py);
        if slf.get().is_set(py)? {
            return Ok(true.into_pyobject(py)?.to_owned().into_any());
        }
        let entered = match WaitCall::of(slf) {
            Some(caller) => enter(&caller).inspect_err(|_| caller.withdraw())?,
            None => None,
        };
        let waiting = current::waiting();
        let woken = match waiting {
            None => event.call_method1(names::wait(py), (timeout,)),
            Some(_) => wait_in_slices(event, timeout),
        };
        drop((waiting, entered));
        woken
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

/// Waits for the event as a worker, which looks after its pool between slices.
fn wait_in_slices<'py>(
    event: &Bound<'py, PyAny>,
    timeout: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let wait = event.getattr(names::wait(event.py()))?;
    let timeout: Option<f64> = timeout.map(|it| it.extract()).transpose()?;
    let limit = timeout.map(|it| Duration::try_from_secs_f64(it.max(0.0)).unwrap_or(Duration::MAX));
    let began = Instant::now();
    loop {
        let left = limit.map_or(Duration::MAX, |limit| limit.saturating_sub(began.elapsed()));
        let woken = wait.call1((left.min(SLICE).as_secs_f64(),))?;
        if left <= SLICE || woken.is_truthy()? {
            return Ok(woken);
        }
        current::look_after_pool();
    }
}

/// Notes the wait of a task; refuses a wait that would never end.
fn enter(caller: &WaitCall<'_>) -> PyResult<Option<Entered>> {
    let ours = caller.futures.iter().filter_map(|it| it.cast().ok());
    let mut targets: Vec<Bound<'_, Task>> = ours.cloned().collect();
    let all_ours = targets.len() == caller.futures.len();
    targets.retain(|target| !target.get().phase().is_settled());
    let any_done = targets.len() < caller.futures.len();
    let all = match caller.need()? {
        None => return Ok(None),
        Some(Need::One) if any_done => return Ok(None),
        // `FIRST_EXCEPTION`: the futures that are done have not raised.
        Some(need) => matches!(need, Need::All),
    };
    // Futures of other executors may end at any time.
    if !all && !all_ours {
        return Ok(None);
    }
    let need = if all { targets.len() } else { 1 };
    result::refuse_on_loop(&targets, need)?;
    result::enter_own(&targets, need)
}

/// The list to which `concurrent.futures.wait` appends its waiter: a plain one, until a task asks
/// for it.
pub(crate) fn listeners<'py>(this: &Bound<'py, Task>) -> PyResult<Bound<'py, PyList>> {
    let py = this.py();
    let known = || {
        let extra = this.get().known_extra()?.lock();
        extra.listeners.as_ref().map(|list| list.bind(py).clone())
    };
    let tells = current::is_at_work();
    if let Some(list) = known()
        && (!tells || is_telling(&list))
    {
        return Ok(list);
    }
    if !tells {
        return Ok(put_listeners(this, &PyList::empty(py), false));
    }
    // Waiters enter and leave with the condition held, so the lists may be exchanged under it. The
    // condition of a done future excludes no thread, but such a future has no waiters and keeps its
    // list.
    let condition = condition_of(this)?;
    transition::acquire(&condition)?;
    let list = telling(py, known().as_ref())
        .map(|fresh| put_listeners(this, &fresh, !this.get().phase().is_settled()));
    transition::release(&condition)?;
    list
}

/// Stores a list if there is none, or `instead` of another; returns the one stored afterwards.
fn put_listeners<'py>(
    this: &Bound<'py, Task>,
    fresh: &Bound<'py, PyList>,
    instead: bool,
) -> Bound<'py, PyList> {
    let mut extra = this.get().extra().lock();
    let previous = extra.listeners.take_if(|_| instead);
    let list = extra
        .listeners
        .get_or_insert_with(|| fresh.clone().unbind())
        .bind(this.py())
        .clone();
    drop(extra);
    drop(previous);
    list
}

/// A condition for a future that is not done.
pub(crate) fn condition(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // A Python class over the lock, so that locking calls none of our code.
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || {
        let body = PyDict::new(py);
        body.set_item("__module__", "flask_delay._native")?;
        body.set_item("__slots__", PyTuple::empty(py))?;
        body.set_item("notify_all", wrap_pyfunction!(notify_all, py)?)?;
        let lock = py.import("_thread")?.getattr("RLock")?;
        let class = py
            .get_type::<PyType>()
            .call1(("_Condition", (lock,), body))?;
        PyResult::Ok(class.unbind())
    })?;
    class.bind(py).call0()
}

/// The condition of all done futures, which is never locked.
pub(crate) fn condition_of_done(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static OF_DONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let condition = OF_DONE.get_or_try_init(py, || {
        let condition = Bound::new(py, OfDone)?;
        PyResult::Ok(condition.into_any().unbind())
    })?;
    Ok(condition.bind(py).clone())
}

/// No thread waits on the condition itself.
#[pyfunction]
fn notify_all() {}

#[pyclass(frozen, name = "_Condition", module = "flask_delay._native")]
struct OfDone;

#[pymethods]
#[expect(clippy::unused_self, reason = "Python calls them with self")]
impl OfDone {
    #[pyo3(signature = (*_args))]
    fn acquire(&self, _args: &Bound<'_, PyTuple>) -> bool {
        true
    }

    fn release(&self) {}

    fn __enter__(&self) {}

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {}

    fn notify_all(&self) {}
}

/// The condition that `concurrent.futures.wait` holds while it reads the state.
///
/// Each future that is not done has its own: `wait` holds those of all its futures at once. With a
/// shared one, two such threads would block each other.
pub(crate) fn condition_of<'py>(this: &Bound<'py, Task>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let cell = this.get();
    let done = cell.phase().is_settled();
    if let Some(extra) = cell.known_extra()
        && let Some(condition) = extra.lock().condition.as_ref()
    {
        return Ok(condition.bind(py).clone());
    }
    if done {
        return condition_of_done(py);
    }
    let fresh = condition(py)?;
    // A condition that loses the race is dropped after the lock is released.
    Ok(cell.state.watch_with(cell.extra(), |extra| {
        let condition = extra
            .condition
            .get_or_insert_with(|| fresh.clone().unbind());
        condition.bind(py).clone()
    }))
}
