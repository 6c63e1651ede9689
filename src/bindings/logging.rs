//! Into Python's `logging`: the engine's own lines through `log`, and what users must see.

use log::LevelFilter;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3_log::{Caching, Logger};

use super::future::{FutureCell, name_of};

const LOGGER: &str = "flask_delay";

/// Sends the engine's lines (threads that start and leave, at DEBUG) to Python's logging.
///
/// Only loggers are cached, not levels, so that a level set later counts at once; the
/// lines are few.
pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    let logger = Logger::new(py, Caching::Loggers)?.filter(LevelFilter::Debug);
    // An error means that a logger is set already: the module was loaded before.
    let _ = logger.install();
    Ok(())
}

/// Logs an exception that nobody else may ever see; `template` takes the task's name and id.
pub(crate) fn failure(
    py: Python<'_>,
    template: &str,
    this: &Bound<'_, FutureCell>,
    error: PyErr,
) {
    let exception = error.into_value(py).into_bound(py).into_any();
    exception_of(template, this, &exception);
}

/// As [`failure`], for an exception that is kept elsewhere too.
pub(crate) fn exception_of(
    template: &str,
    this: &Bound<'_, FutureCell>,
    exception: &Bound<'_, PyAny>,
) {
    let py = this.py();
    let id = this.get().quiet_id().hyphenated().to_string();
    let logged = (|| -> PyResult<()> {
        let options = pyo3::types::PyDict::new(py);
        options.set_item(intern!(py, "exc_info"), exception)?;
        let arguments = (template, name_of(this), id).into_pyobject(py)?;
        logger(py)?.call_method(intern!(py, "error"), arguments, Some(&options))?;
        Ok(())
    })();
    if let Err(error) = logged {
        error.write_unraisable(py, Some(this.as_any()));
    }
}

/// Logs why the pool `name` cannot run anything.
pub(crate) fn initializer_failed(py: Python<'_>, name: &str, exception: &Bound<'_, PyAny>) {
    let logged = (|| -> PyResult<()> {
        let options = pyo3::types::PyDict::new(py);
        options.set_item(intern!(py, "exc_info"), exception)?;
        let arguments = ("the initializer of pool %s raised", name).into_pyobject(py)?;
        logger(py)?.call_method(intern!(py, "critical"), arguments, Some(&options))?;
        Ok(())
    })();
    if let Err(error) = logged {
        error.write_unraisable(py, None);
    }
}

/// Logs `message % arguments` at `level`, a method's name.
pub(crate) fn say(py: Python<'_>, level: &str, message: &str, arguments: &Bound<'_, PyTuple>) {
    let logged = (|| -> PyResult<()> {
        let mut all = vec![message.into_pyobject(py)?.into_any()];
        all.extend(arguments.iter());
        logger(py)?.call_method1(level, PyTuple::new(py, all)?)?;
        Ok(())
    })();
    if let Err(error) = logged {
        error.write_unraisable(py, None);
    }
}

fn logger(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import(intern!(py, "logging"))?
        .call_method1(intern!(py, "getLogger"), (intern!(py, LOGGER),))
}
