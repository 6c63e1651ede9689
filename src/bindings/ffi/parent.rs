//! Ties a worker process to its parent, by a thread that Python does not know. The thread notices
//! the parent's end even while tasks run in C or hold the GIL.

use std::ffi::c_int;
use std::{io, thread};

use super::fork;

/// Milliseconds between checks of the parent's id. They are needed if another process has
/// inherited the parent's end of the lifeline; otherwise the lifeline closes at once.
const INTERVAL: c_int = 500;

/// The thread calls only a few system functions.
const STACK: usize = 64 << 10;

/// The exit code, which no process reads.
const CODE: c_int = 1;

/// See `_tie` in `_native.pyi`.
pub(crate) fn tie(parent: libc::pid_t, lifeline: c_int, connection: c_int) -> io::Result<()> {
    fork::keep([lifeline, connection]);
    thread::Builder::new()
        .name("delay-parent".to_owned())
        .stack_size(STACK)
        .spawn(move || watch(parent, lifeline))
        .map(drop)
}

fn watch(parent: libc::pid_t, lifeline: c_int) {
    // SAFETY: the set is a local that the first call fills; only this thread's mask is changed.
    // Signals are for the other threads, to interrupt their waits.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
    let mut looked_at = libc::pollfd {
        fd: lifeline,
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one entry, which is a local. If it names no open file, that is reported.
        let ready = unsafe { libc::poll(&raw mut looked_at, 1, INTERVAL) };
        let is_cut = ready > 0 && looked_at.revents & libc::POLLHUP != 0;
        // SAFETY: always allowed.
        if is_cut || unsafe { libc::getppid() } != parent {
            // SAFETY: ends the process with all its threads, as a signal would, and runs nothing.
            unsafe { libc::_exit(CODE) };
        }
        if ready > 0 {
            // No process writes to it: a task has closed it, and the number may be another file's.
            // `poll` skips an entry below zero.
            looked_at.fd = -1;
        }
    }
}
