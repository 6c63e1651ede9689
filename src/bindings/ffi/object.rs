//! Real types of objects, and cheap allocation of many instances of one class.

use std::marker::PhantomData;
use std::mem::size_of;

use pyo3::exceptions::PySystemError;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyString, PyType};
use pyo3::{PyClass, ffi};

/// Makes instances of a Python class that has the native class `T` as its first base, and no code
/// of its own.
///
/// An ordinary call would run `__new__` and `__init__`, and track the instance in the garbage
/// collector. Here it is only allocated and filled in.
pub(crate) struct Allocator<T> {
    class: Py<PyType>,
    /// Where an instance keeps its `T`.
    offset: usize,
    of: PhantomData<fn() -> T>,
}

impl<T: PyClass<Frozen = True> + Sync> Allocator<T> {
    /// For a class that can be called without arguments.
    pub(crate) fn new(class: &Bound<'_, PyType>) -> PyResult<Self> {
        let py = class.py();
        let sample = class.call0()?.cast_into::<T>()?;
        let offset = std::ptr::from_ref(sample.get()) as usize - sample.as_ptr() as usize;
        let size: usize = py.get_type::<T>().getattr("__basicsize__")?.extract()?;
        if size != offset + size_of::<T>() {
            return Err(PySystemError::new_err(format!(
                "a native {} has {size} bytes, {offset} + {} were expected",
                class.name()?,
                size_of::<T>()
            )));
        }
        Ok(Self {
            class: class.clone().unbind(),
            offset,
            of: PhantomData,
        })
    }

    /// A new instance around `value`, not yet tracked by the garbage collector.
    pub(crate) fn make<'py>(&self, py: Python<'py>, value: T) -> PyResult<Bound<'py, T>> {
        // SAFETY: `class` is a heap type with garbage collection, so its instances come from
        // `PyObject_GC_New`, which also zeroes what stands before and initialises the header.
        // Every byte of an instance belongs to the header, to the value (`new` checked
        // offset and size; the memory there is not initialised, so it is written, not
        // assigned) or to the tail that the subclass adds (the weak reference list on
        // Python 3.11), which is zeroed here.
        unsafe {
            let type_object = self.class.as_ptr().cast::<ffi::PyTypeObject>();
            let object = ffi::PyObject_GC_New::<ffi::PyObject>(type_object);
            if object.is_null() {
                return Err(PyErr::fetch(py));
            }
            let end = self.offset + size_of::<T>();
            let size = usize::try_from((*type_object).tp_basicsize).unwrap_or(end);
            object.cast::<u8>().add(end).write_bytes(0, size - end);
            object.byte_add(self.offset).cast::<T>().write(value);
            Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked::<T>())
        }
    }
}

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
        // None in `sys.modules` forbids the import.
        (module, _) => Ok(module.filter(|it| !it.is_none())),
    }
}

/// Whether the value's real type is `class` or derived from it. `isinstance` would ask the value
/// and the class, which may claim otherwise.
pub(crate) fn is_really_a(value: &Bound<'_, PyAny>, class: &Bound<'_, PyType>) -> bool {
    // SAFETY: both are alive and the thread is attached; only the types' own lists of their bases
    // are compared, so no code runs.
    unsafe {
        let real = ffi::Py_TYPE(value.as_ptr());
        ffi::PyType_IsSubtype(real, class.as_ptr().cast()) != 0
    }
}

/// The reference count of an object. Without a GIL it may change at once.
pub(crate) fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: the object is alive and the thread is attached; a number is read.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// Whether `object` has another reference.
pub(crate) fn is_shared(object: &Bound<'_, PyAny>) -> bool {
    references(object) > 1
}

/// Tracks an object of an [`Allocator`] in the garbage collector, since it may join a cycle from
/// now on. Only one thread at a time may call it.
pub(crate) fn track<T>(object: &Bound<'_, T>) {
    let object = object.as_ptr();
    // SAFETY: attached; the object is fully initialised. Its owner calls this once for an object
    // that `make` made; others are tracked from birth, which the check finds out.
    unsafe {
        if ffi::PyObject_GC_IsTracked(object) == 0 {
            ffi::PyObject_GC_Track(object.cast());
        }
    }
}
