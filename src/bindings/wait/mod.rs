//! Blocking until a task ends, with refusal of circular waits.

pub(crate) mod current;
pub(crate) mod result;
pub(crate) mod stdlib;
pub(crate) mod stream;
