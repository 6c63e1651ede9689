//! The native half of `Executor`. Submission is in [`crate::bindings::run::submit`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flask_delay_engine::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::recorder;
use crate::bindings::convert::seconds;
use crate::bindings::core::async_check::{check_callback, refuse_unrun};
use crate::bindings::core::events::Signals;
use crate::bindings::core::executor::{Core, ExecutorCell, Inner, Runner, Scope, Scoped};
use crate::bindings::core::id::Id;
use crate::bindings::core::samples::Row;
use crate::bindings::core::settings::{self, Backpressure, Mode, Settings, WhenFull};
use crate::bindings::core::task::Task;
use crate::bindings::errors::WaitCycleError;
use crate::bindings::ffi::gil::wait_with_signals;
use crate::bindings::process::exit::{self, cancel_queued};
use crate::bindings::run::{durable, inline};
use crate::bindings::sched::{dependents, dispatch, sampling};
use crate::bindings::wait::current;

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.close();
        if self.core.mode == Mode::Manual {
            // No thread can run them any more.
            Python::try_attach(|py| cancel_queued(py, &self.core, |_| {}));
        }
        // No code can ask for them any more, and they keep the core alive, which keeps them.
        self.core.registry.clear();
        if let Some(recorder) = self.core.recorder() {
            recorder.clear();
        }
    }
}

/// The upper floors' functions that the floors below call.
static RUNNER: Runner = Runner {
    begin: exit::add,
    work: exit::work,
    run_here: inline::run,
    release: dispatch::let_go,
    follow: dependents::go_on,
    sample: sampling::touch,
    deliver: durable::deliver,
};

impl ExecutorCell {
    pub(crate) fn set(&self, settings: Settings, scoped: Option<Scoped>) -> PyResult<()> {
        let core = Core::new(settings, &RUNNER);
        let inner = Arc::new(Inner {
            core,
            scoped,
            defaults: Mutex::default(),
            has_defaults: AtomicBool::new(false),
        });
        inner.core.set_executor(&inner);
        self.0
            .set(inner)
            .map_err(|_| PyRuntimeError::new_err("this executor is initialised already"))
    }
}

#[pymethods]
impl ExecutorCell {
    #[new]
    #[pyo3(
        signature = (*_args, **_kwargs),
        text_signature = "(max_workers=None, thread_name_prefix='', initializer=None, initargs=(), *, queue_size=0, when_full='block', block_timeout=None, idle_timeout=60.0)"
    )]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // Set up in `__init__`, so that a subclass may have a signature of its own.
        Self::default()
    }

    #[pyo3(signature = (max_workers = None, thread_name_prefix = "", initializer = None, initargs = None, *, queue_size = None, when_full = "block", block_timeout = None, idle_timeout = 60.0))]
    #[expect(clippy::too_many_arguments, reason = "most of them named")]
    fn __init__(
        &self,
        py: Python<'_>,
        max_workers: Option<Bound<'_, PyAny>>,
        thread_name_prefix: &str,
        initializer: Option<Bound<'_, PyAny>>,
        initargs: Option<Bound<'_, PyTuple>>,
        queue_size: Option<Bound<'_, PyAny>>,
        when_full: &str,
        block_timeout: Option<f64>,
        idle_timeout: f64,
    ) -> PyResult<()> {
        let initializer = match initializer {
            Some(initializer) if !initializer.is_callable() => {
                return Err(PyTypeError::new_err(format!(
                    "initializer must be callable, got {}",
                    initializer.repr()?
                )));
            }
            Some(initializer) => {
                refuse_unrun(
                    &initializer,
                    "the initializer",
                    "give one that does its work when it is called",
                )?;
                let arguments = initargs.unwrap_or_else(|| PyTuple::empty(py));
                Some((initializer.unbind(), arguments.unbind()))
            }
            None => None,
        };
        let max_workers = max_workers
            .map(|count| settings::max_workers(&count))
            .transpose()?;
        let idle_timeout = Duration::try_from_secs_f64(idle_timeout)
            .ok()
            .or((idle_timeout == f64::INFINITY).then_some(Duration::MAX))
            .filter(|timeout| !timeout.is_zero())
            .ok_or_else(|| {
                PyValueError::new_err(format!(
                    "idle_timeout must be a number of seconds above 0, got {idle_timeout}"
                ))
            })?;
        let queue_size = queue_size.map_or(Ok(0), |size| settings::queue_size(&size))?;
        let settings = Settings {
            initializer,
            backpressure: Backpressure {
                queue_size,
                when_full: WhenFull::parse(when_full)?,
                block_timeout: settings::block_timeout(block_timeout)?,
            },
            ..Settings::new(py, max_workers, thread_name_prefix, idle_timeout)?
        };
        self.set(settings, None)
    }

    #[doc = doc!("Executor.shutdown")]
    #[pyo3(signature = (wait = true, *, cancel_futures = false))]
    fn shutdown(&self, py: Python<'_>, wait: bool, cancel_futures: bool) -> PyResult<()> {
        let core = self.core()?;
        core.close();
        if cancel_futures {
            let_begin(py, core);
            core.set_cancelling();
            cancel_queued(py, core, |_| {});
        }
        if !wait {
            return Ok(());
        }
        if core.mode == Mode::Manual {
            inline::run_pending(py, core, usize::MAX)?;
        }
        if current::is_worker_of(core) {
            return Err(WaitCycleError::new_err(
                "a task cannot wait for the end of its own pool; call shutdown(wait=False)",
            ));
        }
        wait_with_signals(py, None, |slice| core.pool().join(Some(slice))).map(drop)
    }

    #[doc = doc!("Executor.drain")]
    #[pyo3(signature = (timeout = None))]
    fn drain(&self, py: Python<'_>, timeout: Option<Bound<'_, PyAny>>) -> PyResult<bool> {
        let core = self.core()?;
        if current::is_worker_of(core) {
            return Err(WaitCycleError::new_err(
                "a task cannot wait until its own pool has nothing left to do",
            ));
        }
        if core.mode == Mode::Manual {
            inline::run_pending(py, core, usize::MAX)?;
        }
        let deadline = match timeout {
            Some(timeout) => {
                let timeout = Duration::try_from_secs_f64(seconds(&timeout)?).ok();
                timeout.and_then(|timeout| Instant::now().checked_add(timeout))
            }
            None => None,
        };
        wait_with_signals(py, deadline, |slice| core.pool().wait_quiet(Some(slice)))
    }

    #[doc = doc!("Executor.run_pending")]
    #[pyo3(signature = (n = None))]
    fn run_pending(&self, py: Python<'_>, n: Option<usize>) -> PyResult<usize> {
        inline::run_pending(py, self.core()?, n.unwrap_or(usize::MAX))
    }

    #[doc = doc!("Executor.stats")]
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = self.core()?;
        let dict = counts(py, core)?;
        if let Some(figures) = core.figures() {
            figures.tell(&dict)?;
        }
        Ok(dict)
    }

    #[doc = doc!("Executor._now")]
    fn _now<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        counts(py, self.core()?)
    }

    #[doc = doc!("Executor._figures")]
    fn _figures<'py>(&self, py: Python<'py>, bounds: Vec<f64>) -> PyResult<Bound<'py, PyDict>> {
        match self.core()?.figures() {
            Some(figures) => figures.export(py, &bounds),
            None => Ok(PyDict::new(py)),
        }
    }

    #[doc = doc!("Executor._sample")]
    fn _sample(&self) -> PyResult<()> {
        self.core()?.set_sampled();
        Ok(())
    }

    #[doc = doc!("Executor._samples")]
    fn _samples(&self, step: u64) -> PyResult<Vec<Row>> {
        Ok(sampling::read(self.core()?, step))
    }

    #[doc = doc!("Executor._minutes")]
    fn _minutes(&self) -> PyResult<Vec<(String, Vec<u32>)>> {
        Ok(sampling::minutes(self.core()?))
    }

    #[doc = doc!("Executor._record")]
    fn _record(&self) -> PyResult<()> {
        self.core()?.set_recorded();
        Ok(())
    }

    #[doc = doc!("Executor._running")]
    fn _running<'py>(&self, py: Python<'py>) -> PyResult<Vec<recorder::Run<'py>>> {
        Ok(recorder::running(py, self.core()?))
    }

    #[doc = doc!("Executor._waiting")]
    fn _waiting<'py>(&self, py: Python<'py>, most: usize) -> PyResult<Vec<Bound<'py, Task>>> {
        Ok(recorder::waiting(py, self.core()?, most))
    }

    #[doc = doc!("Executor._find")]
    fn _find<'py>(
        &self,
        py: Python<'py>,
        id: &str,
        most: usize,
    ) -> PyResult<Option<Bound<'py, Task>>> {
        Ok(recorder::find(py, self.core()?, &Id::new(id), most))
    }

    #[doc = doc!("Executor._notes")]
    fn _notes(&self, id: &str) -> PyResult<Vec<(u64, &'static str, String)>> {
        Ok(recorder::notes(self.core()?, &Id::new(id)))
    }

    #[doc = doc!("Executor._ended")]
    fn _ended<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        recorder::ended(py, self.core()?)
    }

    #[doc = doc!("Executor._has")]
    fn _has(&self, future: &Bound<'_, Task>) -> PyResult<bool> {
        let core = self.core()?;
        Ok(future
            .get()
            .core()
            .is_some_and(|own| Arc::ptr_eq(own, core)))
    }

    #[doc = doc!("Executor.add_default_done_callback")]
    fn add_default_done_callback(&self, r#fn: Bound<'_, PyAny>) -> PyResult<()> {
        check_callback(&r#fn)?;
        let inner = self.inner()?;
        inner.defaults.lock().push(r#fn.unbind());
        inner.has_defaults.store(true, Ordering::Relaxed);
        Ok(())
    }

    #[doc = doc!("Executor._get")]
    fn _get<'py>(
        &self,
        py: Python<'py>,
        id: &Bound<'py, PyString>,
    ) -> PyResult<Option<Bound<'py, Task>>> {
        let core = self.core()?;
        Ok(id.to_str().ok().and_then(|id| core.registry.get(py, id)))
    }

    #[doc = doc!("Executor._is_gone")]
    fn _is_gone(&self, id: &Bound<'_, PyString>) -> PyResult<bool> {
        let core = self.core()?;
        Ok(id.to_str().is_ok_and(|id| core.registry.is_gone(id)))
    }

    /// Libraries that divide work among threads (dask) read this of any executor.
    #[getter]
    fn _max_workers(&self) -> PyResult<usize> {
        Ok(self.core()?.max_workers())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let class = slf.get_type().qualname()?;
        let Some(inner) = slf.get().0.get() else {
            return Ok(format!("<{class}: not initialised>"));
        };
        let stats = inner.core.pool().stats();
        Ok(format!(
            "<{class} {} threads={} queued={}>",
            inner.core.name(),
            stats.threads,
            stats.queued
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(inner) = self.0.get() else {
            return Ok(());
        };
        if let Some(scoped) = &inner.scoped {
            scoped.scope.visit(&visit)?;
            visit.call(&scoped.reject_types)?;
            visit.call(&scoped.reject)?;
            visit.call(&scoped.uploads)?;
            visit.call(&scoped.step)?;
        }
        // If another thread holds the lock, nothing is visited this time, so nothing is freed too
        // early.
        if let Some(defaults) = inner.defaults.try_lock() {
            for callback in defaults.iter() {
                visit.call(callback)?;
            }
        }
        // Visited only while nothing else, such as a pending task, needs the core. Code that takes
        // or drops a reference to the core is attached, so the count is the same throughout one
        // collection.
        if Arc::strong_count(&inner.core) == 1
            && let Some(initializer) = inner.core.initializer.try_lock()
            && let Some((function, arguments)) = initializer.as_ref()
        {
            visit.call(function)?;
            visit.call(arguments)?;
        }
        inner.core.registry.visit(&visit)
    }

    fn __clear__(&self) {
        let Some(inner) = self.0.get() else {
            return;
        };
        // The scope stays: pending futures have their own reference to it, and its own references
        // are cleared in turn.
        let defaults = std::mem::take(&mut *inner.defaults.lock());
        drop(defaults);
        if Arc::strong_count(&inner.core) == 1 {
            let initializer = inner.core.initializer.lock().take();
            drop(initializer);
        }
        inner.core.registry.clear();
    }
}

/// Counts of tasks and workers.
fn counts<'py>(py: Python<'py>, core: &Arc<Core>) -> PyResult<Bound<'py, PyDict>> {
    let stats = core.pool().stats();
    let dict = PyDict::new(py);
    let uncounted = core.uncounted().get();
    dict.set_item("queued", stats.queued.saturating_sub(uncounted))?;
    let running = stats.threads.saturating_sub(stats.idle + stats.waiting);
    dict.set_item("running", running)?;
    dict.set_item("waiting", stats.waiting)?;
    dict.set_item("idle", stats.idle)?;
    dict.set_item("threads", stats.threads)?;
    dict.set_item("held", core.held().len())?;
    dict.set_item("stuck", core.stuck().count())?;
    Ok(dict)
}

/// Waits briefly until a thread that was started for a task has begun one.
///
/// It may not have had the GIL since the submission, and "cancel what has not started" would then
/// cancel all. Python's own pool waits for its threads to start in `submit`.
fn let_begin(py: Python<'_>, core: &Arc<Core>) {
    let deadline = Instant::now() + BEGIN;
    while Instant::now() < deadline {
        let stats = core.pool().stats();
        let begun = || core.slots().iter().any(|slot| slot.task(py).is_some());
        if stats.queued == 0 || stats.threads == 0 || begun() {
            return;
        }
        py.detach(|| std::thread::sleep(POLL));
    }
}

/// How long `shutdown` waits for a starting thread to begin a task, and how often it checks. With a
/// slower initializer the tasks have indeed not started.
const BEGIN: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_micros(500);

/// Idle workers of a `Delay` executor end after this time.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// The class of the executors that are made here.
static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();

#[doc = doc!("_service_executor")]
#[pyfunction]
pub(crate) fn _service_executor<'py>(
    py: Python<'py>,
    thread_name_prefix: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let settings = Settings {
        service: true,
        ..Settings::new(py, Some(1), thread_name_prefix, IDLE_TIMEOUT)?
    };
    make(py, settings, None)
}

fn make(py: Python<'_>, settings: Settings, scoped: Option<Scoped>) -> PyResult<Bound<'_, PyAny>> {
    let class = class(py)?;
    let executor = class.call_method1("__new__", (class,))?;
    executor
        .cast::<ExecutorCell>()?
        .get()
        .set(settings, scoped)?;
    Ok(executor)
}

fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let class = CLASS.get(py).map(|class| class.bind(py));
    class.ok_or_else(|| PyRuntimeError::new_err("the executor class is not set"))
}

/// Sets the class of scoped executors.
pub(crate) fn set_class(class: &Bound<'_, PyType>) {
    let _ = CLASS.set(class.py(), class.clone().unbind());
}

#[doc = doc!("_set_method")]
#[pyfunction]
pub(crate) fn _set_method(name: &str, function: &Bound<'_, PyAny>) -> PyResult<()> {
    let text = match name {
        "map" => doc!("Executor.map"),
        _ => doc!("Executor.group"),
    };
    function.setattr("__doc__", text)?;
    function.setattr("__module__", "flask_delay")?;
    function.setattr("__name__", name)?;
    function.setattr("__qualname__", format!("Executor.{name}"))?;
    class(function.py())?.setattr(name, function)
}

#[doc = doc!("_scoped_executor")]
#[pyfunction]
#[pyo3(signature = (*, scope, max_workers, thread_name_prefix, **settings))]
pub(crate) fn _scoped_executor<'py>(
    py: Python<'py>,
    scope: Bound<'py, PyAny>,
    max_workers: Option<i64>,
    thread_name_prefix: &str,
    settings: Option<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let (scope, scope_method) = Scope::new(&scope)?;
    let mut scoped = Scoped {
        scope,
        reject_types: PyTuple::empty(py).unbind(),
        reject: py.None(),
        uploads: None,
        step: None,
    };
    let given = settings;
    let mut settings = Settings {
        counted: true,
        scope_method,
        ..Settings::new(py, max_workers, thread_name_prefix, IDLE_TIMEOUT)?
    };
    for (name, value) in given.into_iter().flatten() {
        match name.cast::<PyString>()?.to_str()? {
            "reject_types" => scoped.reject_types = value.extract()?,
            "reject" => scoped.reject = value.unbind(),
            "uploads" => scoped.uploads = value.extract()?,
            "step" => scoped.step = value.extract()?,
            "signals" => {
                let signals: Option<Bound<'_, PyTuple>> = value.extract()?;
                settings.signals = signals.map(|it| Signals::new(&it)).transpose()?;
            }
            name => settings.set(name, &value)?,
        }
    }
    make(py, settings, Some(scoped))
}
