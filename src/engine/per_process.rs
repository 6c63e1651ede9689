//! One value for each process of a fork.
//!
//! The values of parent processes are never touched again: a lock in them may be held forever, by a
//! thread that does not exist here.

use std::iter::successors;
// Not loom's: a model has no fork.
use std::sync::atomic::{AtomicU32, Ordering};

use once_cell::race::OnceBox;

/// How many forks lie between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// This process's generation. A pool or a pending future of another generation belongs to another
/// process.
#[inline]
pub fn generation() -> u32 {
    // Relaxed: changed only in a new process, before it has a second thread.
    GENERATION.load(Ordering::Relaxed)
}

/// Begins a generation: for a process that has just been forked.
pub fn begin_generation() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// One value for each process; the first process's is given at the start.
pub struct PerProcess<T> {
    generation: u32,
    value: T,
    /// The value of a process forked from this one. `OnceBox` has no intermediate state that a fork
    /// could freeze.
    next: OnceBox<Self>,
}

impl<T> PerProcess<T> {
    /// Takes the value of this process.
    pub fn new(value: T) -> Self {
        Self {
            generation: generation(),
            value,
            next: OnceBox::new(),
        }
    }

    /// This process's value, if it has one.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.chain().find(|it| it.is_own()).map(|it| &it.value)
    }

    /// This process's value, which `make` makes if it has none.
    pub fn get_or_init(&self, mut make: impl FnMut() -> T) -> &T {
        let mut own = self;
        while !own.is_own() {
            own = own.next.get_or_init(|| Box::new(Self::new(make())));
        }
        &own.value
    }

    /// The values of this process's ancestors, the first process's first.
    pub fn inherited(&self) -> impl Iterator<Item = &T> {
        self.chain().filter(|it| !it.is_own()).map(|it| &it.value)
    }

    fn is_own(&self) -> bool {
        self.generation == generation()
    }

    fn chain(&self) -> impl Iterator<Item = &Self> {
        successors(Some(self), |it| it.next.get())
    }
}

/// One value for each process, made at first use.
pub struct LazyPerProcess<T>(OnceBox<PerProcess<T>>);

impl<T> LazyPerProcess<T> {
    /// Without a value.
    #[must_use]
    pub const fn new() -> Self {
        Self(OnceBox::new())
    }

    /// This process's value, if it has one.
    pub fn get(&self) -> Option<&T> {
        self.0.get()?.get()
    }

    /// This process's value, which `make` makes if it has none.
    pub fn get_or_init(&self, mut make: impl FnMut() -> T) -> &T {
        let first = self.0.get_or_init(|| Box::new(PerProcess::new(make())));
        first.get_or_init(make)
    }

    /// The values of this process's ancestors, the first process's first.
    pub fn inherited(&self) -> impl Iterator<Item = &T> {
        self.0.get().into_iter().flat_map(PerProcess::inherited)
    }
}

impl<T> Default for LazyPerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}
