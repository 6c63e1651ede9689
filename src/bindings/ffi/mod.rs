//! The only module with `unsafe`: safe functions for operations that PyO3 does not offer safely.
#![allow(unsafe_code)]

#[cfg(target_vendor = "apple")]
mod clock_apple;
#[cfg(not(target_vendor = "apple"))]
mod clock_posix;
#[cfg(threads_unwind)]
mod ending;

pub(crate) mod arguments;
pub(crate) mod attach;
pub(crate) mod call;
pub(crate) mod clock;
pub(crate) mod context;
pub(crate) mod cpython;
pub(crate) mod exit;
pub(crate) mod fork;
pub(crate) mod gil;
pub(crate) mod interrupt;
pub(crate) mod lock;
pub(crate) mod object;
pub(crate) mod packed;
pub(crate) mod parent;
pub(crate) mod slot;
