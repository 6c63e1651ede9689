//! Fills every once-cell when the module is loaded.
//!
//! PyO3's once-cells release the GIL while they are filled. If another thread forks at that moment,
//! the cell stays half filled in the child, and a thread that needs it there waits forever. When
//! the module is loaded, no code can be affected yet.

use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::type_object::PyTypeInfo;
use pyo3::types::PyCFunction;

use crate::bindings::codec::json;
use crate::bindings::convert::to_datetime;
use crate::bindings::core::async_check::form_of;
use crate::bindings::core::frames;
use crate::bindings::core::progress;
use crate::bindings::core::stream;
use crate::bindings::core::task::CoroutineTask;
use crate::bindings::errors::{
    BrokenThreadPool, CancelledError, ForkedFutureError, InvalidStateError, WaitCycleError,
};
use crate::bindings::ffi::context;
use crate::bindings::ffi::gil;
use crate::bindings::names;
use crate::bindings::wait::current;
use crate::bindings::wait::stdlib::{self, Event};

/// Fills every once-cell of this module, and those of PyO3 that it uses.
pub(crate) fn up(py: Python<'_>) -> PyResult<()> {
    names::init(py);
    // Fails at interpreter exit, where PyO3 would panic.
    py.import("concurrent.futures.thread")?;
    for error in [
        BrokenThreadPool::new_err(()),
        CancelledError::new_err(()),
        ForkedFutureError::new_err(()),
        InvalidStateError::new_err(()),
        WaitCycleError::new_err(()),
    ] {
        error.value(py);
    }
    PanicException::type_object(py);
    py.get_type::<CoroutineTask>();
    py.get_type::<Event>();
    stdlib::condition(py)?;
    stdlib::condition_of_done(py)?;
    stdlib::telling(py, None)?;
    current::current_coroutine(py);
    progress::class(py)?;
    to_datetime(py, 1)?;
    gil::breathe(py)?;
    context::init(py)?;
    frames::init(py)?;
    stream::init(py)?;
    json::init(py)?;
    let any = PyCFunction::new_closure(py, None, None, |_, _| ())?;
    form_of(&any)?;
    // Neither a function nor a class, so that every check runs.
    form_of(py.None().bind(py))?;
    Ok(())
}
