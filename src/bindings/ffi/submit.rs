//! `Executor.submit`: a C method that takes its arguments as CPython's stack holds them,
//! so that a call with two arguments builds no tuple and no dict.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::call::Shape;
use super::slot::Slot;
use crate::bindings::core::call::Call;
use crate::bindings::core::executor::ExecutorCell;
use crate::bindings::core::options::Policy;
use crate::bindings::errors::panic_message;

/// The arguments of one call to `submit`, still on the caller's stack.
pub(crate) struct Arguments<'a, 'py> {
    pub(crate) function: Borrowed<'a, 'py, PyAny>,
    /// Values of positional, then of keyword arguments.
    values: &'a [*mut ffi::PyObject],
    /// A tuple of the keywords' names, or null.
    names: *mut ffi::PyObject,
    py: Python<'py>,
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// None, or none that are known yet.
    pub(crate) fn none(function: Borrowed<'a, 'py, PyAny>) -> Self {
        Self {
            function,
            values: &[],
            names: std::ptr::null_mut(),
            py: function.py(),
        }
    }

    /// Every value, positional or not.
    pub(crate) fn values(&self) -> impl ExactSizeIterator<Item = Borrowed<'_, 'py, PyAny>> {
        self.values.iter().map(|value| {
            // SAFETY: CPython keeps the arguments of a call alive until it returns.
            unsafe { Borrowed::from_ptr(self.py, *value) }
        })
    }

    pub(crate) fn has_no_names(&self) -> bool {
        self.names.is_null()
    }

    /// How many are given by position, and the names of the others.
    pub(crate) fn shape(&self) -> PyResult<(usize, Vec<Bound<'py, PyString>>)> {
        // SAFETY: null or the tuple of the keywords' names, alive during the call.
        let names = unsafe { Bound::from_borrowed_ptr_or_opt(self.py, self.names) };
        let Some(names) = names else {
            return Ok((self.values.len(), Vec::new()));
        };
        let names = names.cast_into::<PyTuple>()?;
        let strings = names.iter().map(|name| Ok(name.cast_into::<PyString>()?));
        let strings = strings.collect::<PyResult<Vec<_>>>()?;
        Ok((self.values.len() - strings.len(), strings))
    }

    /// The arguments as a function written in Python would get them with `*` and `**`.
    pub(crate) fn to_python(&self) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
        // SAFETY: null or the tuple of the keywords' names, alive during the call.
        let names = unsafe { Bound::from_borrowed_ptr_or_opt(self.py, self.names) };
        let Some(names) = names else {
            return Ok((PyTuple::new(self.py, self.values())?, None));
        };
        let names = names.cast_into::<PyTuple>()?;
        let (positional, named) = self.values.split_at(self.values.len() - names.len());
        let value = |value: &*mut ffi::PyObject| {
            // SAFETY: as in `values`.
            unsafe { Borrowed::from_ptr(self.py, *value) }
        };
        let keywords = PyDict::new(self.py);
        for (name, named) in names.iter().zip(named.iter().map(value)) {
            keywords.set_item(name, named)?;
        }
        let positional = PyTuple::new(self.py, positional.iter().map(value))?;
        Ok((positional, Some(keywords)))
    }

    /// Takes new references to function and arguments.
    pub(crate) fn to_call(&self) -> PyResult<Call> {
        // SAFETY: the pointers are live arguments of the running call (see `values`), and
        // the thread is attached.
        unsafe {
            let function = Slot::borrowed(self.function.as_ptr());
            let (shape, first, second) = match (self.values, self.names.is_null()) {
                ([], true) => (Shape::Inline(0), Slot::default(), Slot::default()),
                (&[one], true) => (Shape::Inline(1), Slot::borrowed(one), Slot::default()),
                (&[one, two], true) => (Shape::Inline(2), Slot::borrowed(one), Slot::borrowed(two)),
                (_, no_names) => {
                    let values = PyTuple::new(self.py, self.values())?;
                    let names = if no_names {
                        Slot::default()
                    } else {
                        Slot::borrowed(self.names)
                    };
                    (Shape::Packed, Slot::new(values.into_any()), names)
                }
            };
            Ok(Call::new(function, shape, first, second))
        }
    }
}

const DOC: &std::ffi::CStr = c"submit($self, fn, /, *args, **kwargs)
--

Run fn(*args, **kwargs) in the background and return its future at once.

A plain function runs on a worker; an async def one on the event loop that the
coroutines of the whole process share. The task sees the submitter's contextvars.
An exception it raises is logged (logger flask_delay) and kept in the future.
Raises TypeError if fn is not callable or is a generator function,
RuntimeError after shutdown, QueueFull if there is no place in the queue.";

const DOC_WITH: &std::ffi::CStr = c"_submit_with($self, policy, scope, fn, /, *args, **kwargs)
--

As submit, by the rules of a _Policy, and with the task, but not its callbacks, inside
`with scope():`. Either may be None.";

/// Adds `submit` and `_submit_with` to the executor class.
pub(crate) fn add_to(class: &Bound<'_, PyType>) -> PyResult<()> {
    // CPython keeps a pointer to the definition for ever.
    for (name, function, doc) in [
        (c"submit", submit as ffi::PyCFunctionFastWithKeywords, DOC),
        (c"_submit_with", submit_with, DOC_WITH),
    ] {
        let method = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer {
                PyCFunctionFastWithKeywords: function,
            },
            ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: doc.as_ptr(),
        }));
        // SAFETY: `class` is a type, the definition is valid for ever, and its flags are
        // those of the function's signature. The descriptor checks that `self` is a `class`.
        let descriptor = unsafe {
            Bound::from_owned_ptr_or_err(
                class.py(),
                ffi::PyDescr_NewMethod(class.as_ptr().cast(), method),
            )?
        };
        let name = PyString::new(class.py(), &name.to_string_lossy());
        class.setattr(name, descriptor)?;
    }
    Ok(())
}

unsafe extern "C" fn submit(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the calling convention is the same.
    unsafe { submit_after(0, this, arguments, count, names) }
}

unsafe extern "C" fn submit_with(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the calling convention is the same.
    unsafe { submit_after(2, this, arguments, count, names) }
}

/// Submits the function that stands after so many `before` it: none, or its policy and its
/// scope.
///
/// # Safety
///
/// Called by CPython as a fastcall method with keywords.
unsafe fn submit_after(
    before: usize,
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls this function attached.
    let py = unsafe { Python::assume_attached() };
    // A panic must not unwind into C.
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the method descriptor has checked the type of `this`; both live until
        // the call returns.
        let this = unsafe { Borrowed::from_ptr(py, this).cast_unchecked::<ExecutorCell>() };
        let positional = usize::try_from(count).unwrap_or(0);
        if positional <= before {
            return Err(PyTypeError::new_err(
                "submit() needs the function to run as its first argument",
            ));
        }
        // SAFETY: `names` is null or a tuple, by the calling convention, and `arguments`
        // has one cell for each positional and each keyword argument.
        let values = unsafe {
            let named = if names.is_null() {
                0
            } else {
                usize::try_from(ffi::PyTuple_GET_SIZE(names)).unwrap_or(0)
            };
            slice::from_raw_parts(arguments, positional + named)
        };
        // SAFETY: this cell is a positional argument, alive as the others.
        let function = unsafe { Borrowed::from_ptr(py, values[before]) };
        let given = |place: usize| {
            // SAFETY: as above.
            let given =
                (place < before).then(|| unsafe { Bound::from_borrowed_ptr(py, values[place]) });
            given.filter(|given| !given.is_none())
        };
        let policy = given(0).map(Bound::cast_into::<Policy>).transpose()?;
        let scope = given(1);
        let arguments = Arguments {
            function,
            values: &values[before + 1..],
            names,
            py,
        };
        this.get().submit(&arguments, policy.as_ref(), scope)
    }));
    match result {
        Ok(Ok(future)) => future.into_ptr(),
        Ok(Err(error)) => {
            error.restore(py);
            std::ptr::null_mut()
        }
        Err(payload) => {
            PanicException::new_err((panic_message(&*payload),)).restore(py);
            std::ptr::null_mut()
        }
    }
}
