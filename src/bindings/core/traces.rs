//! What an exception that is kept refers to: the frames that it came through, with all that
//! their variables hold.

use std::collections::HashSet;

use pyo3::exceptions::{PyBaseExceptionGroup, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;

/// Of more exceptions than that, which belong to one, no more is looked at.
const MOST: usize = 1_000;

/// In the flags of code: generators, coroutines and asynchronous generators.
const SUSPENDS: u32 = 0x20 | 0x80 | 0x200;

/// Empties the frames of an exception, and of those it came after or consists of. What is left
/// of their tracebacks can be shown as before.
///
/// To let go of variables may run Python code.
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

/// Empties the frames of one exception that have ended.
fn empty(exception: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = exception.py();
    let (traceback, next) = (intern!(py, "__traceback__"), intern!(py, "tb_next"));
    let mut before: Option<Bound<'_, PyAny>> = None;
    let mut entry = exception.getattr(traceback)?;
    while !entry.is_none() {
        let frame = entry.getattr(intern!(py, "tb_frame"))?;
        let after = entry.getattr(next)?;
        if cfg!(not(Py_3_13)) && suspends(&frame)? {
            // There, to empty the frame of a coroutine that goes on would end it, and nobody
            // can tell whether it does. So the entry goes.
            match &before {
                Some(before) => before.setattr(next, &after)?,
                None => exception.setattr(traceback, &after)?,
            }
        } else {
            match frame.call_method0(intern!(py, "clear")) {
                // It is still at work.
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
