//! The process's start and end.

pub(crate) mod exit;
pub(crate) mod init;
pub(crate) mod last_exit;
