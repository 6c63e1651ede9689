//! All uses of private parts of CPython.
//!
//! `tests/core/test_private.py` fails, and names the dependents, if such a part is missing. Tried
//! on 3.11.7, 3.12.1 and 3.13.0.
//!
//! | part | for |
//! | --- | --- |
//! | `threading._register_atexit` | accepted tasks finish at exit, while other threads still run |
//! | `threading.Thread._set_tstate_lock`, up to 3.12 | a task may fork, as `multiprocessing` does |
//! | `threading._active` | `threading.enumerate` omits workers that have ended |
//! | `sys._getframe`, `sys._current_frames`, `code.co_exceptiontable` | `timeout` and `stop` interrupt no code that holds a lock |
//! | `threading.Thread._wait_for_tstate_lock`, up to 3.12 | they interrupt a `join` |
//! | `_Waiter` and its classes in `concurrent.futures._base`, the variables `waiter` and `fs` of `wait` and `as_completed`, `Future._waiters` and `_condition` | deadlock detection covers these waits |
//! | the variable that `decimal` sets, `warnings._warnings_context` from 3.14 on | a task has its own context there |
//!
//! Besides, `ending.rs` lists functions that CPython's headers call, and handles threads that
//! CPython ends before 3.14.

use std::ops::Range;

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCFunction, PyDict};

use super::interrupt::ThreadId;
use crate::bindings::names;

/// Registers `function` for the start of interpreter exit, while other threads still run.
pub(crate) fn register_atexit(function: Bound<'_, PyCFunction>) -> PyResult<()> {
    let threading = function.py().import("threading")?;
    threading.call_method1("_register_atexit", (function,))?;
    Ok(())
}

/// Completes the `Thread` object of a thread that `threading` did not start.
///
/// Up to 3.12, `threading` asserts in a forked child that the forking thread has this lock; only
/// threads that it started do. Without it, a process that a task starts with `multiprocessing`
/// would end with an error.
pub(crate) fn set_tstate_lock(thread: &Bound<'_, PyAny>) -> PyResult<()> {
    if let Some(set) = thread.getattr_opt(names::_set_tstate_lock(thread.py()))? {
        set.call0()?;
    }
    Ok(())
}

/// Removes a thread from `threading.enumerate`; Python 3.11 keeps threads that it did not start.
pub(crate) fn forget_thread(thread: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = thread.py();
    let active = py
        .import(names::threading(py))?
        .getattr(names::_active(py))?;
    let ident = thread.getattr(names::ident(py))?;
    active
        .call_method1(names::pop(py), (ident, py.None()))
        .map(drop)
}

/// The standard library's context variables with values changed in place: of `decimal` and, since
/// 3.14, of `warnings`.
pub(crate) fn changed_in_place(py: Python<'_>) -> PyResult<[Option<Bound<'_, PyAny>>; 2]> {
    // The variable of `decimal` has no public name, but it is the only one set in an empty
    // context.
    let alone = py.import("contextvars")?.getattr("Context")?.call0()?;
    let get = py.import("decimal")?.getattr("getcontext")?;
    alone.call_method1("run", (get,))?;
    let decimal = alone.try_iter()?.next().transpose()?;
    let warnings = py
        .import("warnings")?
        .getattr_opt(names::_warnings_context(py))?;
    Ok([decimal, warnings])
}

/// Functions of the standard library in which a thread sleeps; the second one up to 3.12, the
/// third from 3.13 on.
const BEDS: [(&str, &str); 3] = [
    ("threading", "Condition.wait"),
    ("threading", "Thread._wait_for_tstate_lock"),
    ("threading", "Thread.join"),
];

/// Callers of `BEDS` that wake all sleepers at once. An interrupted sleeper thus takes no wake-up
/// meant for another, as it could in a queue.
const SLEEPERS: [(&str, &str); 6] = [
    ("threading", "Thread.join"),
    ("threading", "Event.wait"),
    ("concurrent.futures._base", "Future.result"),
    ("concurrent.futures._base", "Future.exception"),
    ("concurrent.futures._base", "wait"),
    ("concurrent.futures._base", "as_completed"),
];

struct Bed {
    code: Py<PyAny>,
    /// The body of its first `try`; None: the whole function.
    body: Option<Vec<Range<usize>>>,
}

/// Reads the stacks of threads, and finds the frames in which they sleep.
pub(crate) struct Stacks {
    beds: Vec<Bed>,
    sleepers: Vec<Py<PyAny>>,
    current_frames: Py<PyAny>,
    get_frame: Py<PyAny>,
}

impl Stacks {
    pub(crate) fn new(py: Python<'_>) -> PyResult<Self> {
        let mut beds = Vec::new();
        for (module, path) in BEDS {
            if let Some(code) = code_of(py, module, path)? {
                let table = code.getattr("co_exceptiontable")?;
                beds.push(Bed {
                    body: body_of_first_try(table.cast::<PyBytes>()?.as_bytes()),
                    code: code.unbind(),
                });
            }
        }
        let mut sleepers = Vec::new();
        for (module, path) in SLEEPERS {
            sleepers.extend(code_of(py, module, path)?.map(Bound::unbind));
        }
        let sys = py.import(names::sys(py))?;
        Ok(Self {
            beds,
            sleepers,
            current_frames: sys.getattr("_current_frames")?.unbind(),
            get_frame: sys.getattr("_getframe")?.unbind(),
        })
    }

    /// The frame of the caller.
    pub(crate) fn caller<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.get_frame.bind(py).call0()
    }

    pub(crate) fn innermost<'py>(
        &self,
        py: Python<'py>,
        thread: ThreadId,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let frames = self.current_frames.bind(py).call0()?;
        frames.cast_into::<PyDict>()?.get_item(thread.ident())
    }

    pub(crate) fn is_in_bed(
        &self,
        frame: &Bound<'_, PyAny>,
        code: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let Some(bed) = self.beds.iter().find(|bed| code.is(&bed.code)) else {
            return Ok(false);
        };
        let Some(body) = &bed.body else {
            return Ok(true);
        };
        let at: usize = frame.getattr(names::f_lasti(frame.py()))?.extract()?;
        Ok(body.iter().any(|range| range.contains(&at)))
    }

    pub(crate) fn is_sleeper(&self, code: &Bound<'_, PyAny>) -> bool {
        self.sleepers.iter().any(|sleeper| code.is(sleeper))
    }
}

/// None if the function does not exist or is something else: gevent may have patched it.
fn code_of<'py>(py: Python<'py>, module: &str, path: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut found = Some(py.import(module)?.into_any());
    for name in path.split('.').chain(["__code__"]) {
        found = match found {
            Some(found) => found.getattr_opt(name)?,
            None => None,
        };
    }
    Ok(found)
}

/// The instruction offsets that the first `try`'s handler covers. CPython's
/// `Objects/exception_handling_notes.txt` describes the format: entries of start, length, handler
/// and depth, in groups of six bits, highest first.
fn body_of_first_try(table: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut bytes = table.iter().copied();
    let mut number = || {
        let mut byte = bytes.next()?;
        let mut value = usize::from(byte & 63);
        while byte & 64 != 0 {
            byte = bytes.next()?;
            value = value << 6 | usize::from(byte & 63);
        }
        Some(value)
    };
    let mut first = None;
    let mut body = Vec::new();
    while let (Some(start), Some(length), Some(handler), Some(_)) =
        (number(), number(), number(), number())
    {
        if *first.get_or_insert(handler) == handler {
            // In units of two bytes.
            body.push(2 * start..2 * (start + length));
        }
    }
    first.map(|_| body)
}

fn base(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import("concurrent.futures._base")
}

/// Whether `concurrent.futures` made `waiter` in order to wait.
pub(crate) fn is_waiter(waiter: &Bound<'_, PyAny>) -> PyResult<bool> {
    waiter.is_instance(&base(waiter.py())?.getattr("_Waiter")?)
}

/// A running call of `wait` or `as_completed`.
pub(crate) struct WaitCall<'py> {
    waiter: Bound<'py, PyAny>,
    /// Its futures that it does not yet know to be done.
    pub(crate) futures: Vec<Bound<'py, PyAny>>,
}

impl<'py> WaitCall<'py> {
    /// The call that waits for this event. None in another function, or in an unknown version of
    /// it.
    pub(crate) fn of<T>(event: &Bound<'py, T>) -> Option<Self> {
        let py = event.py();
        let read = || {
            let frame = py.import("sys")?.call_method0("_getframe")?;
            let locals = frame.getattr("f_locals")?;
            let waiter = locals.get_item("waiter")?;
            if !waiter.getattr(names::event(py))?.is(event) {
                return Err(PyAttributeError::new_err("event"));
            }
            let futures = locals.get_item("fs")?.try_iter()?;
            PyResult::Ok(Self {
                waiter,
                futures: futures.collect::<PyResult<_>>()?,
            })
        };
        read().ok()
    }

    fn is_of(&self, class: &str) -> bool {
        let class = base(self.waiter.py()).and_then(|base| base.getattr(class));
        class.is_ok_and(|class| self.waiter.get_type().is(&class))
    }

    /// The condition that ends the wait; None if unknown.
    pub(crate) fn need(&self) -> PyResult<Option<Need>> {
        if self.is_of("_AllCompletedWaiter") {
            let stops = self.waiter.getattr("stop_on_exception")?.is_truthy()?;
            return Ok(Some(if stops { Need::AllOrError } else { Need::All }));
        }
        let one = self.is_of("_AsCompletedWaiter") || self.is_of("_FirstCompletedWaiter");
        Ok(one.then_some(Need::One))
    }

    /// Removes the waiter from the futures' lists, unless its function does.
    pub(crate) fn withdraw(&self) {
        if self.is_of("_AsCompletedWaiter") {
            return;
        }
        let remove = |future: &Bound<'py, PyAny>| {
            let py = future.py();
            let condition = future.getattr("_condition")?;
            condition.call_method0(names::acquire(py))?;
            let removed = future
                .getattr("_waiters")
                .and_then(|list| list.call_method1(names::remove(py), (&self.waiter,)));
            condition.call_method0(names::release(py))?;
            removed.map(drop)
        };
        for future in &self.futures {
            if let Err(error) = remove(future) {
                error.write_unraisable(future.py(), Some(future));
            }
        }
    }
}

/// The condition that ends a wait for futures.
pub(crate) enum Need {
    All,
    /// Or the first that raises.
    AllOrError,
    /// The next one.
    One,
}
