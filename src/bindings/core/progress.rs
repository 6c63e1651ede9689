//! The progress of a task, as given to `current_task.progress`.
//!
//! A task may report each row of a million, and few readers ask. So no Python object is kept: the
//! tuple is made for the reader.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyString, PyType};

/// Means the same to all readers, in JSON too, for any class of number.
#[derive(Clone, Copy, IntoPyObject)]
enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    #[expect(clippy::cast_precision_loss, reason = "the journal stores floats")]
    fn get(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }

    /// A number that was stored, as an integer if it is one.
    #[expect(clippy::cast_possible_truncation, reason = "checked by the way back")]
    #[expect(clippy::cast_precision_loss, reason = "checked by the way back")]
    #[expect(clippy::float_cmp, reason = "exact by design")]
    fn stored(float: f64) -> Self {
        let int = float as i64;
        if int as f64 == float {
            Self::Int(int)
        } else {
            Self::Float(float)
        }
    }
}

#[derive(Clone)]
pub(crate) struct Progress {
    done: Number,
    /// None if it is not known.
    total: Option<Number>,
    note: String,
}

impl Progress {
    pub(crate) fn new(
        done: &Bound<'_, PyAny>,
        total: &Bound<'_, PyAny>,
        note: String,
    ) -> PyResult<Self> {
        let done = number("done", done)?;
        let total = (!total.is_none())
            .then(|| number("total", total))
            .transpose()?;
        Ok(Self { done, total, note })
    }

    /// The progress that another process has stored.
    pub(crate) fn stored(done: f64, total: Option<f64>, note: String) -> Self {
        Self {
            done: Number::stored(done),
            total: total.map(Number::stored),
            note,
        }
    }

    /// The numbers and the note, to be stored.
    pub(crate) fn parts(&self) -> (f64, Option<f64>, &str) {
        (self.done.get(), self.total.map(Number::get), &self.note)
    }

    /// A `Progress` of Python.
    pub(crate) fn into_tuple(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        class(py)?.call1((self.done, self.total, self.note))
    }
}

/// A text that can be encoded anywhere, unlike some names of files.
pub(crate) fn note(value: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(value.cast::<PyString>()?.to_string_lossy().into_owned())
}

fn number(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Number> {
    let float = match value.cast::<PyFloat>() {
        Ok(float) => Ok(float.value()),
        // Integers first, because other numbers have no `__index__`.
        Err(_) => match value.extract::<i64>() {
            Ok(int) => return Ok(Number::Int(int)),
            Err(error) if is_about_value(value.py(), &error) => value.extract::<f64>(),
            Err(error) => Err(error),
        },
    };
    match float {
        Ok(float) if float.is_finite() => Ok(Number::Float(float)),
        Err(error) if !is_about_value(value.py(), &error) => Err(error),
        Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => {
            let told = format!("progress() takes numbers, got {name}={}", value.repr()?);
            Err(PyTypeError::new_err(told))
        }
        _ => {
            let value = value.repr()?;
            let remedy = match name {
                "total" => "; None if it is not known",
                _ => "",
            };
            let told = format!("progress() takes finite numbers, got {name}={value}{remedy}");
            Err(PyValueError::new_err(told))
        }
    }
}

/// Other errors pass: a task's timeout may be raised while a method of the value runs.
fn is_about_value(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyTypeError>(py) || error.is_instance_of::<PyOverflowError>(py)
}

static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// The class `Progress`, a named tuple.
pub(crate) fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    CLASS
        .get_or_try_init(py, || {
            let options = PyDict::new(py);
            options.set_item("module", "flask_delay")?;
            let class = py.import("collections")?.call_method(
                "namedtuple",
                ("Progress", "done total note"),
                Some(&options),
            )?;
            class.setattr("__doc__", doc!("Progress"))?;
            Ok(class.cast_into::<PyType>()?.unbind())
        })
        .map(|class| class.bind(py))
}
