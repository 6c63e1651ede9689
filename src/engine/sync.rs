//! All threads, locks and atomics, so that loom can replace them.

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::sync::Arc;
    // Not parking_lot's: its waiting threads are in one table of the whole process, and a forked
    // child would find its parent's there.
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
    pub(crate) use std::sync::{Condvar, MutexGuard};
    use std::sync::{PoisonError, TryLockError};
    pub(crate) use std::thread::{Thread, current};
    use std::time::{Duration, Instant};

    /// How often a spinning thread checks its condition between two readings of the clock.
    const LOOKS: u32 = 64;
    /// After this long it yields its processor between its checks.
    const ALONE: Duration = Duration::from_micros(4);

    /// Spins until `done()` is true, which it returns, or `limit` is over.
    pub fn spin(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
        if limit.is_zero() {
            return done();
        }
        let began = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if done() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let spent = began.elapsed();
            if spent >= limit {
                return false;
            }
            if spent >= ALONE {
                std::thread::yield_now();
            }
        }
    }

    /// Whether no more than `limit` has passed since `began`.
    pub(crate) fn within(began: Instant, limit: Duration) -> bool {
        began.elapsed() < limit
    }

    /// Starts a thread.
    pub(crate) fn spawn(
        name: String,
        stack_size: usize,
        main: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        std::thread::Builder::new()
            .name(name)
            .stack_size(stack_size)
            .spawn(main)
            .map(drop)
    }

    /// Sleeps until `me`, the calling thread, is unparked, or spuriously; `false` when `deadline`
    /// has passed.
    pub(crate) fn park(_me: &Thread, deadline: Option<Instant>) -> bool {
        let Some(deadline) = deadline else {
            std::thread::park();
            return true;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::park_timeout(left);
        true
    }

    /// Waits for `bell` until `deadline`, or without limit; returns the guard.
    pub(crate) fn wait<'a, T>(
        bell: &Condvar,
        guard: MutexGuard<'a, T>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'a, T> {
        match deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let waited = bell.wait_timeout(guard, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => bell.wait(guard).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The standard mutex without poison: what it guards is never left half done.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// A mutex around `value`.
        pub const fn new(value: T) -> Self {
            Self(std::sync::Mutex::new(value))
        }

        /// Locks it.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Locks it, unless that would have to wait.
        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            match self.0.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        }
    }
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
    pub(crate) use loom::sync::{Condvar, MutexGuard};
    // Not loom's, which cannot be the type of `self`.
    pub(crate) use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// Checks once more after all other threads had a turn; loom has no clock.
    pub fn spin(_limit: Duration, mut done: impl FnMut() -> bool) -> bool {
        loom::thread::yield_now();
        done()
    }

    /// There is no clock: any limit but zero.
    pub(crate) fn within(_began: Instant, limit: Duration) -> bool {
        !limit.is_zero()
    }

    /// loom's mutex with the signature of the other one: nothing panics under our locks.
    #[derive(Debug)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// A mutex around `value`.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        /// Locks it.
        ///
        /// # Panics
        ///
        /// If a panic happened under the lock.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no panic happens under this lock")
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }
    }

    /// loom's thread, but `unpark` wakes it only out of `park`, not while it waits for a lock.
    /// `does` is written and read without a step of loom's between that and the sleep or the token,
    /// so loom need not know of it.
    pub(crate) struct Thread {
        parker: loom::thread::Thread,
        alarm: loom::sync::Notify,
        does: std::sync::atomic::AtomicU32,
    }

    const WAKES: u32 = 0;
    const SLEEPS: u32 = 1;
    const NAPS: u32 = 2;

    impl Thread {
        pub(crate) fn unpark(&self) {
            match self.does.load(Ordering::Relaxed) {
                SLEEPS => self.parker.unpark(),
                NAPS => self.alarm.notify(),
                _ => {}
            }
        }
    }

    pub(crate) fn current() -> Thread {
        Thread {
            parker: loom::thread::current(),
            alarm: loom::sync::Notify::new(),
            does: std::sync::atomic::AtomicU32::new(WAKES),
        }
    }

    /// loom has no clock, but its `Notify` also tries the spurious wake-up: then `deadline` has
    /// passed.
    pub(crate) fn park(me: &Thread, deadline: Option<Instant>) -> bool {
        if deadline.is_some() {
            me.does.store(NAPS, Ordering::Relaxed);
            me.alarm.wait();
        } else {
            me.does.store(SLEEPS, Ordering::Relaxed);
            loom::thread::park();
        }
        me.does.store(WAKES, Ordering::Relaxed);
        deadline.is_none()
    }

    /// In a model, `stack_size` is the number of threads that the system is willing to start.
    pub(crate) fn spawn(
        name: String,
        stack_size: usize,
        main: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let number = name.rsplit('_').next().and_then(|n| n.parse().ok());
        if number.is_none_or(|number: usize| number >= stack_size) {
            return Err(std::io::Error::other("no more threads in this model"));
        }
        loom::thread::spawn(main);
        Ok(())
    }

    /// loom has no clock: the deadline is ignored.
    pub(crate) fn wait<'a, T>(
        bell: &Condvar,
        guard: MutexGuard<'a, T>,
        _deadline: Option<Instant>,
    ) -> MutexGuard<'a, T> {
        bell.wait(guard).expect("no panic happens under this lock")
    }
}

pub(crate) use imp::*;
pub use imp::{Mutex, spin};
