//! The process ends by C's `exit`, and Python's own end, where tasks are waited for, was left
//! out: uWSGI does so when it is told to end in the middle of a request, and the program that
//! an interpreter is embedded in may.
//!
//! `exit` is called by any thread, from a signal handler too, so this may be anywhere in the
//! middle of things.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use pyo3::prelude::*;

use super::exit::{_end, is_busy};
use crate::bindings::ffi::exit;
use crate::bindings::wait::current;

/// Called once, when the module is loaded.
pub(crate) fn register() -> io::Result<()> {
    exit::at_exit(at_exit)
}

extern "C" fn at_exit() {
    // Another thread that has a pool's lock lets go of it soon; this one never would.
    let mut busy = is_busy();
    for _ in 0..TRIES {
        if busy.is_some() {
            break;
        }
        sleep(PAUSE);
        busy = is_busy();
    }
    match busy {
        Some(false) => {}
        // Attached, this thread is in the middle of Python code, where no other code may run
        // and without which no task can; and a worker cannot wait for itself.
        Some(true) if !exit::is_attached() && !current::is_worker() => {
            // None if there is no interpreter any more.
            if Python::try_attach(_end).is_none() {
                exit::write_error(LOST);
            }
        }
        _ => exit::write_error(LOST),
    }
}

const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);

const LOST: &str = "flask_delay: the process was ended in the middle of Python code; tasks that \
                    were accepted did not finish before exit\n";
