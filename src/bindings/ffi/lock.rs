//! A lock of CPython's: a sleep that signals interrupt on every system, and that another
//! thread ends without the GIL.

use std::ffi::{c_int, c_longlong, c_void};
use std::ptr::NonNull;
use std::time::Duration;

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

mod raw {
    use std::ffi::{c_int, c_longlong, c_void};

    // Part of CPython's stable ABI; PyO3 does not declare them.
    unsafe extern "C" {
        pub(super) fn PyThread_allocate_lock() -> *mut c_void;
        pub(super) fn PyThread_free_lock(lock: *mut c_void);
        pub(super) fn PyThread_acquire_lock_timed(
            lock: *mut c_void,
            microseconds: c_longlong,
            interruptible: c_int,
        ) -> c_int;
        pub(super) fn PyThread_release_lock(lock: *mut c_void);
    }
}

const ACQUIRED: c_int = 1;
const INTERRUPTED: c_int = 2;

/// How a wait for a lock ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acquired {
    Yes,
    /// The time is over.
    No,
    /// A signal came.
    Interrupted,
}

/// Locked when it is made. Whoever waits for it acquires it; anybody may release it, once.
pub(crate) struct Lock(NonNull<c_void>);

// SAFETY: CPython's locks are made to be used by several threads, and by those that are not
// attached too.
unsafe impl Send for Lock {}
// SAFETY: as above.
unsafe impl Sync for Lock {}

impl Lock {
    /// # Errors
    ///
    /// `MemoryError` when the system has no more locks.
    pub(crate) fn new() -> PyResult<Self> {
        // SAFETY: may be called at any time.
        let lock = NonNull::new(unsafe { raw::PyThread_allocate_lock() })
            .map(Self)
            .ok_or_else(|| PyMemoryError::new_err("no more locks can be made"))?;
        lock.acquire(Duration::ZERO);
        Ok(lock)
    }

    /// Waits for the lock. Blocks, so not to be called attached but with no time to wait.
    pub(crate) fn acquire(&self, limit: Duration) -> Acquired {
        let limit = c_longlong::try_from(limit.as_micros()).unwrap_or(c_longlong::MAX);
        // SAFETY: the lock lives as long as `self`.
        match unsafe { raw::PyThread_acquire_lock_timed(self.0.as_ptr(), limit, 1) } {
            ACQUIRED => Acquired::Yes,
            INTERRUPTED => Acquired::Interrupted,
            _ => Acquired::No,
        }
    }

    /// Ends the wait for the lock, also one that begins later.
    pub(crate) fn release(&self) {
        // SAFETY: the lock lives as long as `self`; a caller releases it only once.
        unsafe { raw::PyThread_release_lock(self.0.as_ptr()) };
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // SAFETY: nobody else can reach the lock any more, so nobody waits for it.
        unsafe { raw::PyThread_free_lock(self.0.as_ptr()) };
    }
}
