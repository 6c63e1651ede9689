//! Checks whether a function can be called with the arguments of a submission. The submission
//! raises the error of the call itself, and no task fails later.
//!
//! It checks functions written in Python, and methods, partials and objects with a `__call__` that
//! lead to one. Other callables are accepted.

use std::fmt::Write;

use once_cell::race::OnceBox;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyString, PyTuple, PyType};

use super::function_name::{function_of_method, inner_of, read_name};
use crate::bindings::ffi::arguments::Arguments;
use crate::bindings::ffi::call::code_of;
use crate::bindings::names;

/// `CO_GENERATOR`
pub(crate) const GENERATOR: u32 = 0x20;
/// `CO_COROUTINE`
pub(crate) const COROUTINE: u32 = 0x80;
/// `CO_ASYNC_GENERATOR`
pub(crate) const ASYNC_GENERATOR: u32 = 0x200;

const VARARGS: u32 = 0x4;
const VARKEYWORDS: u32 = 0x8;

/// The parameters of a code object.
struct Parameters {
    /// Kept alive, so that no other object gets its address.
    code: Py<PyAny>,
    /// The number of positional parameters, and of the positional-only ones.
    positional: usize,
    positional_only: usize,
    /// The number of arguments, if all are positional and a call runs the code.
    plain: Option<usize>,
    takes_more: bool,
    takes_any_keyword: bool,
    /// First the positional ones, then the keyword-only ones.
    names: Py<PyTuple>,
}

impl Parameters {
    fn read(code: &Bound<'_, PyAny>) -> PyResult<Self> {
        let count = |name: &str| code.getattr(name)?.extract::<usize>();
        let positional = count("co_argcount")?;
        let keyword_only = count("co_kwonlyargcount")?;
        let flags: u32 = code.getattr(names::co_flags(code.py()))?.extract()?;
        let names = code.getattr("co_varnames")?.cast_into::<PyTuple>()?;
        let is_plain = keyword_only == 0 && flags & (GENERATOR | COROUTINE | ASYNC_GENERATOR) == 0;
        Ok(Self {
            code: code.clone().unbind(),
            positional,
            positional_only: count("co_posonlyargcount")?,
            plain: is_plain.then_some(positional),
            takes_more: flags & VARARGS != 0,
            takes_any_keyword: flags & VARKEYWORDS != 0,
            names: names.get_slice(0, positional + keyword_only).unbind(),
        })
    }

    fn keyword_only(&self, py: Python<'_>) -> usize {
        self.names.bind(py).len() - self.positional
    }
}

/// Parameters by the address of the code object. An entry is set once and never removed, so that
/// it can be read without a lock. Parameters of another code at a taken place are read anew.
static KNOWN: [OnceBox<Parameters>; 512] = [const { OnceBox::new() }; 512];

/// Calls `look` with the parameters of a code object.
fn with<R>(code: &Bound<'_, PyAny>, look: impl FnOnce(&Parameters) -> R) -> PyResult<R> {
    // Code objects are some hundred bytes apart.
    let place = &KNOWN[(code.as_ptr() as usize >> 7) % KNOWN.len()];
    if let Some(known) = place.get() {
        if known.code.is(code) {
            return Ok(look(known));
        }
        return Parameters::read(code).map(|fresh| look(&fresh));
    }
    let fresh = Box::new(Parameters::read(code)?);
    match place.set(fresh) {
        Ok(()) => with(code, look),
        Err(fresh) => Ok(look(&fresh)),
    }
}

/// Whether the call runs a Python function's code with the right number of positional arguments:
/// the usual case.
pub(crate) fn is_plain(arguments: &Arguments<'_, '_>) -> PyResult<bool> {
    if !arguments.has_no_names() {
        return Ok(false);
    }
    let given = Some(arguments.values().len());
    code_of(&arguments.function).map_or(Ok(false), |code| with(&code, |it| it.plain == given))
}

/// Refuses arguments that do not fit the function.
///
/// # Errors
///
/// The `TypeError` that the call would raise.
pub(crate) fn check(arguments: &Arguments<'_, '_>) -> PyResult<()> {
    let function = &arguments.function;
    let (code, bound) = match code_of(function) {
        Some(code) => (Some(code), 0),
        None => (function_of_method(function).and_then(|it| code_of(&it)), 1),
    };
    if let Some(code) = code
        && arguments.has_no_names()
    {
        // The usual case.
        let given = arguments.values().len() + bound;
        let fits = |it: &Parameters| given == it.positional && it.keyword_only(code.py()) == 0;
        if with(&code, fits)? {
            return Ok(());
        }
    }
    let (positional, names) = arguments.shape()?;
    check_call(function, positional, names)
}

/// The same, for a call with this number of positional arguments and these names of keywords.
///
/// # Errors
///
/// As [`check`].
pub(crate) fn check_call<'py>(
    function: &Bound<'py, PyAny>,
    mut positional: usize,
    mut names: Vec<Bound<'py, PyString>>,
) -> PyResult<()> {
    let py = function.py();
    let mut function = function.clone();
    // A wrapper may lead to another one, but only `DEPTH` of them are followed.
    for _ in 0..DEPTH {
        if let Some(code) = code_of(&function) {
            return with(&code, |it| it.check(&function, positional, &names))?;
        }
        if function.is_instance_of::<PyCFunction>() || function.is_instance_of::<PyType>() {
            return Ok(());
        }
        if let Some(inner) = inner_of(&function) {
            if function.getattr_opt(names::__func__(py))?.is_some() {
                positional += usize::from(function.getattr_opt("__self__")?.is_some());
            } else {
                let given = function.getattr("args")?.cast_into::<PyTuple>()?;
                if given.iter().any(|it| is_placeholder(&it)) {
                    return Ok(());
                }
                positional += given.len();
                for name in function.getattr("keywords")?.cast_into::<PyDict>()?.keys() {
                    let name = name.cast_into::<PyString>()?;
                    if !has(&names, &name)? {
                        names.push(name);
                    }
                }
            }
            function = inner;
            continue;
        }
        let call = function.get_type().getattr_opt(names::__call__(py))?;
        match call {
            Some(call) if code_of(&call).is_some() => {
                positional += 1;
                function = call;
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

const DEPTH: usize = 16;

/// `functools.Placeholder` of Python 3.14, which the call fills.
fn is_placeholder(value: &Bound<'_, PyAny>) -> bool {
    value
        .get_type()
        .name()
        .is_ok_and(|name| name == "_PlaceholderType")
}

/// Names are interned, nearly always.
fn has(names: &[Bound<'_, PyString>], name: &Bound<'_, PyString>) -> PyResult<bool> {
    if names.iter().any(|it| it.is(name)) {
        return Ok(true);
    }
    for it in names {
        if it.as_any().eq(name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// "'a'", "'a' and 'b'", "'a', 'b', and 'c'", as Python writes it.
fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("'{one}'"),
        [one, two] => format!("'{one}' and '{two}'"),
        [first @ .., last] => {
            let mut text = String::new();
            for name in first {
                let _ = write!(text, "'{name}', ");
            }
            text + &format!("and '{last}'")
        }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl Parameters {
    fn check(
        &self,
        function: &Bound<'_, PyAny>,
        given: usize,
        names: &[Bound<'_, PyString>],
    ) -> PyResult<()> {
        let py = function.py();
        let own = self.names.bind(py);
        let mut is_named = vec![false; own.len()];
        // In the order in which Python itself checks.
        for name in names {
            let mut place = None;
            for (at, known) in own.iter().enumerate() {
                if known.is(name) || known.as_any().eq(name)? {
                    place = Some(at);
                    break;
                }
            }
            match place {
                Some(at) if at >= self.positional_only => {
                    if at < given.min(self.positional) {
                        return Err(refused(
                            function,
                            &format!("got multiple values for argument '{name}'"),
                        ));
                    }
                    is_named[at] = true;
                }
                _ if self.takes_any_keyword => {}
                Some(_) => {
                    return Err(refused(
                        function,
                        &format!(
                            "got some positional-only arguments passed as keyword arguments: \
                             '{name}'"
                        ),
                    ));
                }
                None => {
                    return Err(refused(
                        function,
                        &format!("got an unexpected keyword argument '{name}'"),
                    ));
                }
            }
        }
        let defaults = function.getattr("__defaults__")?;
        let defaults = defaults.cast::<PyTuple>().map_or(0, PyTupleMethods::len);
        let needed = self.positional.saturating_sub(defaults);
        if given > self.positional && !self.takes_more {
            return Err(refused(function, &self.too_many(needed, given)));
        }
        let missing = |from: usize, to: usize| -> PyResult<Vec<String>> {
            (from..to)
                .filter(|at| !is_named[*at])
                .map(|at| own.get_item(at)?.extract())
                .collect()
        };
        let left_out = missing(given.min(needed), needed)?;
        if !left_out.is_empty() {
            return Err(refused(function, &lacks(&left_out, "positional")));
        }
        if own.len() == self.positional {
            return Ok(());
        }
        let defaults = function.getattr("__kwdefaults__")?;
        let mut left_out = missing(self.positional, own.len())?;
        if let Ok(defaults) = defaults.cast::<PyDict>() {
            left_out.retain(|name| !defaults.contains(name).unwrap_or(false));
        }
        if left_out.is_empty() {
            return Ok(());
        }
        Err(refused(function, &lacks(&left_out, "keyword-only")))
    }

    fn too_many(&self, needed: usize, given: usize) -> String {
        let most = self.positional;
        let takes = if needed < most {
            format!("from {needed} to {most}")
        } else {
            most.to_string()
        };
        let were = if given == 1 { "was" } else { "were" };
        format!(
            "takes {takes} positional argument{} but {given} {were} given",
            plural(most)
        )
    }
}

fn lacks(names: &[String], kind: &str) -> String {
    let count = names.len();
    format!(
        "missing {count} required {kind} argument{}: {}",
        plural(count),
        listed(names)
    )
}

#[cold]
fn refused(function: &Bound<'_, PyAny>, why: &str) -> PyErr {
    PyTypeError::new_err(format!("{}() {why}", read_name(function)))
}

#[doc = doc!("_check_call")]
#[pyfunction]
#[pyo3(signature = (r#fn, /, *args, **kwargs))]
pub(crate) fn _check_call<'py>(
    r#fn: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<()> {
    if !r#fn.is_callable() {
        return Err(not_callable("the task", r#fn));
    }
    let names = kwargs.map(PyDictMethods::keys).into_iter().flatten();
    let names = names
        .map(|name| Ok(name.cast_into::<PyString>()?))
        .collect::<PyResult<_>>()?;
    check_call(r#fn, args.len(), names)
}

/// The error for an object that is no function: often the result of one.
#[cold]
pub(crate) fn not_callable(what: &str, given: &Bound<'_, PyAny>) -> PyErr {
    let mut shown = given
        .repr()
        .map_or_else(|_| "?".to_owned(), |text| text.to_string());
    if shown.chars().count() > SHOWN {
        shown = shown.chars().take(SHOWN).chain("...".chars()).collect();
    }
    PyTypeError::new_err(format!(
        "{what} must be callable, got {shown}; if that is what a function has returned, leave out \
         the parentheses: give the function, and then its arguments, as in delay(fn, x)"
    ))
}

/// The most characters of such an object to show.
const SHOWN: usize = 80;
