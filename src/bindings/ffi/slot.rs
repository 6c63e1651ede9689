//! A place in a native object that holds at most one Python reference.
//!
//! Rules for this type, and for all that this crate shares between threads, with or without a GIL:
//!
//! - Reading copies a pointer and then counts the reference, so no thread may take it in between.
//!   Either it stays while its object lives (`scope`, filled `outcome`), or both sides hold the
//!   object's critical section (`function`) or a Rust lock (all else). With a GIL, the GIL is that
//!   critical section.
//! - A Rust lock that attached threads take is never held across a call that may detach. Under it
//!   references are counted and moved, never dropped, and no Python code runs. Without a GIL the
//!   garbage collector stops all threads where they may detach. It could not stop a thread that
//!   waits for a lock held by a stopped one.
//! - A traversal never waits for such a lock. It skips a locked object in each pass, since no
//!   other thread runs until the collector has decided.

use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit, ffi};

/// Holds one strong reference or none.
///
/// A slot is changed by swapping its pointer, so each reference has exactly one owner at any time.
/// Reading without taking is safe only while no other thread takes: see above.
#[derive(Default)]
pub(crate) struct Slot(AtomicPtr<ffi::PyObject>);

impl Slot {
    pub(crate) const fn empty() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Whether the slot holds `object`.
    pub(crate) fn is(&self, object: &Bound<'_, PyAny>) -> bool {
        // Relaxed: an address is compared, and nothing is read behind it. It is not the address of
        // a former object. That was taken before it was freed, and freed before its memory became
        // `object`, so this thread sees the later value.
        self.0.load(Ordering::Relaxed) == object.as_ptr()
    }

    pub(crate) fn new(object: Bound<'_, PyAny>) -> Self {
        Self(AtomicPtr::new(object.into_ptr()))
    }

    /// Takes a new reference to the object behind a borrowed pointer.
    ///
    /// # Safety
    ///
    /// `object` is a live Python object and the thread is attached.
    pub(super) unsafe fn borrowed(object: *mut ffi::PyObject) -> Self {
        // SAFETY: the caller guarantees a live object and an attached thread.
        unsafe { ffi::Py_INCREF(object) };
        Self(AtomicPtr::new(object))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed).is_null()
    }

    pub(crate) fn take<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.swap(py, ptr::null_mut())
    }

    /// Puts `object` in; returns the previous object.
    pub(crate) fn put<'py>(&self, object: Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let py = object.py();
        self.swap(py, object.into_ptr())
    }

    /// Puts `object` in if the slot is empty; otherwise returns it.
    pub(crate) fn fill<'py>(&self, object: Bound<'py, PyAny>) -> Result<(), Bound<'py, PyAny>> {
        // Release: hands the object's contents over together with the pointer. Relaxed: an object
        // already there is not read.
        let filled = self.0.compare_exchange(
            ptr::null_mut(),
            object.as_ptr(),
            Ordering::Release,
            Ordering::Relaxed,
        );
        if filled.is_err() {
            return Err(object);
        }
        // The slot owns the reference now.
        std::mem::forget(object);
        Ok(())
    }

    fn swap<'py>(&self, py: Python<'py>, new: *mut ffi::PyObject) -> Option<Bound<'py, PyAny>> {
        // AcqRel: hands the object's contents over together with the pointer.
        let old = self.0.swap(new, Ordering::AcqRel);
        // SAFETY: the slot owned one reference to `old`, which the swap took from it.
        unsafe { Bound::from_owned_ptr_or_opt(py, old) }
    }

    /// A new reference to the object, which no thread may take meanwhile: see above.
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        // Acquire pairs with the swap that put the object in.
        let object = self.0.load(Ordering::Acquire);
        // SAFETY: the slot owns a reference, and by this function's rule keeps it
        // until the new one is made.
        unsafe { Bound::from_borrowed_ptr_or_opt(py, object) }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(object) = NonNull::new(self.0.load(Ordering::Acquire)) else {
            return Ok(());
        };
        // SAFETY: a traversal runs attached, and the token is used for nothing else. The
        // slot owns a reference to `object`, so it is alive; the wrapper is never dropped,
        // so the count stays as it is, as a traversal demands.
        let object = ManuallyDrop::new(unsafe {
            Bound::from_owned_ptr(Python::assume_attached(), object.as_ptr()).unbind()
        });
        visit.call(&*object)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(object) = NonNull::new(*self.0.get_mut()) else {
            return;
        };
        // SAFETY: a slot lives in a Python object, or in one that is about to be made, so it is
        // dropped attached. It owned the reference, and nothing else can reach the slot any more.
        // Code that the object's end runs may end this thread, which then goes no further: see
        // `super::ending`.
        drop(unsafe { Bound::from_owned_ptr(Python::assume_attached(), object.as_ptr()) });
    }
}
