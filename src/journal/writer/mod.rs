//! The writer thread.

pub(crate) mod follow;
pub(crate) mod look;
pub(crate) mod thread;
