//! CPython's lock: signals interrupt its wait on every system, and another thread ends it without
//! the GIL.

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
    /// The time has passed.
    No,
    /// A signal arrived.
    Interrupted,
}

/// Created locked. A waiting thread acquires it; any thread may release it, once.
pub(crate) struct Lock(NonNull<c_void>);

// SAFETY: CPython's locks are made for use by several threads, also by threads that are not
// attached.
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

    /// Waits for the lock. It blocks, so an attached thread may call it only with a limit of zero.
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
        // SAFETY: nothing else can reach the lock any more, so no thread waits for it.
        unsafe { raw::PyThread_free_lock(self.0.as_ptr()) };
    }
}
