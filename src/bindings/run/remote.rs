//! Futures of tasks that run in another process or on another machine, and, there, tasks that run
//! in the thread which received them.
//!
//! They are in no queue and hold no pool: this process cannot wait for what it handed over. Their
//! callbacks run on the pool's workers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::inline;
use crate::bindings::core::async_check::form_of;
use crate::bindings::core::call::Call;
use crate::bindings::core::events::{self, Kind};
use crate::bindings::core::executor::ExecutorCell;
use crate::bindings::core::id::Id;
use crate::bindings::core::policy;
use crate::bindings::core::progress::{self, Progress};
use crate::bindings::core::task::{Task, new_future};
use crate::bindings::core::transition::{End, Phase};
use crate::bindings::errors::{closed, id_is_taken};
use crate::bindings::ffi::call::Shape;
use crate::bindings::ffi::clock::now;
use crate::bindings::ffi::context::carry;
use crate::bindings::ffi::slot::Slot;
use crate::bindings::host::app_context::may_submit;
use crate::bindings::sched::completion::{self, forget};
use crate::bindings::sched::dispatch::{self, announce};

#[doc = doc!("_RemoteTask")]
#[pyclass(frozen, name = "_RemoteTask", module = "flask_delay._native")]
pub(crate) struct RemoteTask(Py<Task>);

impl RemoteTask {
    /// Ends the task, unless it is done; a worker runs the callbacks.
    fn end(&self, py: Python<'_>, end: End<'_>) -> bool {
        let task = self.0.bind(py);
        if !begin(task) && task.get().phase() != Phase::Running {
            return false;
        }
        completion::discard_call(task);
        let ended = completion::finish_detached(task, end, None);
        forget(task);
        ended
    }
}

/// Begins the first attempt, if none has begun.
fn begin(task: &Bound<'_, Task>) -> bool {
    let began = dispatch::start(task);
    if began {
        task.get().set_started(now());
        happened(task, Kind::Started);
    }
    began
}

/// Notes an event, unless it is for the process that has sent the task.
fn happened(task: &Bound<'_, Task>, kind: Kind) {
    if !task.get().ended_elsewhere() {
        events::happened(task, kind);
    }
}

#[pymethods]
impl RemoteTask {
    #[new]
    #[pyo3(signature = (executor, r#fn, *, id, is_chosen = false, is_found = false, attempts = 0, recall = None, report = None))]
    #[expect(
        clippy::too_many_arguments,
        reason = "named, and most of them optional"
    )]
    fn new(
        executor: &Bound<'_, ExecutorCell>,
        r#fn: Bound<'_, PyAny>,
        id: &str,
        is_chosen: bool,
        is_found: bool,
        attempts: u32,
        recall: Option<Py<PyAny>>,
        report: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let py = executor.py();
        let inner = executor.get().inner()?;
        let core = &inner.core;
        if core.pool().is_closed() {
            return Err(closed());
        }
        let (scope, of_teardown) = match &inner.scoped {
            None => (Slot::default(), false),
            Some(scoped) => (Slot::new(scoped.scope.get(py)?), may_submit()?),
        };
        let context = carry(py, &core.hidden)?.map_or_else(Slot::default, Slot::new);
        let none = Slot::default;
        let call = Call::new(Slot::new(r#fn), Shape::Inline(0), none(), none());
        let cell = Task::for_task(Arc::clone(core), scope, call, context, now());
        let future = new_future(py, cell)?;
        // Relaxed: as in `submit`.
        if inner.has_defaults.load(Ordering::Relaxed) && recall.is_some() && !is_found {
            let defaults = inner.defaults.lock();
            let defaults = defaults.iter().map(|it| it.clone_ref(py)).collect();
            completion::add_defaults(&future, defaults);
        }
        if of_teardown {
            future.get().mark_of_teardown();
        }
        policy::runs_elsewhere(future.get(), attempts);
        if is_found {
            future.get().mark_ended_elsewhere();
        }
        let id = Id::new(id);
        if is_chosen && !future.get().take_id(&future, &id) {
            return Err(id_is_taken(&id));
        }
        {
            let mut extra = future.get().extra().lock();
            extra.id = Some(id);
            extra.recall = recall;
            extra.report = report;
        }
        Ok(Self(future.unbind()))
    }

    #[getter]
    fn future<'py>(&self, py: Python<'py>) -> Bound<'py, Task> {
        self.0.bind(py).clone()
    }

    #[doc = doc!("_RemoteTask.announce")]
    fn announce(&self, py: Python<'_>) -> PyResult<()> {
        let task = self.0.bind(py);
        let Some(core) = task.get().core() else {
            return Ok(());
        };
        announce(task, core)?;
        if let Some(recorder) = core.recorder() {
            recorder.sent(task);
        }
        Ok(())
    }

    #[doc = doc!("_RemoteTask.start")]
    fn start(&self, py: Python<'_>) {
        begin(self.0.bind(py));
    }

    #[doc = doc!("_RemoteTask.again")]
    fn again(&self, py: Python<'_>) {
        let task = self.0.bind(py);
        // Messages may arrive late or twice.
        if !task.get().has_begun() {
            begin(task);
        }
        policy::begins_again(task.get());
        if task.get().run_again() {
            happened(task, Kind::Retrying);
        }
    }

    #[pyo3(
        signature = (done, total, note = String::new()),
        text_signature = "($self, done, total, note='')"
    )]
    #[doc = doc!("_RemoteTask.progress")]
    fn progress(
        &self,
        py: Python<'_>,
        done: &Bound<'_, PyAny>,
        total: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = progress::note)] note: String,
    ) -> PyResult<()> {
        let progress = Progress::new(done, total, note)?;
        let task = self.0.bind(py);
        task.get().extra().lock().progress = Some(progress);
        happened(task, Kind::Progress);
        Ok(())
    }

    #[doc = doc!("_RemoteTask.finish")]
    fn finish(&self, py: Python<'_>, result: Bound<'_, PyAny>) -> bool {
        self.end(py, End::Returned(result))
    }

    #[doc = doc!("_RemoteTask.fail")]
    fn fail(&self, py: Python<'_>, exception: Bound<'_, PyAny>) -> bool {
        self.end(py, End::Raised(exception))
    }

    #[doc = doc!("_RemoteTask.withdraw")]
    fn withdraw(&self, py: Python<'_>) {
        let task = self.0.bind(py);
        task.get().forget_id(task);
        if let Some(recorder) = task.get().core().and_then(|core| core.recorder()) {
            recorder.withdrawn(task);
        }
        forget(task);
    }

    #[doc = doc!("_RemoteTask.abandon")]
    fn abandon(&self, py: Python<'_>) -> bool {
        self.end(py, End::Cancelled)
    }

    #[doc = doc!("_RemoteTask.run")]
    fn run<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Task>> {
        let task = self.0.bind(py);
        if let Some((function, ..)) = task.get().shown_call(task)?
            && form_of(&function)?.is_async()
        {
            task.get().mark_coroutine();
        }
        if let Some(core) = task.get().core() {
            inline::run(task, core)?;
        }
        forget(task);
        Ok(task.clone())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}
