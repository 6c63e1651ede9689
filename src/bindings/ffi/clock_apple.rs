//! The processor time of a thread, from Apple's kernel: threads have no clocks there.

use std::time::Duration;

/// A thread's name in the kernel; readable until the thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadClock(libc::mach_port_t);

impl ThreadClock {
    #[expect(clippy::unnecessary_wraps, reason = "as on other systems")]
    pub(crate) fn of_this_thread() -> Option<Self> {
        // SAFETY: the calling thread is alive; its name is its own, and is not to be freed.
        Some(Self(unsafe {
            libc::pthread_mach_thread_np(libc::pthread_self())
        }))
    }

    /// Processor time used so far; `None` once the thread has ended.
    pub(crate) fn read(self) -> Option<Duration> {
        let none = libc::time_value_t {
            seconds: 0,
            microseconds: 0,
        };
        let mut info = libc::thread_basic_info {
            user_time: none,
            system_time: none,
            cpu_usage: 0,
            policy: 0,
            run_state: 0,
            flags: 0,
            suspend_count: 0,
            sleep_time: 0,
        };
        let mut count = libc::THREAD_BASIC_INFO_COUNT;
        // SAFETY: the answer is written to a local of `count` integers; the name of a thread that
        // has ended is refused with an error.
        let answer = unsafe {
            libc::thread_info(
                self.0,
                libc::THREAD_BASIC_INFO.cast_unsigned(),
                (&raw mut info).cast(),
                &raw mut count,
            )
        };
        let part = |time: libc::time_value_t| {
            let seconds = Duration::from_secs(u64::try_from(time.seconds).ok()?);
            let micros = Duration::from_micros(u64::try_from(time.microseconds).ok()?);
            Some(seconds + micros)
        };
        (answer == libc::KERN_SUCCESS).then_some(())?;
        Some(part(info.user_time)? + part(info.system_time)?)
    }
}
