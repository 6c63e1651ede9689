//! Noticing a fork, also where the server forks in C and Python's hooks do not run.

use std::sync::atomic::{AtomicU32, Ordering};

#[cfg(not(Py_3_12))]
use super::attach::list;

/// How many forks lie between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// This process's generation. A pool or a pending future of another one belongs to
/// another process.
pub(crate) fn generation() -> u32 {
    // Relaxed: changed only in a new process, before it has a second thread.
    GENERATION.load(Ordering::Relaxed)
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    #[cfg(not(Py_3_12))]
    list::after_fork();
}

/// Counts forks from now on, and has threads of ours wait for them where they must; called
/// once, when the module is loaded.
pub(crate) fn watch() -> std::io::Result<()> {
    type Handler = Option<unsafe extern "C" fn()>;
    #[cfg(not(Py_3_12))]
    let (before, in_parent): (Handler, Handler) = (Some(list::before_fork), Some(list::after_fork));
    #[cfg(Py_3_12)]
    let (before, in_parent): (Handler, Handler) = (None, None);
    // SAFETY: in the child the handlers only add to an atomic and let go of a lock that the same
    // thread has taken, which is allowed between fork and exec.
    // The module is never unloaded (CPython does not), so the handlers stay valid.
    match unsafe { libc::pthread_atfork(before, in_parent, Some(in_child)) } {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code)),
    }
}
