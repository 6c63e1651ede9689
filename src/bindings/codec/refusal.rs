//! Why a value cannot be stored, and the error that names it.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBytes, PyDate, PyDateTime, PyDelta, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet,
    PyString, PyTime, PyTuple, PyType,
};

use super::form::{DEPTH, classes};
use crate::bindings::ffi::object::is_really_a;
use crate::bindings::names;

/// Characters of a key that a message shows.
const SHOWN: usize = 40;

/// Why the walk through a value ended. Boxed, so that the results of the walk stay small.
pub(super) struct Refusal(Box<Why>);

enum Why {
    /// A value has no form. `steps` lead to it, innermost first.
    Value {
        steps: Vec<Step>,
        reason: String,
        /// None if the remedy of the [`Subject`] helps.
        remedy: Option<&'static str>,
    },
    /// Containers within each other, more than [`DEPTH`] of them.
    Deep,
    /// The text would be longer than allowed.
    Long,
    /// Python has raised.
    Failed(PyErr),
}

/// How messages speak of the value that is written.
pub(super) struct Subject<'a> {
    /// "argument 1"
    pub(super) place: &'a str,
    /// " of task 'f'", or nothing.
    pub(super) of: &'a str,
    /// "the arguments of task 'f'": what the limit of bytes is for.
    pub(super) whole: &'a str,
    pub(super) remedy: &'static str,
}

/// The way from a container to a value in it.
pub(super) enum Step {
    Index(usize),
    /// The value of a key, as a message shows the key.
    Value(String),
    /// One of a dict's keys.
    Key,
    /// An item of a set.
    Item,
}

impl From<PyErr> for Refusal {
    fn from(error: PyErr) -> Self {
        Self(Box::new(Why::Failed(error)))
    }
}

impl Refusal {
    #[cold]
    fn value(reason: String, remedy: Option<&'static str>) -> Self {
        let steps = Vec::new();
        Self(Box::new(Why::Value {
            steps,
            reason,
            remedy,
        }))
    }

    #[cold]
    pub(super) fn deep() -> Self {
        Self(Box::new(Why::Deep))
    }

    #[cold]
    pub(super) fn long() -> Self {
        Self(Box::new(Why::Long))
    }

    /// Adds the step that leads from the container to the value.
    #[cold]
    pub(super) fn within(mut self, step: impl FnOnce() -> Step) -> Self {
        if let Why::Value { steps, .. } = &mut *self.0 {
            steps.push(step());
        }
        self
    }

    /// The error for a refusal while at most `most` bytes may be written.
    #[cold]
    pub(super) fn into_error(self, subject: &Subject<'_>, most: usize) -> PyErr {
        let Subject { place, of, .. } = subject;
        match *self.0 {
            Why::Value {
                steps,
                reason,
                remedy,
            } => {
                let remedy = remedy.unwrap_or(subject.remedy);
                PyTypeError::new_err(format!("{}{of} {reason}: {remedy}", path(place, &steps)))
            }
            Why::Deep => PyValueError::new_err(format!(
                "{place}{of} contains itself, or is nested more than {DEPTH} levels deep: {}",
                subject.remedy
            )),
            Why::Long => PyValueError::new_err(format!(
                "{} would take more than {most} bytes as JSON: pass an id or a path instead, or set \
                 DELAY_JOURNAL_MAX_BYTES higher",
                subject.whole
            )),
            Why::Failed(error) => error,
        }
    }
}

/// `argument 1['user'][0]`; steps through keys and sets are told in words.
fn path(place: &str, steps: &[Step]) -> String {
    let mut text = place.to_owned();
    for (left, step) in steps.iter().enumerate().rev() {
        text = match step {
            Step::Index(index) => format!("{text}[{index}]"),
            Step::Value(key) => format!("{text}[{key}]"),
            Step::Key if left == 0 => format!("a key of {text}"),
            Step::Key => format!("(a key of {text})"),
            Step::Item if left == 0 => format!("an item of {text}"),
            Step::Item => format!("(an item of {text})"),
        };
    }
    text
}

/// A key as a message shows it. The writer has stored it, so its `repr` runs no code of users.
#[cold]
pub(super) fn shown(key: &Bound<'_, PyAny>) -> String {
    let Ok(text) = key.repr() else {
        return "...".to_owned();
    };
    let text = text.to_string_lossy();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into_owned(),
    }
}

/// For a value of a type that has no form.
#[cold]
pub(super) fn of_type(value: &Bound<'_, PyAny>) -> Refusal {
    let name = name_of(&value.get_type());
    let reason = match base_of(value) {
        Some(base) => format!(
            "is of type {name}, a subclass of {base} that would come back as a plain {base}"
        ),
        None => format!("is of type {name}, which the journal cannot store"),
    };
    Refusal::value(reason, None)
}

#[cold]
pub(super) fn of_number(text: &str) -> Refusal {
    let reason = format!("is {text}, for which JSON has no word");
    Refusal::value(reason, Some("use None or a string for it"))
}

#[cold]
pub(super) fn of_surrogate() -> Refusal {
    let reason = "is a string with a lone surrogate, which UTF-8 cannot carry".to_owned();
    Refusal::value(reason, Some("use bytes, as from os.fsencode()"))
}

#[cold]
pub(super) fn of_zone(zone: &Bound<'_, PyAny>) -> Refusal {
    let name = name_of(&zone.get_type());
    let reason = format!("has a time zone of type {name}, which the journal cannot store");
    let remedy = "use datetime.timezone, or a zoneinfo.ZoneInfo with a key";
    Refusal::value(reason, Some(remedy))
}

/// "module.Class".
fn name_of(class: &Bound<'_, PyType>) -> String {
    let Ok(name) = class.qualname() else {
        return "?".to_owned();
    };
    let module = class.getattr(names::__module__(class.py()));
    let module = module.and_then(|it| it.extract::<String>());
    match module.as_deref() {
        Ok("builtins") | Err(_) => name.to_string_lossy().into_owned(),
        Ok(module) => format!("{module}.{}", name.to_string_lossy()),
    }
}

/// The name of the storable class from which a value's class is derived.
fn base_of(value: &Bound<'_, PyAny>) -> Option<&'static str> {
    let py = value.py();
    let known = [
        (py.get_type::<PyString>(), "str"),
        (py.get_type::<PyInt>(), "int"),
        (py.get_type::<PyFloat>(), "float"),
        (py.get_type::<PyBytes>(), "bytes"),
        (py.get_type::<PyList>(), "list"),
        (py.get_type::<PyTuple>(), "tuple"),
        (py.get_type::<PyDict>(), "dict"),
        (py.get_type::<PySet>(), "set"),
        (py.get_type::<PyFrozenSet>(), "frozenset"),
        // Itself derived from `date`.
        (py.get_type::<PyDateTime>(), "datetime"),
        (py.get_type::<PyDate>(), "date"),
        (py.get_type::<PyTime>(), "time"),
        (py.get_type::<PyDelta>(), "timedelta"),
    ];
    let known = known.iter().find(|(class, _)| is_really_a(value, class));
    if let Some((_, name)) = known {
        return Some(name);
    }
    let classes = classes(py).ok()?;
    if is_really_a(value, classes.decimal.bind(py)) {
        return Some("Decimal");
    }
    is_really_a(value, classes.uuid.bind(py)).then_some("UUID")
}
