//! The GIL: yielding it to other threads, and waiting without it.

use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// How often a blocked wait checks for Ctrl-C: a native condition variable continues after a
/// signal.
pub(crate) const SIGNALS: Duration = Duration::from_millis(50);

/// Calls `reached` with short deadlines until it returns `true` or `deadline` has passed. Ctrl-C
/// ends the wait with its error.
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

/// Yields the GIL to a thread that wants it: entering a Python function makes the interpreter
/// check.
pub(crate) fn breathe(py: Python<'_>) -> PyResult<()> {
    static BREATHE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = BREATHE.get_or_try_init(py, || {
        py.eval(c"lambda: None", None, None).map(Bound::unbind)
    })?;
    function.call0(py).map(drop)
}
