//! Decides whether a thread may be interrupted, by the frames of its stack.
//!
//! The standard library takes locks in Python code: `logging` its handlers' in `acquire`, a
//! `Condition` its own in `__enter__`. An exception between the instruction that takes such a lock
//! and the block that releases it leaves the lock taken. Every thread that logs would block from
//! then on. So none is set while a frame of such a module is on the stack of the call, at any
//! depth. A handler that calls a user's formatter has its lock too.
//!
//! The exception is raised at the next instruction at which the interpreter checks. That is in a
//! frame on the stack, or at the first instruction of a function that it calls, before that has
//! taken anything. With the GIL no thread moves between the check here and the setting.
//! Without a GIL the frames of a running thread cannot be read: nothing is checked, and the
//! exception may come anywhere.
//!
//! Some places in these modules, where threads sleep, are written to allow an exception: see
//! [`Stacks`]. They are no obstacle.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

use crate::bindings::ffi::cpython::Stacks;
use crate::bindings::ffi::interrupt::ThreadId;
use crate::bindings::names;

/// Packages and modules with code that takes and releases locks in separate steps.
const LOCKING: [&str; 11] = [
    "_frozen_importlib",
    "_frozen_importlib_external",
    "_weakrefset",
    "concurrent",
    "importlib",
    "logging",
    "multiprocessing",
    "queue",
    "tempfile",
    "threading",
    "weakref",
];

/// Such modules inside other packages.
const LOCKING_TOO: [&str; 2] = ["http.cookiejar", "zipimport"];

/// This package's own code, in the innermost frame; the examples are excepted.
const OURS: &str = "flask_delay";
const EXAMPLES: &str = "flask_delay.demo";
/// Also excepted: the waits for a worker process and for a group of tasks, which are written to
/// allow an exception.
const WAITING: [&str; 2] = ["flask_delay.backends.processes.child", "flask_delay.bells"];

struct Tools {
    stacks: Stacks,
    gc: Gc,
}

static TOOLS: PyOnceLock<Tools> = PyOnceLock::new();

/// Called once, when the module is loaded.
pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    let new = || {
        PyResult::Ok(Tools {
            stacks: Stacks::new(py)?,
            gc: Gc::new(py)?,
        })
    };
    TOOLS.get_or_try_init(py, new).map(drop)
}

/// The address of the calling frame; 0 if there is none.
pub(crate) fn caller(py: Python<'_>) -> usize {
    let tools = TOOLS.get(py);
    let frame = tools.and_then(|tools| tools.stacks.caller(py).ok());
    frame.map_or(0, |frame| frame.as_ptr() as usize)
}

/// Whether an exception may be set for `thread` now, for a call made by the frame at the address
/// `floor`, or by none. The caller releases the GIL only after it has set it.
///
/// This runs no Python code but audit hooks, and those before the check.
pub(crate) fn may_interrupt(py: Python<'_>, thread: ThreadId, floor: usize) -> bool {
    if cfg!(Py_GIL_DISABLED) {
        return true;
    }
    let Some(tools) = TOOLS.get(py) else {
        return true;
    };
    // Up to 3.11 the collector, and with it user code, may run at any allocation.
    let _off = tools.gc.off(py);
    is_free(py, tools, thread, floor).unwrap_or(false)
}

fn is_free(py: Python<'_>, tools: &Tools, thread: ThreadId, floor: usize) -> PyResult<bool> {
    let mut next = tools.stacks.innermost(py, thread)?;
    let mut innermost = true;
    let mut asleep = false;
    while let Some(frame) = next.filter(|frame| !frame.is_none()) {
        if frame.as_ptr() as usize == floor {
            break;
        }
        let globals = frame.getattr(names::f_globals(py))?;
        let module = globals
            .cast::<PyDict>()?
            .get_item(names::__name__(py))?
            .and_then(|name| name.cast_into::<PyString>().ok());
        match module.as_ref().and_then(|name| name.to_str().ok()) {
            Some(module) if is_locking(module) => {
                let code = frame.getattr(names::f_code(py))?;
                asleep = if innermost {
                    tools.stacks.is_in_bed(&frame, &code)?
                } else {
                    asleep && tools.stacks.is_sleeper(&code)
                };
                if !asleep {
                    return Ok(false);
                }
            }
            Some(module) if innermost && is_ours(module) => return Ok(false),
            _ => asleep = false,
        }
        innermost = false;
        next = Some(frame.getattr(names::f_back(py))?);
    }
    Ok(true)
}

fn is_locking(module: &str) -> bool {
    let top = module.split('.').next().unwrap_or(module);
    LOCKING.contains(&top) || LOCKING_TOO.contains(&module)
}

fn is_ours(module: &str) -> bool {
    let is_in = |package: &str| {
        let rest = module.strip_prefix(package);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    is_in(OURS) && !is_in(EXAMPLES) && !WAITING.into_iter().any(is_in)
}

/// The garbage collector, in versions where it may run inside C code.
#[cfg(not(Py_3_12))]
struct Gc {
    is_enabled: Py<PyAny>,
    disable: Py<PyAny>,
    enable: Py<PyAny>,
}

#[cfg(not(Py_3_12))]
impl Gc {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let gc = py.import("gc")?;
        Ok(Self {
            is_enabled: gc.getattr("isenabled")?.unbind(),
            disable: gc.getattr("disable")?.unbind(),
            enable: gc.getattr("enable")?.unbind(),
        })
    }

    /// Switches it off until the guard is dropped, if it is on.
    fn off<'a>(&'a self, py: Python<'a>) -> Option<GcIsOff<'a>> {
        let enabled = self.is_enabled.bind(py).call0();
        if !enabled.and_then(|it| it.is_truthy()).unwrap_or(false) {
            return None;
        }
        self.disable.bind(py).call0().ok()?;
        Some(GcIsOff(self.enable.bind(py)))
    }
}

#[cfg(not(Py_3_12))]
struct GcIsOff<'a>(&'a Bound<'a, PyAny>);

#[cfg(not(Py_3_12))]
impl Drop for GcIsOff<'_> {
    fn drop(&mut self) {
        // `gc.enable` cannot fail.
        let _ = self.0.call0();
    }
}

#[cfg(Py_3_12)]
struct Gc;

#[cfg(Py_3_12)]
impl Gc {
    #[expect(clippy::unnecessary_wraps, reason = "as the other one")]
    fn new(_py: Python<'_>) -> PyResult<Self> {
        Ok(Self)
    }

    #[expect(clippy::unused_self, reason = "as the other one")]
    fn off(&self, _py: Python<'_>) -> GcIsOff {
        GcIsOff
    }
}

#[cfg(Py_3_12)]
struct GcIsOff;
