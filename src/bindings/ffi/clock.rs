//! The system's clocks: the time, and the processor time of a thread, readable from another one.

#[cfg(target_vendor = "apple")]
pub(crate) use super::clock_apple::ThreadClock;
#[cfg(not(target_vendor = "apple"))]
pub(crate) use super::clock_posix::ThreadClock;

/// Nanoseconds since 1970.
///
/// Called three times per task: the standard library takes five times as many instructions.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time is written to a local. It cannot fail: every system has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time) };
    let part = |part| u64::try_from(part).unwrap_or(0);
    // 0 stands for no time.
    (part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)).max(1)
}
