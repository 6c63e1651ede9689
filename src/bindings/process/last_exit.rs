//! Waits for tasks if the process ends by C's `exit` without Python's own end, which would wait for
//! them. uWSGI does so when it is told to end during a request, and an embedding program may.
//!
//! Any thread may call `exit`, a signal handler too, so this may run in the middle of any code.

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
    // Another thread with a pool's lock releases it soon; this thread never would.
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
        // An attached thread is in the middle of Python code, where no other code may run and
        // without which no task can; and a worker cannot wait for itself.
        Some(true) if !exit::is_attached() && !current::is_worker() => {
            // `None` if there is no interpreter any more.
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
