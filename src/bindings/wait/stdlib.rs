//! Where `concurrent.futures.wait` and `as_completed` enter themselves.
//!
//! They want a list, and get one; a task that asks gets one that also tells. A task's wait is
//! one like that for a single future: it may not be in a circle, and another worker may be
//! active meanwhile. Nobody tells us when it begins. But it ends by an event, which every waiter
//! makes for itself and which is replaced, when it enters itself into the first list, by one
//! that we are asked to wait for.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::condition;
use super::current;
use super::result::{self, Entered};
use crate::bindings::core::task::FutureCell;
use crate::bindings::core::transition;
use crate::bindings::core::waiter::SLICE;
use crate::bindings::ffi::call::call_with;
use crate::bindings::ffi::cpython::{Need, WaitCall, is_waiter};
use crate::bindings::names;

/// What a future's list of waiters has before a plain list.
#[pyclass(frozen, subclass, name = "_Listeners", module = "flask_delay._native")]
pub(crate) struct Listeners;

/// Whether a list of waiters tells when a worker's task enters itself.
pub(crate) fn is_telling(list: &Bound<'_, PyList>) -> bool {
    !list.is_exact_instance_of::<PyList>()
}

/// A list that tells, with the waiters of a plain one.
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
        // Nobody sets the event before this returns: the future's condition is held.
        if current::is_at_work() {
            Event::replace(waiter)?;
        }
        slf.as_any().cast::<PyList>()?.append(waiter)
    }
}

/// The event of a waiter.
#[pyclass(frozen, name = "_Event", module = "flask_delay._native")]
pub(crate) struct Event(Py<PyAny>);

impl Event {
    /// Takes the place of the waiter's event, unless it has it or the waiter is not one of
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

/// Waits for the event as a worker, which looks after its pool in between.
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

/// Notes the wait, if a task waits; refuses one that would never end.
fn enter(caller: &WaitCall<'_>) -> PyResult<Option<Entered>> {
    let ours = caller.futures.iter().filter_map(|it| it.cast().ok());
    let mut targets: Vec<Bound<'_, FutureCell>> = ours.cloned().collect();
    let all_ours = targets.len() == caller.futures.len();
    targets.retain(|target| !target.get().phase().is_settled());
    let any_done = targets.len() < caller.futures.len();
    let all = match caller.need()? {
        None => return Ok(None),
        Some(Need::One) if any_done => return Ok(None),
        // Those that have ended have not raised.
        Some(need) => matches!(need, Need::All),
    };
    // Those of other executors may end at any time.
    if !all && !all_ours {
        return Ok(None);
    }
    let need = if all { targets.len() } else { 1 };
    result::refuse_on_loop(&targets, need)?;
    result::enter_own(&targets, need)
}

/// The list that `concurrent.futures.wait` puts itself into.
///
/// A plain one, until a task asks for it.
pub(crate) fn listeners<'py>(this: &Bound<'py, FutureCell>) -> PyResult<Bound<'py, PyList>> {
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
    // Whoever enters itself or leaves holds the condition meanwhile, so the lists may be
    // exchanged under it. That of a future that is done locks nobody out, and it needs no
    // other list: nobody waits for it.
    let condition = condition::of(this)?;
    transition::acquire(&condition)?;
    let list = telling(py, known().as_ref())
        .map(|fresh| put_listeners(this, &fresh, !this.get().phase().is_settled()));
    transition::release(&condition)?;
    list
}

/// Puts a list in, instead of another one or only if there is none; the one that is there
/// afterwards.
fn put_listeners<'py>(
    this: &Bound<'py, FutureCell>,
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
