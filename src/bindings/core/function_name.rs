//! Names of functions, which are those of their tasks, and the functions inside of others.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};

use crate::bindings::ffi::call::{function_name, is_module_function};
use crate::bindings::names;

/// A label for a finished task, from which its name is read. It does not keep the function alive.
pub(crate) fn label_of<'py>(function: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    if let Some(name) = function_name(function) {
        return name;
    }
    if is_module_function(function) {
        return function.clone();
    }
    PyString::new(function.py(), &read_name(function)).into_any()
}

/// The name of a function, or of a label.
pub(crate) fn read_name(label: &Bound<'_, PyAny>) -> String {
    if let Ok(name) = label.cast::<PyString>() {
        return name.to_string_lossy().into_owned();
    }
    let py = label.py();
    let qualname = label.getattr(names::__qualname__(py));
    if let Ok(name) = qualname.and_then(|name| name.extract()) {
        return name;
    }
    match inner_of(label) {
        Some(inner) => read_name(&inner),
        None => label
            .get_type()
            .qualname()
            .map_or_else(|_| "?".to_owned(), |name| name.to_string()),
    }
}

/// The function of a bound method.
pub(crate) fn function_of_method<'py>(function: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    static METHOD: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = function.py();
    let method = METHOD.import(py, "types", "MethodType").ok()?;
    let is_one = function.is_exact_instance(method);
    is_one.then(|| function.getattr(names::__func__(py)).ok())?
}

/// The function inside a bound method, a static method or a `functools.partial`. Of these types
/// alone: mocks have attributes of any name, without end.
pub(crate) fn inner_of<'py>(function: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    static STATIC: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static PARTIAL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = function.py();
    if let Some(inner) = function_of_method(function) {
        return Some(inner);
    }
    let static_method = STATIC.import(py, "builtins", "staticmethod").ok()?;
    if function.is_exact_instance(static_method) {
        return function.getattr(names::__func__(py)).ok();
    }
    let partial = PARTIAL.import(py, "functools", "partial").ok()?;
    if function.is_instance(partial).unwrap_or(false) {
        return function.getattr(names::func(py)).ok();
    }
    None
}
