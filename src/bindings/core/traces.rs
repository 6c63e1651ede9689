//! Releases the variables in the frames of an exception that is kept.

use std::collections::HashSet;

use pyo3::exceptions::{PyBaseExceptionGroup, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;

/// The most linked exceptions to visit.
const MOST: usize = 1_000;

/// Flags of code: generators, coroutines and asynchronous generators.
const SUSPENDS: u32 = 0x20 | 0x80 | 0x200;

/// Clears the frames of an exception, of its contexts and causes, and of a group's parts. The rest
/// of their tracebacks can be shown as before.
///
/// Dropping variables may run Python code.
pub(crate) fn let_go_of_frames(exception: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = exception.py();
    let mut seen = HashSet::new();
    let mut open = vec![exception.clone()];
    while let Some(exception) = open.pop() {
        if exception.is_none() || seen.len() >= MOST || !seen.insert(exception.as_ptr() as usize) {
            continue;
        }
        empty(&exception)?;
        open.push(exception.getattr(intern!(py, "__context__"))?);
        open.push(exception.getattr(intern!(py, "__cause__"))?);
        if exception.is_instance_of::<PyBaseExceptionGroup>() {
            for part in exception.getattr(intern!(py, "exceptions"))?.try_iter()? {
                open.push(part?);
            }
        }
    }
    Ok(())
}

/// Clears the frames of one exception that have ended.
fn empty(exception: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = exception.py();
    let (traceback, next) = (intern!(py, "__traceback__"), intern!(py, "tb_next"));
    let mut before: Option<Bound<'_, PyAny>> = None;
    let mut entry = exception.getattr(traceback)?;
    while !entry.is_none() {
        let frame = entry.getattr(intern!(py, "tb_frame"))?;
        let after = entry.getattr(next)?;
        if cfg!(not(Py_3_13)) && suspends(&frame)? {
            // There, clearing the frame of a coroutine that still runs would end it, and that
            // cannot be told from outside. So the entry goes.
            match &before {
                Some(before) => before.setattr(next, &after)?,
                None => exception.setattr(traceback, &after)?,
            }
        } else {
            match frame.call_method0(intern!(py, "clear")) {
                // The frame still runs.
                Err(error) if error.is_instance_of::<PyRuntimeError>(py) => {}
                cleared => drop(cleared?),
            }
            before = Some(entry);
        }
        entry = after;
    }
    Ok(())
}

fn suspends(frame: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = frame.py();
    let code = frame.getattr(intern!(py, "f_code"))?;
    let flags: u32 = code.getattr(intern!(py, "co_flags"))?.extract()?;
    Ok(flags & SUSPENDS != 0)
}
