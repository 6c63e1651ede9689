//! Noticing a fork, also where the server forks in C and Python's hooks do not run.

use std::sync::atomic::{AtomicU32, Ordering};

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
}

/// Counts forks from now on; called once, when the module is loaded.
pub(crate) fn watch() -> std::io::Result<()> {
    // SAFETY: the handler only adds to an atomic, which is allowed between fork and exec.
    // The module is never unloaded (CPython does not), so the handler stays valid.
    match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(code)),
    }
}
