//! The file and those beside it: system calls, locks between processes, layout.

pub(crate) mod filesystem;
pub(crate) mod layout;
pub(crate) mod liveness;
pub(crate) mod migrate;
pub(crate) mod schema;
pub(crate) mod transaction;
pub(crate) mod trouble;
pub(crate) mod turnstile;
#[allow(unsafe_code, reason = "the one module with it")]
pub(crate) mod vfs;
pub(crate) mod wakeup;
