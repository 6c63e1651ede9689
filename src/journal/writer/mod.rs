//! The writer thread.

pub(crate) mod follow;
pub(crate) mod look;
pub(crate) mod state;
pub(crate) mod thread;
