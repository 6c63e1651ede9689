//! Methods that read a function and its arguments straight from CPython's stack.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use pyo3::exceptions::PyTypeError;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{PyClass, ffi};

use super::call::Shape;
use super::slot::Slot;
use crate::bindings::errors::panic_message;

/// A function and its arguments, on the stack of a running method call.
pub(crate) struct Arguments<'a, 'py> {
    pub(crate) function: Borrowed<'a, 'py, PyAny>,
    /// Values of positional, then of keyword arguments.
    values: &'a [*mut ffi::PyObject],
    /// A tuple of the keywords' names, or null.
    names: *mut ffi::PyObject,
    py: Python<'py>,
}

impl<'a, 'py> Arguments<'a, 'py> {
    /// No arguments, or none known yet.
    pub(crate) fn none(function: Borrowed<'a, 'py, PyAny>) -> Self {
        Self {
            function,
            values: &[],
            names: std::ptr::null_mut(),
            py: function.py(),
        }
    }

    /// All values, positional and keyword.
    pub(crate) fn values(&self) -> impl ExactSizeIterator<Item = Borrowed<'_, 'py, PyAny>> {
        self.values.iter().map(|value| {
            // SAFETY: CPython keeps the arguments of a call alive until it returns.
            unsafe { Borrowed::from_ptr(self.py, *value) }
        })
    }

    pub(crate) fn has_no_names(&self) -> bool {
        self.names.is_null()
    }

    /// The number of positional arguments, and the names of the keyword arguments.
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

    /// The arguments as `*args` and `**kwargs`.
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

    /// Takes new references to the function and the arguments.
    pub(crate) fn to_slots(&self) -> PyResult<(Slot, Shape, Slot, Slot)> {
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
            Ok((function, shape, first, second))
        }
    }
}

/// The arguments before the function.
pub(crate) struct Before<'a, 'py> {
    values: &'a [*mut ffi::PyObject],
    py: Python<'py>,
}

impl<'py> Before<'_, 'py> {
    /// The argument at `place`, unless it is missing or None.
    pub(crate) fn get(&self, place: usize) -> Option<Bound<'py, PyAny>> {
        // SAFETY: CPython keeps the arguments of a call alive until it returns.
        let value = unsafe { Bound::from_borrowed_ptr(self.py, *self.values.get(place)?) };
        (!value.is_none()).then_some(value)
    }
}

/// A method of a native class that takes its own arguments, then a function with that function's
/// arguments. It reads CPython's stack, so a call builds no tuple and no dict.
pub(crate) trait CallMethod {
    type Class: PyClass<Frozen = True> + Sync;

    const NAME: &CStr;
    /// The signature and the docstring, in CPython's format.
    const DOC: &CStr;
    /// The number of arguments before the function.
    const BEFORE: usize;
    /// The error message of a call without a function.
    const MISSING: &str;
    /// The keyword for the function, if it may be given as the only argument.
    const KEYWORD: Option<&str> = None;

    fn call<'py>(
        this: &Bound<'py, Self::Class>,
        before: &Before<'_, 'py>,
        arguments: &Arguments<'_, 'py>,
    ) -> PyResult<Bound<'py, PyAny>>;
}

/// Adds a method to its class.
pub(crate) fn add<M: CallMethod>(py: Python<'_>) -> PyResult<()> {
    let class = py.get_type::<M::Class>();
    // CPython keeps a pointer to the definition as long as the class lives.
    let method = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: M::NAME.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer {
            PyCFunctionFastWithKeywords: trampoline::<M>,
        },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: M::DOC.as_ptr(),
    }));
    // SAFETY: `class` is a type, the definition is never freed, and its flags are those of the
    // function's signature. The descriptor checks that `self` is a `class`.
    let descriptor = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_ptr().cast(), method))?
    };
    class.setattr(PyString::new(py, &M::NAME.to_string_lossy()), descriptor)
}

unsafe extern "C" fn trampoline<M: CallMethod>(
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
        let this = unsafe { Borrowed::from_ptr(py, this).cast_unchecked::<M::Class>() };
        let positional = usize::try_from(count).unwrap_or(0);
        // SAFETY: `names` is null or a tuple, by the calling convention, and `arguments` has one
        // entry for each positional and each keyword argument.
        let values = unsafe {
            let named = if names.is_null() {
                0
            } else {
                usize::try_from(ffi::PyTuple_GET_SIZE(names)).unwrap_or(0)
            };
            slice::from_raw_parts(arguments, positional + named)
        };
        let names = if positional > M::BEFORE {
            names
        } else if is_keyword(py, M::KEYWORD, values, names) {
            std::ptr::null_mut()
        } else {
            return Err(PyTypeError::new_err(M::MISSING));
        };
        // SAFETY: this entry is an argument, alive until the call returns.
        let function = unsafe { Borrowed::from_ptr(py, values[M::BEFORE]) };
        let before = Before {
            values: &values[..M::BEFORE],
            py,
        };
        let arguments = Arguments {
            function,
            values: &values[M::BEFORE + 1..],
            names,
            py,
        };
        M::call(&this, &before, &arguments)
    }));
    match result {
        Ok(Ok(returned)) => returned.into_ptr(),
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

/// Whether the only argument is given by this keyword.
#[cold]
fn is_keyword(
    py: Python<'_>,
    keyword: Option<&str>,
    values: &[*mut ffi::PyObject],
    names: *mut ffi::PyObject,
) -> bool {
    // SAFETY: null or the tuple of the keywords' names, alive during the call.
    let names = unsafe { Bound::from_borrowed_ptr_or_opt(py, names) };
    values.len() == 1
        && names
            .and_then(|names| names.extract::<(String,)>().ok())
            .is_some_and(|(name,)| keyword == Some(&*name))
}
