//! Making executors: what they may be asked for, and what they get if they are not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flask_delay_engine::Config;
use pyo3::exceptions::{PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use super::executor::{Beginning, Settings};
use super::waiter::look_on;
use crate::bindings::api::executor::{ExecutorCell, Scoped};
use crate::bindings::host::app_context::Scope;
use crate::bindings::host::signals::Signals;
use crate::bindings::host::switch_interval;
use crate::bindings::run::inline::Mode;
use crate::bindings::sched::backpressure::{Backpressure, WhenFull};

const MEBIBYTE: usize = 1 << 20;
/// What a main thread has on Linux; deep recursion must not depend on the thread.
const STACK: usize = 8 * MEBIBYTE;

/// An executor of `Delay` lets those workers go that were idle for so long.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// The class that executors are made of here.
static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// What Python's own pool has by default: some more threads than processors.
fn default_workers(py: Python<'_>) -> PyResult<usize> {
    let os = py.import("os")?;
    // Python is asked: the newer function heeds the affinity and `-X cpu_count`.
    let count = match os.getattr_opt("process_cpu_count")? {
        Some(count) => count,
        None => os.getattr("cpu_count")?,
    };
    let processors: Option<usize> = count.call0()?.extract()?;
    Ok(32.min(processors.unwrap_or(1) + 4))
}

/// A number of workers; a number too large is a bad value like any other.
pub(crate) fn workers(count: &Bound<'_, PyAny>) -> PyResult<i64> {
    count.extract().or_else(|error: PyErr| {
        if !error.is_instance_of::<PyOverflowError>(count.py()) {
            return Err(error);
        }
        Err(PyValueError::new_err(format!(
            "max_workers is out of range, got {}",
            count.repr()?
        )))
    })
}

/// A number of places in the queue; 0 for no limit.
pub(crate) fn places(size: &Bound<'_, PyAny>) -> PyResult<usize> {
    let bad = |error: PyErr| {
        if error.is_instance_of::<PyTypeError>(size.py()) {
            return error;
        }
        PyValueError::new_err(format!(
            "queue_size must be an integer, 0 or more, got {}",
            size.repr()
                .map_or_else(|_| "?".to_owned(), |text| text.to_string())
        ))
    };
    size.extract().map_err(bad)
}

pub(crate) fn config(
    py: Python<'_>,
    max_workers: Option<i64>,
    prefix: &str,
    idle_timeout: Duration,
) -> PyResult<Config> {
    static UNNAMED: AtomicUsize = AtomicUsize::new(0);
    let max_workers = match max_workers {
        None => default_workers(py)?,
        Some(count) => usize::try_from(count)
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| {
                PyValueError::new_err(format!("max_workers must be greater than 0, got {count}"))
            })?,
    };
    if prefix.contains('\0') {
        return Err(PyValueError::new_err(format!(
            "thread_name_prefix must not contain a null character, got {prefix:?}"
        )));
    }
    let name = if prefix.is_empty() {
        format!("delay-{}", UNNAMED.fetch_add(1, Ordering::Relaxed))
    } else {
        prefix.to_owned()
    };
    let asked: usize = py
        .import("threading")?
        .call_method0("stack_size")?
        .extract()?;
    Ok(Config {
        name,
        max_workers,
        idle_timeout,
        look_on: look_on(),
        stack_size: asked.max(STACK),
    })
}

/// How a queue is to be; `block_timeout` in seconds, None for ever.
pub(crate) fn backpressure(
    queue_size: usize,
    when_full: &str,
    block_timeout: Option<f64>,
) -> PyResult<Backpressure> {
    let block_timeout = match block_timeout {
        None => None,
        Some(seconds) if seconds >= 0.0 => Duration::try_from_secs_f64(seconds).ok(),
        Some(seconds) => {
            return Err(PyValueError::new_err(format!(
                "block_timeout must be a number of seconds, 0 or more, or None, got {seconds}"
            )));
        }
    };
    Ok(Backpressure {
        queue_size,
        when_full: WhenFull::parse(when_full)?,
        block_timeout,
    })
}

/// See `_native.pyi`.
#[pyfunction]
pub(crate) fn _service_executor<'py>(
    py: Python<'py>,
    thread_name_prefix: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let settings = Settings {
        config: config(py, Some(1), thread_name_prefix, IDLE_TIMEOUT)?,
        backpressure: Backpressure::default(),
        initializer: None,
        hidden: Vec::new(),
        log_failures: true,
        shutdown_timeout: None,
        result_limit: 0,
        switch_interval: Some(switch_interval::DEFAULT),
        service: true,
        mode: Mode::Threads,
        signals: None,
        counted: false,
        beginning: Beginning::Call,
        scope_method: None,
    };
    make(py, settings, None)
}

fn make(py: Python<'_>, settings: Settings, scoped: Option<Scoped>) -> PyResult<Bound<'_, PyAny>> {
    let class = CLASS
        .get(py)
        .ok_or_else(|| PyRuntimeError::new_err("the executor class is not set"))?
        .bind(py);
    let executor = class.call_method1("__new__", (class,))?;
    executor
        .cast::<ExecutorCell>()?
        .get()
        .set(settings, scoped)?;
    Ok(executor)
}

/// Notes the class that scoped executors are made of.
pub(crate) fn set_class(class: &Bound<'_, PyType>) {
    let _ = CLASS.set(class.py(), class.clone().unbind());
}

/// See `_native.pyi`.
#[pyfunction]
#[pyo3(signature = (*, max_workers, thread_name_prefix, scope, hidden, reject_types, reject, log_failures, shutdown_timeout, result_limit, switch_interval = Some(0.0001), mode = "threads", signals = None, queue_size = 0, when_full = "block", block_timeout = None, step = None, late_start = false))]
#[expect(clippy::too_many_arguments, reason = "all of them named")]
pub(crate) fn _scoped_executor<'py>(
    py: Python<'py>,
    max_workers: Option<i64>,
    thread_name_prefix: &str,
    scope: Bound<'py, PyAny>,
    hidden: Bound<'py, PyAny>,
    reject_types: Py<PyTuple>,
    reject: Py<PyAny>,
    log_failures: bool,
    shutdown_timeout: Option<f64>,
    result_limit: usize,
    switch_interval: Option<f64>,
    mode: &str,
    signals: Option<Bound<'py, PyTuple>>,
    queue_size: usize,
    when_full: &str,
    block_timeout: Option<f64>,
    step: Option<Py<PyAny>>,
    late_start: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let hidden = hidden
        .try_iter()?
        .map(|variable| variable.map(Bound::unbind))
        .collect::<PyResult<_>>()?;
    let (scope, scope_method) = Scope::new(&scope)?;
    let settings = Settings {
        config: config(py, max_workers, thread_name_prefix, IDLE_TIMEOUT)?,
        initializer: None,
        hidden,
        log_failures,
        shutdown_timeout: shutdown_timeout
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        result_limit,
        switch_interval: switch_interval
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        service: false,
        mode: Mode::parse(mode)?,
        backpressure: backpressure(queue_size, when_full, block_timeout)?,
        signals: signals.map(|signals| Signals::new(&signals)).transpose()?,
        counted: true,
        beginning: if late_start {
            Beginning::Told
        } else {
            Beginning::Call
        },
        scope_method,
    };
    let scoped = Scoped {
        scope,
        reject_types,
        reject,
        step,
    };
    make(py, settings, Some(scoped))
}
