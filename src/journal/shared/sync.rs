//! Locks and conditions, so that loom can replace them.

pub(crate) use flask_delay_engine::Mutex;

#[cfg(not(loom))]
mod imp {
    use std::sync::{Condvar, MutexGuard, PoisonError};
    use std::time::Duration;

    /// The standard condition without poison.
    #[derive(Default)]
    pub(crate) struct Bell(Condvar);

    impl Bell {
        pub(crate) fn ring(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits for at most `limit`.
        pub(crate) fn wait_for<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            limit: Duration,
        ) -> MutexGuard<'a, T> {
            let waited = self.0.wait_timeout(guard, limit);
            waited.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

#[cfg(loom)]
mod imp {
    use std::time::Duration;

    use loom::sync::{Condvar, MutexGuard};

    pub(crate) struct Bell(Condvar);

    impl Default for Bell {
        fn default() -> Self {
            Self(Condvar::new())
        }
    }

    impl Bell {
        pub(crate) fn ring(&self) {
            self.0.notify_all();
        }

        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
            self.0
                .wait(guard)
                .expect("no panic happens under this lock")
        }

        /// loom has no clock: the limit is ignored.
        pub(crate) fn wait_for<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            _limit: Duration,
        ) -> MutexGuard<'a, T> {
            self.wait(guard)
        }
    }
}

pub(crate) use imp::Bell;
