//! gevent, if it is there: waits that let other greenlets run, and threads that end.
//!
//! What there is to do is Python's (`servers/gevent.py`). Without gevent it costs one look into
//! `sys.modules` for each wait, and for each thread that ends.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use crate::bindings::core::task::Task;

struct Hooks {
    wait: Py<PyAny>,
    leave: Py<PyAny>,
    modules: Py<PyDict>,
    /// What has been imported where gevent may have patched anything.
    monkey: Py<PyString>,
}

static HOOKS: PyOnceLock<Hooks> = PyOnceLock::new();

#[doc = doc!("_set_greenlet_hooks")]
#[pyfunction]
#[pyo3(signature = (*, wait, leave))]
pub(crate) fn _set_greenlet_hooks(
    py: Python<'_>,
    wait: Py<PyAny>,
    leave: Py<PyAny>,
) -> PyResult<()> {
    let hooks = Hooks {
        wait,
        leave,
        modules: py.import("sys")?.getattr("modules")?.cast_into()?.unbind(),
        monkey: PyString::intern(py, "gevent.monkey").unbind(),
    };
    let _ = HOOKS.set(py, hooks);
    Ok(())
}

fn hooks(py: Python<'_>) -> PyResult<Option<&Hooks>> {
    match HOOKS.get(py) {
        Some(hooks) if hooks.modules.bind(py).contains(&hooks.monkey)? => Ok(Some(hooks)),
        _ => Ok(None),
    }
}

/// Whether threads may run several greenlets: gevent has patched something.
pub(crate) fn are_there(py: Python<'_>) -> bool {
    let patched = || -> PyResult<bool> {
        let Some(hooks) = hooks(py)? else {
            return Ok(false);
        };
        let Some(monkey) = hooks.modules.bind(py).get_item(&hooks.monkey)? else {
            return Ok(false);
        };
        // The originals of what it has patched; to be imported is not enough.
        monkey.getattr("saved")?.is_truthy()
    };
    // Whoever cannot tell had better not interrupt it.
    patched().unwrap_or(true)
}

/// Waits until the future is done, at most `limit`, if other greenlets of this thread may
/// run meanwhile; whether it is. `None`: there are none, so nobody has waited.
pub(crate) fn wait(this: &Bound<'_, Task>, limit: Option<Duration>) -> PyResult<Option<bool>> {
    let py = this.py();
    match hooks(py)? {
        Some(hooks) => hooks
            .wait
            .bind(py)
            .call1((this, limit.map(|limit| limit.as_secs_f64())))?
            .extract(),
        None => Ok(None),
    }
}

/// Called on a worker's thread as the last thing in Python. What goes wrong is shown: nobody
/// else could be told.
pub(crate) fn leave(py: Python<'_>) {
    let left = hooks(py).and_then(|hooks| hooks.map_or(Ok(()), |it| it.leave.call0(py).map(drop)));
    if let Err(error) = left {
        error.write_unraisable(py, None);
    }
}
