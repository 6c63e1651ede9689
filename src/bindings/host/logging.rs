//! Messages to Python's `logging`, including the engine's own through `log`.

use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;
use pyo3::types::PyString;
use pyo3_log::{Caching, Logger};

use crate::bindings::core::task::{Task, name_of};
use crate::bindings::errors::into_exception;
use crate::bindings::ffi::attach::attach;
use crate::bindings::ffi::call::call_named;
use crate::bindings::names;

/// Sends the engine's messages (threads that start and end, at DEBUG) to Python's logging.
///
/// Caches only loggers, not levels, so that a level set later takes effect.
pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    let logger = Bridge(Logger::new(py, Caching::Loggers)?.filter(LevelFilter::Debug));
    // An error means that the module was loaded before and has set the logger.
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(LevelFilter::Debug);
    }
    Ok(())
}

/// Clears the exception of a handler that raises: the next C call would report it as its own.
struct Bridge(Logger);

impl Log for Bridge {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // `None` when the interpreter is gone.
        attach(|py| {
            let current = PyErr::take(py);
            self.0.log(record);
            if let Some(error) = PyErr::take(py) {
                error.write_unraisable(py, None);
            }
            if let Some(current) = current {
                current.restore(py);
            }
        });
    }

    fn flush(&self) {}
}

/// Logs an exception that is reported nowhere else; `template` takes the task's name and id.
pub(crate) fn failure(py: Python<'_>, template: &str, this: &Bound<'_, Task>, error: PyErr) {
    let exception = into_exception(py, error);
    exception_of(template, this, &exception);
}

/// As [`failure`], for an exception that is also kept elsewhere.
pub(crate) fn exception_of(template: &str, this: &Bound<'_, Task>, exception: &Bound<'_, PyAny>) {
    let py = this.py();
    let id = this.get().quiet_id().to_string();
    or_unraisable(
        py,
        log(
            py,
            "error",
            template,
            &[&name_of(this), &id],
            Some(exception),
        ),
    );
}

/// Logs why the pool `name` cannot run tasks.
pub(crate) fn initializer_failed(py: Python<'_>, name: &str, exception: &Bound<'_, PyAny>) {
    let template = "the initializer of pool %s raised";
    or_unraisable(py, log(py, "critical", template, &[name], Some(exception)));
}

/// Logs that the process which ran a durable task has died.
pub(crate) fn process_died(this: &Bound<'_, Task>, exception: &Bound<'_, PyAny>) {
    let py = this.py();
    let id = this.get().quiet_id().to_string();
    let template = "the worker process of task %s (%s) died";
    let arguments: [&str; 2] = [&name_of(this), &id];
    or_unraisable(
        py,
        log(py, "warning", template, &arguments, Some(exception)),
    );
}

/// Logs a failed attempt that a retry follows.
pub(crate) fn runs_again(
    this: &Bound<'_, Task>,
    after: Duration,
    exception: Option<&Bound<'_, PyAny>>,
) {
    let py = this.py();
    let id = this.get().quiet_id().to_string();
    let after = format!("{:.3}", after.as_secs_f64());
    let (level, template) = if exception.is_some() {
        ("warning", "task %s (%s) failed and runs again in %s s")
    } else {
        ("info", "task %s (%s) asked to run again in %s s")
    };
    let arguments: [&str; 3] = [&name_of(this), &id, &after];
    or_unraisable(py, log(py, level, template, &arguments, exception));
}

pub(crate) fn warning_of(template: &str, this: &Bound<'_, Task>) {
    let id = this.get().quiet_id().to_string();
    warning(this.py(), template, &[&name_of(this), &id]);
}

pub(crate) fn warning(py: Python<'_>, template: &str, arguments: &[&str]) {
    or_unraisable(py, log(py, "warning", template, arguments, None));
}

/// Logs a text as it is.
pub(crate) fn plain(py: Python<'_>, level: log::Level, text: &str) {
    let level = match level {
        log::Level::Error => "error",
        log::Level::Warn => "warning",
        log::Level::Info => "info",
        log::Level::Debug | log::Level::Trace => "debug",
    };
    or_unraisable(py, log(py, level, "%s", &[text], None));
}

fn log(
    py: Python<'_>,
    level: &str,
    template: &str,
    arguments: &[&str],
    exception: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let method = logger(py)?.getattr(level)?;
    let texts: Vec<_> = [template]
        .iter()
        .chain(arguments)
        .map(|text| PyString::new(py, text).into_any())
        .collect();
    let texts: Vec<_> = texts.iter().collect();
    let none = py.None().into_bound(py);
    let exception = exception.unwrap_or(&none);
    call_named(&method, &texts, names::exc_info(py), exception).map(drop)
}

#[doc = doc!("_logger")]
#[pyfunction(name = "_logger")]
pub(crate) fn logger(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let logger = py
        .import(names::logging(py))?
        .call_method1("getLogger", (names::flask_delay(py),))?;
    // `dictConfig` disables loggers that it does not name, unless told otherwise. To silence this
    // one there are levels, filters and a setting.
    if logger.getattr("disabled")?.is_truthy()? {
        logger.setattr("disabled", false)?;
    }
    Ok(logger)
}

/// An error in logging must not end the task or the worker.
fn or_unraisable(py: Python<'_>, logged: PyResult<()>) {
    if let Err(error) = logged {
        error.write_unraisable(py, None);
    }
}
