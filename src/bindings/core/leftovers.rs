//! What the timer's thread leaves to others, since it keeps the time of all tasks: to drop what
//! may be the last reference to an object of a user's, and to call code of users.
//!
//! Anywhere else it is done at once. What an alarm has left goes to a thread of its own and not to
//! a worker: tasks expire where all workers are busy, and their arguments are not to stay until
//! one of them is free.

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

/// Of threads that may run Python code.
pub(crate) const STACK: usize = 8 << 20;

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
    /// The way to the thread that sees to leftovers, from the timer's. With that it goes: the
    /// other one leaves too, once it has done what there is.
    static HELPER: RefCell<Option<Sender<Batch>>> = const { RefCell::new(None) };
}

/// What is sent there, and what keeps the executor's pool from its end until it is done.
type Batch = (Leftovers, Option<Hold<Queued>>);

fn send(py: Python<'_>, core: Option<&Arc<Core>>, left: Leftovers) {
    // Whether an object is dropped before the process ends does not matter, what is called does.
    let core = core.filter(|_| !left.work.is_empty());
    let batch = (left, core.map(|core| core.pool().hold()));
    HELPER.with_borrow_mut(|helper| {
        if helper.is_none() {
            *helper = start().ok();
        }
        let refused = match helper {
            Some(helper) => helper.send(batch).err().map(|error| error.0),
            // There is no thread to be had.
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

/// The main function of that thread, which is attached to Python only while it has to do.
fn see_to(batches: &Receiver<Batch>) {
    for (left, hold) in batches {
        let mut left = Some(left);
        attach(|py| left.take().map(|left| left.finish(py)));
        // Nobody's if the interpreter has gone.
        std::mem::forget(left);
        drop(hold);
    }
}
