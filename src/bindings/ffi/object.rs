//! What objects really are, and making futures.
//!
//! A future is an instance of `Future`, a Python class over the native [`FutureCell`], which
//! has two bases, the native class and `concurrent.futures.Future`, and no code of its own.
//! Making one the ordinary way would call `__new__` and `__init__` and have the garbage
//! collector look at it while it is queued; here it is allocated and filled in.

use std::mem::size_of;
use std::sync::OnceLock;

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

use crate::bindings::core::task::FutureCell;

struct Class {
    future: Py<PyType>,
    /// Where an instance keeps its `FutureCell`.
    offset: usize,
}

// Not PyOnceLock: that one lets go of the GIL when it is set, and this one is only read.
static CLASS: OnceLock<Class> = OnceLock::new();

/// A module that was imported already, or is being imported.
pub(crate) fn loaded<'py>(
    py: Python<'py>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    // SAFETY: attached; the result is a new reference, or null without an error if there is
    // no such module.
    let module =
        unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyImport_GetModule(name.as_ptr())) };
    match (module, PyErr::take(py)) {
        (None, Some(error)) => Err(error),
        // Imported by others as None: that it must not be.
        (module, _) => Ok(module.filter(|it| !it.is_none())),
    }
}

/// Notes the class that futures are made of; called once, when the module is loaded.
pub(crate) fn set_class(future: &Bound<'_, PyType>) -> PyResult<()> {
    let py = future.py();
    let sample = future.call0()?.cast_into::<FutureCell>()?;
    let offset = std::ptr::from_ref(sample.get()) as usize - sample.as_ptr() as usize;
    let base = py.get_type::<FutureCell>();
    let size: usize = base.getattr("__basicsize__")?.extract()?;
    if size != offset + size_of::<FutureCell>() {
        return Err(PySystemError::new_err(format!(
            "a native future has {size} bytes, {offset} + {} were expected",
            size_of::<FutureCell>()
        )));
    }
    let class = Class {
        future: future.clone().unbind(),
        offset,
    };
    CLASS
        .set(class)
        .map_err(|_| PySystemError::new_err("the future class is set already"))
}

/// Whether the value's real type is `class` or derived from it, without asking the value or
/// the class, which may say something else.
pub(crate) fn is_really_a(value: &Bound<'_, PyAny>, class: &Bound<'_, PyType>) -> bool {
    // SAFETY: both are alive and the thread is attached; what is compared are the types'
    // own lists of their bases, so nothing else runs.
    unsafe {
        let real = ffi::Py_TYPE(value.as_ptr());
        ffi::PyType_IsSubtype(real, class.as_ptr().cast()) != 0
    }
}

/// How many references there are to an object. Without a GIL that may change at once.
pub(crate) fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: the object is alive and the thread is attached; a number is read.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// Whether somebody else has a reference to `object` too.
pub(crate) fn is_shared(object: &Bound<'_, PyAny>) -> bool {
    references(object) > 1
}

/// A new future around `cell`, not yet known to the garbage collector.
pub(crate) fn new_future(py: Python<'_>, cell: FutureCell) -> PyResult<Bound<'_, FutureCell>> {
    let class = CLASS
        .get()
        .ok_or_else(|| PySystemError::new_err("the future class is not set"))?;
    // SAFETY: `future` is a heap type with garbage collection, so its instances come from
    // `PyObject_GC_New`, which also zeroes what stands before and initialises the header.
    // Every byte of an instance belongs to the header, to the cell (`set_class` checked
    // offset and size; the memory there is not initialised, so it is written, not
    // assigned) or to the tail that the subclass adds (the weak reference list on
    // Python 3.11), which is zeroed here.
    unsafe {
        let type_object = class.future.as_ptr().cast::<ffi::PyTypeObject>();
        let object = ffi::PyObject_GC_New::<ffi::PyObject>(type_object);
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        let end = class.offset + size_of::<FutureCell>();
        let size = usize::try_from((*type_object).tp_basicsize).unwrap_or(end);
        object.cast::<u8>().add(end).write_bytes(0, size - end);
        object
            .byte_add(class.offset)
            .cast::<FutureCell>()
            .write(cell);
        Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked::<FutureCell>())
    }
}

/// Shows a future to the garbage collector: it is not queued any more, and may be part of
/// a cycle.
pub(crate) fn track(future: &Bound<'_, FutureCell>) {
    let object = future.as_ptr();
    // SAFETY: attached; the object is fully initialised. Only who has changed the phase to
    // a done one gets here: once for a future that `new_future` made, which has an executor
    // and so is never `Cancelled` first. The others are tracked from birth, which is all
    // that the look finds out, so no two threads do this at once.
    unsafe {
        if ffi::PyObject_GC_IsTracked(object) == 0 {
            ffi::PyObject_GC_Track(object.cast());
        }
    }
}
