//! What the timer's thread leaves to others, since it keeps the time of all tasks: to drop what
//! may be the last reference to an object of a user's, and to call code of users.
//!
//! Anywhere else it is done at once. What an alarm has left goes to a worker of the executor
//! that it was for; where there are none, to a thread of its own.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyCFunction, PyFloat, PyInt, PyString};

use super::errands;
use crate::bindings::calls::TakenCall;
use crate::bindings::core::Core;
use crate::bindings::ffi::attach::attach;
use crate::bindings::ffi::object::is_shared;
use crate::bindings::mode::Mode;

/// Work that is left to do.
type Work = Box<dyn FnOnce(Python<'_>) + Send>;

/// What one alarm has left.
#[derive(Default)]
struct Leftovers {
    objects: Vec<Py<PyAny>>,
    work: Vec<Work>,
}

thread_local! {
    /// Set while the timer's thread sees to an alarm.
    static LEFT: RefCell<Option<Leftovers>> = const { RefCell::new(None) };
}

/// Adds to what the timer's thread leaves. Gives back `item` if this is another thread.
fn leave<T>(item: T, add: impl FnOnce(&mut Leftovers, T)) -> Option<T> {
    let mut item = Some(item);
    // An error where a thread that ends has taken its locals apart already.
    let _ = LEFT.try_with(|left| {
        if let Some(left) = left.borrow_mut().as_mut()
            && let Some(item) = item.take()
        {
            add(left, item);
        }
    });
    item
}

/// Drops `object`, or leaves it to be dropped.
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

/// Whether to drop this reference cannot run code: it is not the last, or the object has no end
/// worth the name.
fn runs_nothing(object: &Bound<'_, PyAny>) -> bool {
    is_shared(object)
        || object.is_exact_instance_of::<PyString>()
        || object.is_exact_instance_of::<PyInt>()
        || object.is_exact_instance_of::<PyFloat>()
        || object.is_exact_instance_of::<PyBytes>()
        || object.is_exact_instance_of::<PyBool>()
}

/// Drops what a task was to call, or leaves it to be dropped.
pub(crate) fn let_go_of_call(taken: TakenCall<'_>) {
    for object in [taken.function, taken.first, taken.second, taken.context] {
        let_go(object);
    }
}

/// Does `work`, or leaves it to be done.
pub(crate) fn work(py: Python<'_>, work: impl FnOnce(Python<'_>) + Send + 'static) {
    let add = |left: &mut Leftovers, work| left.work.push(Box::new(work) as Work);
    if let Some(work) = leave(work, add) {
        work(py);
    }
}

/// Does `inside` on the timer's thread, for an executor if that is still there, and sends off
/// what it leaves.
pub(super) fn gather(py: Python<'_>, core: Option<&Arc<Core>>, inside: impl FnOnce()) {
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

fn send(py: Python<'_>, core: Option<&Arc<Core>>, left: Leftovers) {
    // In here, because a worker may not take it.
    let left = Arc::new(Mutex::new(Some(left)));
    if let Some(core) = core
        && core.mode == Mode::Threads
    {
        let left = Arc::clone(&left);
        let errand = PyCFunction::new_closure(py, Some(c"leftovers"), None, move |args, _| {
            // Taken out under the lock, which is a leaf, and done without it.
            let mine = left.lock().take();
            if let Some(mine) = mine {
                mine.finish(args.py());
            }
        });
        if errand.is_ok_and(|errand| errands::send(core, errand.as_any()).is_ok()) {
            return;
        }
    }
    // Nobody ends the pool before that is done.
    let hold = core.map(|core| core.pool().hold());
    let for_thread = Arc::clone(&left);
    let started = std::thread::Builder::new()
        .name("delay-leftovers".to_owned())
        .stack_size(super::alarms::STACK)
        .spawn(move || {
            let mine = for_thread.lock().take();
            if let Some(mine) = mine {
                let mut mine = Some(mine);
                // Not done if the interpreter has gone, nor dropped then.
                attach(|py| mine.take().map(|mine| mine.finish(py)));
                std::mem::forget(mine);
            }
            drop(hold);
        });
    if started.is_err() {
        // For want of a thread.
        let mine = left.lock().take();
        if let Some(mine) = mine {
            mine.finish(py);
        }
    }
}
