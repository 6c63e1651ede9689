//! What a task is called, also when its function has been let go.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::sync::critical_section::with_critical_section;
use pyo3::types::{PyString, PyType};

use super::task::Task;
use crate::bindings::ffi::call::{function_name, is_module_function};
use crate::bindings::names;

/// What a finished task's name can still be read from, without keeping its function (and
/// all that this refers to) alive.
pub(crate) fn label_of<'py>(function: &Bound<'py, PyAny>) -> Bound<'py, PyAny> {
    if let Some(name) = function_name(function) {
        return name;
    }
    if is_module_function(function) {
        return function.clone();
    }
    PyString::new(function.py(), &read_name(function)).into_any()
}

/// The name of a function, or a name.
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

/// What a bound method calls.
pub(crate) fn function_of_method<'py>(function: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    static METHOD: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = function.py();
    let method = METHOD.import(py, "types", "MethodType").ok()?;
    let is_one = function.is_exact_instance(method);
    is_one.then(|| function.getattr(names::__func__(py)).ok())?
}

/// What a bound method or a `functools.partial` calls. Of these two alone: other objects,
/// mocks above all, may have attributes of any name, and have them for ever.
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

/// The task's name.
pub(crate) fn name_of(this: &Bound<'_, Task>) -> String {
    let call = &this.get().call;
    let label = with_critical_section(this.as_any(), || call.function.get(this.py()));
    label.map_or_else(String::new, |label| read_name(&label))
}
