//! What each process has one of, made at first use.

use once_cell::race::OnceBox;

use crate::bindings::ffi::fork::generation;

/// That of a process that this one was forked from is never touched again: a lock in there may be
/// held for ever, by a thread that is not here.
pub(crate) struct PerProcess<T>(OnceBox<Own<T>>);

struct Own<T> {
    generation: u32,
    value: T,
    /// That of a process forked from this one.
    next: PerProcess<T>,
}

impl<T: Default> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(OnceBox::new())
    }

    /// This process's.
    pub(crate) fn get(&self) -> &T {
        let fresh = || {
            Box::new(Own {
                generation: generation(),
                value: T::default(),
                next: Self::new(),
            })
        };
        // `OnceBox` has no state in between that a fork could freeze.
        let mut own = self.0.get_or_init(fresh);
        while own.generation != generation() {
            own = own.next.0.get_or_init(fresh);
        }
        &own.value
    }
}
