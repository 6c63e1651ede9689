//! Work that the timer thread hands over, since it keeps the time of all tasks. It drops what may
//! be the last reference to a user's object, or calls user code.
//!
//! Other threads do it at once. Leftovers of a timer callback go to a thread of their own, not to
//! a worker. Tasks expire where all workers are busy, and their arguments must not stay until one
//! is free.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use flask_delay_engine::Hold;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

use super::call::TakenCall;
use super::executor::{Core, Queued};
use crate::bindings::ffi::attach::attach;
use crate::bindings::ffi::object::is_shared;

/// The stack size of threads that may run Python code.
pub(crate) const STACK: usize = 8 << 20;

type Work = Box<dyn FnOnce(Python<'_>) + Send>;

/// The leftovers of one timer callback.
#[derive(Default)]
struct Leftovers {
    objects: Vec<Py<PyAny>>,
    work: Vec<Work>,
}

thread_local! {
    /// Set while the timer thread runs a callback.
    static LEFT: RefCell<Option<Leftovers>> = const { RefCell::new(None) };
}

/// Adds `item` to the leftovers; returns it on any other thread.
fn leave<T>(item: T, add: impl FnOnce(&mut Leftovers, T)) -> Option<T> {
    let mut item = Some(item);
    // Fails in an ending thread that has destroyed its thread-locals.
    let _ = LEFT.try_with(|left| {
        if let Some(left) = left.borrow_mut().as_mut()
            && let Some(item) = item.take()
        {
            add(left, item);
        }
    });
    item
}

/// Drops `object`, or leaves that to the helper thread.
pub(crate) fn let_go<T>(object: Option<Bound<'_, T>>) {
    let Some(object) = object.map(Bound::into_any) else {
        return;
    };
    if runs_nothing(&object) {
        return;
    }
    let mine = leave(object, |left, object| left.objects.push(object.unbind()));
    drop(mine);
}

/// Whether dropping this reference runs no code: it is not the last one, or the object has no
/// finalizer.
fn runs_nothing(object: &Bound<'_, PyAny>) -> bool {
    is_shared(object)
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyBool>()
}

/// As [`let_go`], for the call of a task.
pub(crate) fn let_go_of_call(taken: TakenCall<'_>) {
    for object in [taken.function, taken.first, taken.second, taken.context] {
        let_go(object);
    }
}

/// Runs `work`, or leaves it to the helper thread.
pub(crate) fn work(py: Python<'_>, work: impl FnOnce(Python<'_>) + Send + 'static) {
    let add = |left: &mut Leftovers, work| left.work.push(Box::new(work) as Work);
    if let Some(work) = leave(work, add) {
        work(py);
    }
}

/// Runs `inside` on the timer thread, for an executor if it still exists, and sends off the
/// leftovers.
pub(crate) fn gather(py: Python<'_>, core: Option<&Arc<Core>>, inside: impl FnOnce()) {
    LEFT.set(Some(Leftovers::default()));
    inside();
    let left = LEFT.take().unwrap_or_default();
    if !left.objects.is_empty() || !left.work.is_empty() {
        send(py, core, left);
    }
}

impl Leftovers {
    fn finish(self, py: Python<'_>) {
        drop(self.objects);
        for work in self.work {
            if catch_unwind(AssertUnwindSafe(|| work(py))).is_err() {
                PyRuntimeError::new_err("a defect in flask_delay: what a timer left panicked")
                    .write_unraisable(py, None);
            }
        }
    }
}

thread_local! {
    /// The timer thread's way to the helper thread. It is dropped with the timer thread, and the
    /// helper then ends after its last batch.
    static HELPER: RefCell<Option<Sender<Batch>>> = const { RefCell::new(None) };
}

/// Leftovers, and a hold that keeps the executor's pool until they are done.
type Batch = (Leftovers, Option<Hold<Queued>>);

fn send(py: Python<'_>, core: Option<&Arc<Core>>, left: Leftovers) {
    // Calls must happen before the process ends; dropping objects need not.
    let core = core.filter(|_| !left.work.is_empty());
    let batch = (left, core.map(|core| core.pool().hold()));
    HELPER.with_borrow_mut(|helper| {
        if helper.is_none() {
            *helper = start().ok();
        }
        let refused = match helper {
            Some(helper) => helper.send(batch).err().map(|error| error.0),
            // No thread could be started.
            None => Some(batch),
        };
        if let Some((left, _hold)) = refused {
            left.finish(py);
        }
    });
}

fn start() -> io::Result<Sender<Batch>> {
    let (sender, batches) = channel();
    std::thread::Builder::new()
        .name("delay-leftovers".to_owned())
        .stack_size(STACK)
        .spawn(move || see_to(&batches))?;
    Ok(sender)
}

/// The helper's main function; it is attached to Python only while it has work.
fn see_to(batches: &Receiver<Batch>) {
    for (left, hold) in batches {
        let mut left = Some(left);
        attach(|py| left.take().map(|left| left.finish(py)));
        // Leaked if the interpreter is gone.
        std::mem::forget(left);
        drop(hold);
    }
}
