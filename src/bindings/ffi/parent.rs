//! What ties a worker process to its parent: a thread that Python does not know, so that it sees
//! the parent go whatever the tasks do, in C and with the GIL too.

use std::ffi::c_int;
use std::{io, thread};

use super::fork;

/// How often the parent's id is looked at, in milliseconds. Needed where another process has
/// inherited the parent's end of the lifeline; else the lifeline tells at once.
const INTERVAL: c_int = 500;

/// It calls a few functions of the system.
const STACK: usize = 64 << 10;

/// What such a process leaves as its exit code, for nobody to read.
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
    // Signals are for the other threads, whose waits they are to interrupt.
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
        // SAFETY: one entry, which is a local. It may stand for no open file, which is reported.
        let ready = unsafe { libc::poll(&raw mut looked_at, 1, INTERVAL) };
        let is_cut = ready > 0 && looked_at.revents & libc::POLLHUP != 0;
        // SAFETY: always allowed.
        if is_cut || unsafe { libc::getppid() } != parent {
            // SAFETY: ends the process with all its threads, as a signal would, and runs nothing.
            unsafe { libc::_exit(CODE) };
        }
        if ready > 0 {
            // Nobody writes to it: a task has closed it, and the number may be another file's. An
            // entry below zero is passed over.
            looked_at.fd = -1;
        }
    }
}
