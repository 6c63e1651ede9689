//! What one process has of a journal, and what it knows.

pub(crate) mod chores;
pub(crate) mod flusher;
pub(crate) mod memory;
pub(crate) mod part;
pub(crate) mod permits;
