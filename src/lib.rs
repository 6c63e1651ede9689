//! `flask_delay._native`: background tasks for Flask on Rust-managed threads.
//!
//! Exports only. `python/flask_delay/_native.pyi` describes the Python side.
#![deny(unsafe_code)]

// `doc!`: the stub's docstring of a name. Made by build.rs; included before the modules that use
// it.
include!(concat!(env!("OUT_DIR"), "/docs.rs"));

mod bindings;

use pyo3::prelude::*;

/// The native module of `flask_delay`.
///
/// It does not need the GIL: classes are frozen, and their changing parts are atomic or behind our
/// own locks. References are read by the rules of [`bindings::ffi::slot`].
#[pymodule(gil_used = false)]
mod _native {
    use pyo3::exceptions::PyImportError;
    use pyo3::prelude::*;
    use pyo3::types::{PyDict, PyTuple, PyType};

    #[pymodule_export]
    use crate::bindings::api::compose::{_check_step, _gather};
    #[pymodule_export]
    use crate::bindings::api::event_log::EventLog;
    #[pymodule_export]
    use crate::bindings::api::executor::{_scoped_executor, _service_executor, _set_method};
    #[pymodule_export]
    use crate::bindings::api::journal::{
        _journal_backup, _journal_check, _journal_inspect, _journal_salvage, Journal,
    };
    #[pymodule_export]
    use crate::bindings::api::periodic::{Rhythm, Ticker};
    #[pymodule_export]
    use crate::bindings::api::recorder::_events_counted;
    #[pymodule_export]
    use crate::bindings::api::schedule::Schedule;
    #[pymodule_export]
    use crate::bindings::api::stream::Stream;
    #[pymodule_export]
    use crate::bindings::codec::json::{
        _journal_decode, _journal_decode_call, _journal_encode, _journal_encode_call,
    };
    #[pymodule_export]
    use crate::bindings::core::async_check::{_check_callback, _check_function};
    #[pymodule_export]
    use crate::bindings::core::options::Policy;
    #[pymodule_export]
    use crate::bindings::core::signature::_check_call;
    #[pymodule_export]
    use crate::bindings::core::task::CoroutineTask;
    #[pymodule_export]
    use crate::bindings::errors::{
        DuplicateTask, ForkedFutureError, JournalUnavailable, QueueFull, ResultNotKept,
        StreamLagged, TaskExpired, TaskInterrupted, TaskRetry, TaskTimeout, WaitCycleError,
        WorkerDied,
    };
    #[pymodule_export]
    use crate::bindings::host::event_loop::_set_hooks;
    #[pymodule_export]
    use crate::bindings::host::gevent::_set_greenlet_hooks;
    #[pymodule_export]
    use crate::bindings::host::logging::logger;
    #[pymodule_export]
    use crate::bindings::host::signals::_subscribe_signals;
    #[pymodule_export]
    use crate::bindings::process::exit::{_end, _end_within, _is_exiting};
    #[pymodule_export]
    use crate::bindings::run::kept::Step;
    #[pymodule_export]
    use crate::bindings::run::remote::RemoteTask;
    #[pymodule_export]
    use crate::bindings::wait::result::Waiting;

    use crate::bindings::api::current_task::CurrentTask as CurrentTaskCell;
    use crate::bindings::api::{executor, future, journal, schedule, submit_method};
    use crate::bindings::core::executor::ExecutorCell;
    use crate::bindings::core::progress;
    use crate::bindings::core::task::{self, Task};
    use crate::bindings::ffi;
    use crate::bindings::host::logging;
    use crate::bindings::process::{exit, init, last_exit};

    /// A Python class derived from the native one and from that of the standard library, so that
    /// `isinstance` holds.
    fn derive<'py>(
        name: &str,
        native: Bound<'py, PyType>,
        standard: &str,
    ) -> PyResult<Bound<'py, PyType>> {
        let py = native.py();
        let standard = py.import("concurrent.futures")?.getattr(standard)?;
        let body = PyDict::new(py);
        body.set_item("__module__", "flask_delay")?;
        body.set_item("__doc__", native.getattr("__doc__")?)?;
        let bases = PyTuple::new(py, [native.as_any(), &standard])?;
        Ok(py
            .get_type::<PyType>()
            .call1((name, bases, body))?
            .cast_into::<PyType>()?)
    }

    #[doc = doc!("_generation")]
    #[pyfunction]
    fn _generation() -> u32 {
        ffi::fork::generation()
    }

    /// Our threads run in the main interpreter: in another one, a submission or the interpreter's
    /// end would wait forever.
    fn refuse_subinterpreter(py: Python<'_>) -> PyResult<()> {
        if ffi::interrupt::is_main_interpreter(py) {
            return Ok(());
        }
        Err(PyImportError::new_err(
            "flask_delay cannot be used in a subinterpreter, because its threads run in the main \
             interpreter; under mod_wsgi, which makes one for each application, have yours run in \
             the main one: WSGIApplicationGroup %{GLOBAL}",
        ))
    }

    #[doc = doc!("_tie")]
    #[pyfunction]
    fn _tie(parent: i32, lifeline: i32, connection: i32) -> PyResult<()> {
        Ok(ffi::parent::tie(parent, lifeline, connection)?)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        refuse_subinterpreter(py)?;
        ffi::fork::watch(py)?;
        logging::init(py)?;
        let future_class = derive("Future", py.get_type::<Task>(), "Future")?;
        task::set_class(&future_class)?;
        let native = py.get_type::<ExecutorCell>();
        submit_method::add(py)?;
        future::add_methods(py)?;
        journal::add(py)?;
        schedule::add(py)?;
        let executor = derive("Executor", native, "Executor")?;
        executor::set_class(&executor);
        init::up(py)?;
        exit::register(py)?;
        last_exit::register()?;
        module.add("Future", future_class)?;
        module.add("Executor", executor)?;
        module.add("Progress", progress::class(py)?)?;
        module.add("CurrentTask", py.get_type::<CurrentTaskCell>())?;
        module.add("current_task", Bound::new(py, CurrentTaskCell)?)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
