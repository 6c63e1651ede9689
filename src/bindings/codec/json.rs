//! The form in which the journal stores arguments and results: JSON, with tags for what JSON has no
//! word for.
//!
//! | Python | JSON |
//! | --- | --- |
//! | None, bool, str, finite float, int of 64 bits, list | JSON's own |
//! | dict whose keys are str without a leading `$` | object |
//! | any other dict | `{"$dict": [[key, value], ...]}` |
//! | tuple, set, frozenset | `{"$tuple": [...]}`, `{"$set": [...]}`, `{"$frozenset": [...]}` |
//! | longer int | `{"$int": "-0x1f..."}` |
//! | bytes | `{"$bytes": "base64"}` |
//! | Decimal, UUID | `{"$decimal": "1.10"}`, `{"$uuid": "8a6e0804-..."}` |
//! | date, time, datetime | `{"$date": "2026-10-25"}`, see `dates.rs` |
//! | the same with a named `timezone` | `{"$datetime": ["...+01:00", "CET"]}` |
//! | timedelta | `{"$timedelta": [days, seconds, microseconds]}` |
//! | exception, only where the journal itself has gathered it | `{"$exception": "the error of its task"}` |
//!
//! Only exact types are stored, so each value comes back equal and of the same type. Any text may
//! be read: it names no class, and nothing is imported or executed by its words. Exceptions are made
//! by a function of the reader's, as those of failed tasks.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::form::classes;
use super::read;
use super::refusal::Subject;
use super::write::Writer;

/// Called once, when the module is loaded.
pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    classes(py).map(drop)
}

/// The arguments of a call of task `name`, as `{"args": [...], "kwargs": {...}}` of at most `most`
/// bytes. `last` is written as it is after the positional ones.
///
/// # Errors
///
/// As [`encode`]; they name the task and the argument.
pub(crate) fn encode_call(
    name: &str,
    positional: &Bound<'_, PyTuple>,
    named: Option<&Bound<'_, PyDict>>,
    last: Option<char>,
    most: usize,
) -> PyResult<String> {
    let mut writer = Writer::new(most);
    match writer.call(positional, named, last) {
        Ok(()) => writer.finish(),
        Err((place, refusal)) => {
            let subject = Subject {
                place: &place,
                of: &format!(" of task {name:?}"),
                whole: &format!("the arguments of task {name:?}"),
                remedy: "pass an id, or what JSON can carry, and load the object in the task",
            };
            Err(refusal.into_error(&subject, most))
        }
    }
}

/// The arguments of [`encode_call`]; `None` if none has a keyword.
///
/// # Errors
///
/// As [`decode`].
pub(crate) fn decode_call<'py>(
    py: Python<'py>,
    text: &str,
    exceptions: Option<&Bound<'py, PyAny>>,
) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
    read::call(py, text, exceptions)
}

/// A value as JSON of at most `most` bytes.
///
/// # Errors
///
/// `TypeError` for what has no form: other types, subclasses, NaN, infinity, lone surrogates.
/// `ValueError` if it contains itself, is nested too deeply, or is too long.
pub(crate) fn encode(value: &Bound<'_, PyAny>, most: usize) -> PyResult<String> {
    encode_as(value, most, || ("the value".to_owned(), String::new()))
}

/// As [`encode`]; `what` is the words of the errors for the value: "the checkpoint", " of task 'f'".
pub(crate) fn encode_as(
    value: &Bound<'_, PyAny>,
    most: usize,
    what: impl FnOnce() -> (String, String),
) -> PyResult<String> {
    let mut writer = Writer::new(most);
    match writer.value(value, 0) {
        Ok(()) => writer.finish(),
        Err(refusal) => {
            let (place, of) = what();
            let subject = Subject {
                place: &place,
                of: &of,
                whole: &format!("{place}{of}"),
                remedy: "use an id, or what JSON can carry",
            };
            Err(refusal.into_error(&subject, most))
        }
    }
}

/// The value of [`encode`]. A result may have exceptions: `exceptions` makes them from their texts.
///
/// # Errors
///
/// `ValueError` for any other text.
pub(crate) fn decode<'py>(
    py: Python<'py>,
    text: &str,
    exceptions: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    read::value(py, text, exceptions)
}

#[doc = doc!("_journal_encode")]
#[pyfunction]
#[pyo3(signature = (value, most = 1_000_000))]
pub(crate) fn _journal_encode(value: &Bound<'_, PyAny>, most: usize) -> PyResult<String> {
    encode(value, most)
}

#[doc = doc!("_journal_decode")]
#[pyfunction]
#[pyo3(signature = (text, exceptions = None))]
pub(crate) fn _journal_decode<'py>(
    py: Python<'py>,
    text: &str,
    exceptions: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    decode(py, text, exceptions)
}

#[doc = doc!("_journal_encode_call")]
#[pyfunction]
#[pyo3(signature = (name, args, kwargs = None, most = 1_000_000))]
pub(crate) fn _journal_encode_call(
    name: &str,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    most: usize,
) -> PyResult<String> {
    encode_call(name, args, kwargs, None, most)
}

#[doc = doc!("_journal_decode_call")]
#[pyfunction]
pub(crate) fn _journal_decode_call<'py>(
    py: Python<'py>,
    text: &str,
) -> PyResult<(Bound<'py, PyTuple>, Option<Bound<'py, PyDict>>)> {
    decode_call(py, text, None)
}
