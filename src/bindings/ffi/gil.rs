//! The GIL: letting other threads have it, and waiting without it.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// How often a blocked wait looks for Ctrl-C. A native condition variable goes on after a
/// signal, so nothing else would.
pub(crate) const SIGNALS: Duration = Duration::from_millis(50);

/// Calls `reached` with deadlines until it says yes (`true`) or `deadline` has passed.
/// Ctrl-C is noticed in between and ends the wait with its error.
pub(crate) fn wait_with_signals(
    py: Python<'_>,
    deadline: Option<Instant>,
    reached: impl Fn(Instant) -> bool + Sync,
) -> PyResult<bool> {
    loop {
        let now = Instant::now();
        let slice = deadline.map_or(now + SIGNALS, |deadline| deadline.min(now + SIGNALS));
        if py.detach(|| reached(slice)) {
            return Ok(true);
        }
        py.check_signals()?;
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
}

/// Lets another thread have the GIL if it wants it: entering a Python function makes the
/// interpreter look.
pub(crate) fn breathe(py: Python<'_>) -> PyResult<()> {
    static BREATHE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = BREATHE.get_or_try_init(py, || {
        py.eval(c"lambda: None", None, None).map(Bound::unbind)
    })?;
    function.call0(py).map(drop)
}
