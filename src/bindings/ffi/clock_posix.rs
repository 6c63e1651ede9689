//! The processor time of a thread, on systems with POSIX clocks of threads.

use std::time::Duration;

/// A thread's clock; readable until the thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The calling thread's clock, where the system has one.
    pub(crate) fn of_this_thread() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: the calling thread is alive, and the result is written to a local.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        (failed == 0).then_some(Self(clock))
    }

    /// Processor time used so far; `None` once the thread has ended.
    pub(crate) fn read(self) -> Option<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the time is written to a local; a clock whose thread has ended is refused
        // with an error.
        let failed = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        let seconds = u64::try_from(time.tv_sec).ok()?;
        let nanoseconds = u32::try_from(time.tv_nsec).ok()?;
        (failed == 0).then(|| Duration::new(seconds, nanoseconds))
    }
}
