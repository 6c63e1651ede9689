//! gevent: waits that let other greenlets run, and cleanup when a thread ends.
//!
//! The Python side is `servers/gevent.py`. Without gevent, each wait and each thread that ends
//! costs one lookup in `sys.modules`.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

struct Hooks {
    wait: Py<PyAny>,
    leave: Py<PyAny>,
    modules: Py<PyDict>,
    /// The module that is imported when gevent has patched anything.
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

/// Whether gevent has patched something, so that threads may run several greenlets.
pub(crate) fn are_there(py: Python<'_>) -> bool {
    let patched = || -> PyResult<bool> {
        let Some(hooks) = hooks(py)? else {
            return Ok(false);
        };
        let Some(monkey) = hooks.modules.bind(py).get_item(&hooks.monkey)? else {
            return Ok(false);
        };
        // An import alone does not count: look for the saved originals.
        monkey.getattr("saved")?.is_truthy()
    };
    // If in doubt, do not interrupt.
    patched().unwrap_or(true)
}

/// Waits up to `limit` for a future, or for a stream's next item, while other greenlets of this
/// thread run; returns whether it is there. `None` without greenlets: no wait took place.
pub(crate) fn wait(this: &Bound<'_, PyAny>, limit: Option<Duration>) -> PyResult<Option<bool>> {
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

/// The last Python call of a worker's thread. Errors are printed: there is no caller to raise to.
pub(crate) fn leave(py: Python<'_>) {
    let left = hooks(py).and_then(|hooks| hooks.map_or(Ok(()), |it| it.leave.call0(py).map(drop)));
    if let Err(error) = left {
        error.write_unraisable(py, None);
    }
}
