//! The exceptions of the module, and those of `concurrent.futures` that it raises.

use std::any::Any;
use std::fmt::Display;

use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::{create_exception, import_exception};

import_exception!(concurrent.futures, CancelledError);
import_exception!(concurrent.futures, InvalidStateError);
import_exception!(concurrent.futures.thread, BrokenThreadPool);

create_exception!(
    flask_delay,
    WaitCycleError,
    PyRuntimeError,
    doc!("WaitCycleError")
);

create_exception!(
    flask_delay,
    ForkedFutureError,
    PyRuntimeError,
    doc!("ForkedFutureError")
);

create_exception!(flask_delay, QueueFull, PyRuntimeError, doc!("QueueFull"));

create_exception!(
    flask_delay,
    DuplicateTask,
    PyRuntimeError,
    doc!("DuplicateTask")
);

create_exception!(
    flask_delay,
    TaskTimeout,
    PyTimeoutError,
    doc!("TaskTimeout")
);

create_exception!(
    flask_delay,
    TaskExpired,
    PyTimeoutError,
    doc!("TaskExpired")
);

create_exception!(
    flask_delay,
    JournalUnavailable,
    PyRuntimeError,
    doc!("JournalUnavailable")
);

create_exception!(flask_delay, WorkerDied, PyRuntimeError, doc!("WorkerDied"));

create_exception!(
    flask_delay,
    ResultNotKept,
    PyRuntimeError,
    doc!("ResultNotKept")
);

create_exception!(
    flask_delay,
    StreamLagged,
    PyRuntimeError,
    doc!("StreamLagged")
);

create_exception!(flask_delay, TaskRetry, PyBaseException, doc!("TaskRetry"));

create_exception!(
    flask_delay,
    TaskInterrupted,
    PyBaseException,
    doc!("TaskInterrupted")
);

/// The error for a future that only its own process can settle.
#[cold]
pub(crate) fn forked(name: &str) -> PyErr {
    ForkedFutureError::new_err(format!(
        "task {name:?} was submitted before this process was forked and can only end in the \
         parent process; submit it again here"
    ))
}

/// The error for a submission with the id of another task.
#[cold]
pub(crate) fn id_is_taken(id: &impl Display) -> PyErr {
    DuplicateTask::new_err(format!(
        "there is a task with the id {:?} already: each needs one of its own, until the task has \
         been forgotten",
        id.to_string()
    ))
}

/// The message of a panic.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// An exception object for a future, from an error.
pub(crate) fn into_exception(py: Python<'_>, error: PyErr) -> Bound<'_, PyAny> {
    error.into_value(py).into_bound(py).into_any()
}

/// The error for a submission after shutdown.
#[cold]
pub(crate) fn closed() -> PyErr {
    PyRuntimeError::new_err("cannot schedule new futures after shutdown")
}

/// The error for tasks of a pool with a failed initializer.
pub(crate) fn broken() -> PyErr {
    BrokenThreadPool::new_err(
        "the pool's initializer raised an exception (see the log); no task can run in it",
    )
}

/// Reports an error that no caller can handle, as Python reports errors of destructors.
pub(crate) fn or_unraisable<T>(result: PyResult<()>, of: &Bound<'_, T>) {
    if let Err(error) = result {
        error.write_unraisable(of.py(), Some(of.as_any()));
    }
}
