//! A worker thread: attached to Python for its whole life, and detached only to sleep.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use flask_delay_engine::{Worker, spin};
use flask_delay_journal::Claimed;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::{attempt, durable};
use crate::bindings::core::executor::{Core, Job, Queued};
use crate::bindings::core::link::{Link, has_room};
use crate::bindings::core::task::Task;
use crate::bindings::core::transition::Phase;
use crate::bindings::core::waiter::Deferred;
use crate::bindings::core::worker_slot::{Waits, WorkerSlot};
use crate::bindings::errors::{broken, panic_message};
use crate::bindings::ffi::attach::attach;
use crate::bindings::ffi::call::{Shape, call};
use crate::bindings::ffi::clock::now;
use crate::bindings::ffi::cpython;
use crate::bindings::ffi::fork::generation;
use crate::bindings::ffi::gil::breathe;
use crate::bindings::host::gevent;
use crate::bindings::host::logging;
use crate::bindings::host::switch_interval::{self, Watched};
use crate::bindings::names;
use crate::bindings::sched::completion::{self, Place};
use crate::bindings::wait::current::{self, Local};

/// A builtin never checks whether another thread wants the GIL; after this many nanoseconds of such
/// tasks the worker does.
const BREATH: u64 = 1_000_000;

/// A submitter holds the GIL, and often releases it right away to wait for the result. A worker
/// that asks for the GIL too soon blocks and has to be woken.
const GRACE: Duration = Duration::from_nanos(1_500);

/// The main function of each thread of a pool. `end_child` ends a process that a task forked, once
/// that task has returned; its argument is whether the task failed.
pub(crate) fn main(weak: &Weak<Core>, mut worker: Worker<Queued>, end_child: fn(Python<'_>, bool)) {
    let generation = generation();
    // `None` only after the interpreter is finalized, when nothing can run.
    let finished = attach(|py| {
        let Some(core) = weak.upgrade() else {
            return;
        };
        let thread = Thread::enter(py, worker.name());
        let waits = Arc::new(Waits::new(worker.handle()));
        let slot = Arc::new(WorkerSlot::of_worker(Arc::clone(&waits)));
        let deferred = Rc::new(Deferred::default());
        core.add_slot(&slot);
        current::set_local(Local {
            slot: Arc::clone(&slot),
            core: Arc::downgrade(&core),
            service: core.service,
            generation,
            waits,
            deferred: Rc::clone(&deferred),
        });
        if !core.is_broken() {
            initialize(py, &core);
        }
        let watched = switch_interval::watch(py, &slot, core.switch_interval);
        // From here on only futures hold the core, so that an idle worker keeps nothing alive.
        drop(core);
        let watched_by = watched.as_deref();
        let failed = work(
            py,
            weak,
            &mut worker,
            &slot,
            &deferred,
            watched_by,
            generation,
        );
        if let Some(failed) = failed {
            end_child(py, failed);
        }
        if let Some(watched) = watched
            && generation == self::generation()
        {
            watched.forget();
        }
        gevent::leave(py);
        if let Some(thread) = thread {
            thread.leave(py);
        }
    });
    if generation != self::generation() {
        // The task forked, and this is the child, where only this thread exists. The counters of
        // the parent's pool must not change.
        std::mem::forget(worker);
    }
    let _ = finished;
}

/// Runs tasks until there are none for this thread. In a child that a task forked, returns after
/// that task, with whether it failed.
fn work(
    py: Python<'_>,
    core: &Weak<Core>,
    worker: &mut Worker<Queued>,
    slot: &WorkerSlot,
    deferred: &Deferred,
    watched: Option<&Watched>,
    generation: u32,
) -> Option<bool> {
    let mut breathed = now();
    let sleep = |sleep: &mut (dyn FnMut() -> bool + Send)| {
        if let Some(watched) = watched {
            watched.sleeps();
        }
        // Detached, so that the woken thread finds the GIL free.
        let waiters = deferred.take();
        // Attached: it may drop the last reference to the core.
        has_room(core);
        py.detach(|| {
            drop(waiters);
            if sleep() {
                spin(GRACE, || false);
            }
        });
        if let Some(watched) = watched {
            watched.wakes();
        }
    };
    while let Some(job) = worker.next(sleep) {
        deferred.ring();
        let forked = || self::generation() != generation;
        let finished = match job.into() {
            Job::Task(task) => {
                let task = task.into_bound(py);
                run(&task, slot);
                if forked() {
                    // A child of the task, with this thread only.
                    return Some(task.get().phase() == Phase::Failed);
                }
                task.get().ended()
                // Often the last reference: dropped before the worker sleeps.
            }
            Job::Claimed(claimed) => {
                let (link, claimed) = *claimed;
                run_claimed(py, core, &link, claimed, slot);
                if forked() {
                    return Some(false);
                }
                now()
            }
            job => {
                run_other(py, core, job, slot);
                if forked() {
                    return Some(false);
                }
                now()
            }
        };
        if finished.saturating_sub(breathed) > BREATH {
            breathed = finished;
            deferred.ring();
            // It cannot fail, and if it did, the next one would come.
            let _ = breathe(py);
        }
    }
    None
}

/// Runs one task; the worker survives whatever happens in it.
fn run(task: &Bound<'_, Task>, slot: &WorkerSlot) {
    let Some(core) = task.get().core() else {
        return;
    };
    slot.put(task);
    run_guarded(task, core, slot);
    slot.clear();
}

/// Runs a row that this process has claimed.
fn run_claimed(
    py: Python<'_>,
    core: &Weak<Core>,
    link: &Arc<Link>,
    claimed: Claimed,
    slot: &WorkerSlot,
) {
    if let Some(core) = core.upgrade() {
        core.uncounted().remove();
    }
    let prepared = catch_unwind(AssertUnwindSafe(|| durable::prepare(py, link, claimed)));
    match prepared {
        Ok(Some(task)) => run(&task, slot),
        Ok(None) => {}
        Err(payload) => defect(&*payload).write_unraisable(py, None),
    }
}

/// Does a job that does not run a task.
#[cold]
fn run_other(py: Python<'_>, core: &Weak<Core>, job: Job, slot: &WorkerSlot) {
    if let Some(core) = core.upgrade() {
        core.took_out(&job);
    }
    if let Job::Callbacks(task, _) = &job {
        slot.put(task.bind(py));
    }
    let done = catch_unwind(AssertUnwindSafe(|| {
        completion::do_job(py, job, Place::Worker);
    }));
    if let Err(payload) = done {
        defect(&*payload).write_unraisable(py, None);
    }
    slot.clear();
}

fn defect(payload: &(dyn Any + Send)) -> PyErr {
    let message = format!("a defect in flask_delay: {}", panic_message(payload));
    PyRuntimeError::new_err(message)
}

/// Runs one task; a panic fails only that task.
pub(crate) fn run_guarded(task: &Bound<'_, Task>, core: &Arc<Core>, slot: &WorkerSlot) {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        if core.is_broken() {
            completion::fail(task, broken());
        } else {
            attempt::run(task, core, slot);
        }
    }));
    if let Err(payload) = ran {
        completion::fail(task, defect(&*payload));
    }
}

fn initialize(py: Python<'_>, core: &Arc<Core>) {
    let initializer = core
        .initializer
        .lock()
        .as_ref()
        .map(|(initializer, arguments)| {
            (
                initializer.bind(py).clone(),
                arguments.bind(py).as_any().clone(),
            )
        });
    let Some((initializer, arguments)) = initializer else {
        return;
    };
    // Packed arguments have the layout of a task's.
    if let Err(error) = call(&initializer, Shape::Packed, Some(&arguments), None) {
        core.set_broken();
        let exception = error.into_value(py);
        logging::initializer_failed(py, core.name(), exception.bind(py).as_any());
    }
}

/// This thread in Python's `threading` module.
struct Thread(Py<PyAny>);

impl Thread {
    /// Sets the thread's name and the hooks that a Python thread starts with.
    fn enter(py: Python<'_>, name: &str) -> Option<Self> {
        let entered = (|| -> PyResult<Self> {
            let threading = py.import(names::threading(py))?;
            let thread = threading.call_method0(names::current_thread(py))?;
            thread.setattr(names::name(py), name)?;
            cpython::set_tstate_lock(&thread)?;
            let sys = py.import(names::sys(py))?;
            for (get, set) in [("gettrace", "settrace"), ("getprofile", "setprofile")] {
                let hook = threading.call_method0(get)?;
                if !hook.is_none() {
                    sys.call_method1(set, (hook,))?;
                }
            }
            Ok(Self(thread.unbind()))
        })();
        entered
            .inspect_err(|error| error.clone_ref(py).write_unraisable(py, None))
            .ok()
    }

    fn leave(self, py: Python<'_>) {
        if let Err(error) = cpython::forget_thread(self.0.bind(py)) {
            error.write_unraisable(py, None);
        }
    }
}
